//! What edgecore tells a mapper: which devices there are, and what they should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::dmi::device_mapper_service_server::DeviceMapperService;
use protocol::dmi::{
    CreateDeviceModelRequest, CreateDeviceModelResponse, Device, GetDeviceRequest, GetDeviceResponse,
    RegisterDeviceRequest, RegisterDeviceResponse, RemoveDeviceModelRequest, RemoveDeviceModelResponse,
    RemoveDeviceRequest, RemoveDeviceResponse, UpdateDeviceModelRequest, UpdateDeviceModelResponse,
    UpdateDeviceRequest, UpdateDeviceResponse,
};
use tonic::{Request, Response, Status};

use crate::edge::Name;
use crate::thermostat::Thermostat;

/// The devices that this mapper serves.
pub(crate) type Devices = Arc<Mutex<BTreeMap<Name, Thermostat>>>;

/// The service at this mapper's socket.
pub(crate) struct Mapper {
    devices: Devices,
}

impl Mapper {
    pub(crate) const fn new(devices: Devices) -> Self {
        Self { devices }
    }

    /// A device that is new, or has changed: it is made what it should be.
    pub(crate) fn put(&self, device: Device) {
        let mut devices = self.devices.lock();
        let thermostat = devices
            .entry((device.namespace, device.name))
            .or_insert_with(Thermostat::new);
        // `spec.protocol.configData` and `properties[].visitors` say where a real device is.
        for property in device.spec.unwrap_or_default().properties {
            let wanted = property.desired.unwrap_or_default().value;
            // Empty: nobody wants it to be anything.
            if !wanted.is_empty() {
                thermostat.write(&property.name, &wanted);
            }
        }
    }
}

#[tonic::async_trait]
impl DeviceMapperService for Mapper {
    async fn register_device(
        &self,
        request: Request<RegisterDeviceRequest>,
    ) -> Result<Response<RegisterDeviceResponse>, Status> {
        let device = request.into_inner().device.unwrap_or_default();
        let answer = RegisterDeviceResponse {
            device_name: device.name.clone(),
            device_namespace: device.namespace.clone(),
        };
        self.put(device);
        Ok(Response::new(answer))
    }

    async fn update_device(
        &self,
        request: Request<UpdateDeviceRequest>,
    ) -> Result<Response<UpdateDeviceResponse>, Status> {
        self.put(request.into_inner().device.unwrap_or_default());
        Ok(Response::new(UpdateDeviceResponse {}))
    }

    async fn remove_device(
        &self,
        request: Request<RemoveDeviceRequest>,
    ) -> Result<Response<RemoveDeviceResponse>, Status> {
        let request = request.into_inner();
        let name = (request.device_namespace, request.device_name);
        self.devices.lock().remove(&name);
        Ok(Response::new(RemoveDeviceResponse {}))
    }

    // Types and ranges are in the model. edgecore has checked what it sends, so this mapper needs none.
    async fn create_device_model(
        &self,
        request: Request<CreateDeviceModelRequest>,
    ) -> Result<Response<CreateDeviceModelResponse>, Status> {
        let model = request.into_inner().model.unwrap_or_default();
        Ok(Response::new(CreateDeviceModelResponse {
            device_model_name: model.name,
            device_model_namespace: model.namespace,
        }))
    }

    async fn update_device_model(
        &self,
        _: Request<UpdateDeviceModelRequest>,
    ) -> Result<Response<UpdateDeviceModelResponse>, Status> {
        Ok(Response::new(UpdateDeviceModelResponse {}))
    }

    async fn remove_device_model(
        &self,
        _: Request<RemoveDeviceModelRequest>,
    ) -> Result<Response<RemoveDeviceModelResponse>, Status> {
        Ok(Response::new(RemoveDeviceModelResponse {}))
    }

    async fn get_device(&self, _: Request<GetDeviceRequest>) -> Result<Response<GetDeviceResponse>, Status> {
        Err(Status::unimplemented("edgecore never asks"))
    }
}
