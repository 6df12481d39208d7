//! edgecore, as a mapper calls it.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use protocol::dmi::device_manager_service_client::DeviceManagerServiceClient;
use protocol::dmi::{
    Device, DeviceStatus, MapperInfo, MapperRegisterRequest, ReportDeviceStatusRequest, Twin, TwinProperty,
};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// A device's namespace and name.
pub(crate) type Name = (String, String);

/// edgecore behind its socket. One connection, made anew when it breaks.
pub(crate) struct Edge(DeviceManagerServiceClient<Channel>);

impl Edge {
    /// Dials on the first call.
    pub(crate) fn dial(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is never dialled: the connector knows the socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self(DeviceManagerServiceClient::new(channel))
    }

    /// Says where this mapper listens; the answer is what devices there are. edgecore remembers it, so
    /// once is enough.
    pub(crate) async fn register(&self, protocol: &str, socket: &Path) -> Result<Vec<Device>, Status> {
        let request = MapperRegisterRequest {
            with_data: true,
            mapper: Some(MapperInfo {
                name: "example-mapper".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                api_version: "v1beta1".to_owned(),
                protocol: protocol.to_owned(),
                address: socket.display().to_string().into_bytes(),
                state: "ok".to_owned(),
            }),
        };
        Ok(self
            .0
            .clone()
            .mapper_register(request)
            .await?
            .into_inner()
            .device_list)
    }

    /// Says what a device is. When this returns, edgecore has it.
    pub(crate) async fn report(
        &self,
        (namespace, name): &Name,
        values: &[(&'static str, String)],
    ) -> Result<(), Status> {
        let twin = |(property, value): &(&'static str, String)| Twin {
            property_name: (*property).to_owned(),
            observed_desired: None,
            reported: Some(TwinProperty {
                value: value.clone(),
                ..Default::default()
            }),
        };
        let request = ReportDeviceStatusRequest {
            device_name: name.clone(),
            device_namespace: namespace.clone(),
            reported_device: Some(DeviceStatus {
                twins: values.iter().map(twin).collect(),
                ..Default::default()
            }),
        };
        self.0.clone().report_device_status(request).await.map(drop)
    }
}
