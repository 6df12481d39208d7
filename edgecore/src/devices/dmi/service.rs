//! `DeviceManagerService`: what mappers tell edgecore.
//!
//! A report is answered when it is as durable as it must be, or not at all: a mapper gives up after a second,
//! so whoever cannot be served by then hears so before. What may be absent in a message may be absent here.

use std::sync::Arc;
use std::time::Duration;

use protocol::devices::{DeviceName, DeviceState};
use protocol::dmi::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use protocol::dmi::{self};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::devices::{Clue, Observation, Origin, Refused, Report, Seen, Twins};

/// How long a reply may take; mappers wait a second.
const REPLY_WITHIN: Duration = Duration::from_millis(800);
/// Calls that are worked on at a time.
const CALLS: usize = 1024;
/// The largest message of a mapper: all values of a device, and their metadata.
const MESSAGE_LIMIT: usize = 1 << 20;
/// Where existing mappers' devices are that name no namespace.
const NAMESPACE: &str = "default";

/// A mapper that wants to register, and who waits for the answer.
pub(super) struct Registering {
    /// The mapper.
    pub(super) mapper: dmi::MapperInfo,
    /// Whether the answer is to hold its devices.
    pub(super) with_data: bool,
    /// The answer.
    pub(super) reply: oneshot::Sender<Result<dmi::MapperRegisterResponse, Status>>,
}

/// The service, as tonic serves it.
pub(super) struct Service {
    twins: Arc<dyn Twins>,
    registering: mpsc::Sender<Registering>,
    room: Semaphore,
}

impl Service {
    pub(super) fn server(
        twins: Arc<dyn Twins>,
        registering: mpsc::Sender<Registering>,
    ) -> DeviceManagerServiceServer<Self> {
        let service = Self {
            twins,
            registering,
            room: Semaphore::new(CALLS),
        };
        DeviceManagerServiceServer::new(service).max_decoding_message_size(MESSAGE_LIMIT)
    }

    fn admit(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.room
            .try_acquire()
            .map_err(|_| Status::unavailable("too many reports are being stored"))
    }
}

#[tonic::async_trait]
impl DeviceManagerService for Service {
    async fn mapper_register(
        &self,
        request: Request<dmi::MapperRegisterRequest>,
    ) -> Result<Response<dmi::MapperRegisterResponse>, Status> {
        let request = request.into_inner();
        let mapper = request
            .mapper
            .ok_or_else(|| Status::invalid_argument("a registration without a mapper"))?;
        let (reply, answer) = oneshot::channel();
        let registering = Registering {
            mapper,
            with_data: request.with_data,
            reply,
        };
        let answered = timeout(REPLY_WITHIN, async {
            self.registering.send(registering).await.ok()?;
            answer.await.ok()
        });
        match answered.await {
            Ok(Some(answer)) => answer.map(Response::new),
            Ok(None) => Err(Status::unavailable("edgecore is stopping")),
            Err(_) => Err(late()),
        }
    }

    async fn report_device_status(
        &self,
        request: Request<dmi::ReportDeviceStatusRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatusResponse>, Status> {
        let _place = self.admit()?;
        let report = report(request.into_inner());
        if report.seen.is_empty() {
            return if self.twins.standing(&report.device).is_some() {
                Ok(Response::new(dmi::ReportDeviceStatusResponse {}))
            } else {
                Err(refusal(&Refused::UnknownDevice(report.device)))
            };
        }
        match timeout(REPLY_WITHIN, self.twins.report(report)).await {
            Ok(Ok(_)) => Ok(Response::new(dmi::ReportDeviceStatusResponse {})),
            Ok(Err(refused)) => Err(refusal(&refused)),
            Err(_) => Err(late()),
        }
    }

    async fn report_device_states(
        &self,
        request: Request<dmi::ReportDeviceStatesRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatesResponse>, Status> {
        let _place = self.admit()?;
        let request = request.into_inner();
        let state = DeviceState::from_name(&request.state.to_ascii_lowercase())
            .ok_or_else(|| Status::invalid_argument(format!("there is no state {:?}", request.state)))?;
        let device = named(request.device_namespace, request.device_name);
        match timeout(REPLY_WITHIN, self.twins.state(device, state)).await {
            Ok(Ok(_)) => Ok(Response::new(dmi::ReportDeviceStatesResponse {})),
            Ok(Err(refused)) => Err(refusal(&refused)),
            Err(_) => Err(late()),
        }
    }
}

/// What a mapper saw. What it believes to be desired is an echo of what it was told, and nothing to go by.
fn report(request: dmi::ReportDeviceStatusRequest) -> Report {
    let twins = request.reported_device.unwrap_or_default().twins;
    let seen = twins.into_iter().filter_map(|twin| {
        let reported = twin.reported?;
        let said = |key: &str| {
            reported
                .metadata
                .get(key)
                .filter(|said| !said.is_empty())
                .cloned()
        };
        Some(Seen {
            property: twin.property_name,
            clue: Clue {
                device_timestamp: said("timestamp"),
                type_: said("type"),
                ..Clue::default()
            },
            observation: Observation::Value(reported.value),
        })
    });
    Report {
        device: named(request.device_namespace, request.device_name),
        seen: seen.collect(),
        event_id: String::new(),
        origin: Origin::Mapper,
    }
}

fn named(namespace: String, name: String) -> DeviceName {
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    DeviceName::new(namespace.unwrap_or_else(|| NAMESPACE.to_owned()), name)
}

fn late() -> Status {
    Status::unavailable("not stored in time")
}

fn refusal(refused: &Refused) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::UnknownDevice(_) => Status::not_found(text),
        Refused::TooLarge { .. } | Refused::BadWish { .. } => Status::invalid_argument(text),
        Refused::Unavailable(_) => Status::unavailable(text),
    }
}

#[cfg(test)]
mod tests;
