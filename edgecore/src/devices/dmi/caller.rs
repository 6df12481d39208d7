//! Calls of a mapper, on its own socket.
//!
//! One connection a call: calls are rare, and a mapper that started again is met at once. A mapper that
//! hangs costs its own session the call's deadline and nobody else anything.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use protocol::devices::DeviceName;
use protocol::dmi::device_mapper_service_client::DeviceMapperServiceClient;
use protocol::dmi::{self};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::service_fn;

/// How long a mapper may take for one call; what existing mappers are used to.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may take: a process that lives takes it at once.
const DIAL_DEADLINE: Duration = Duration::from_millis(200);

/// One call with what it carries.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    CreateModel(dmi::DeviceModel),
    UpdateModel(dmi::DeviceModel),
    RemoveModel(DeviceName),
    Register(dmi::Device),
    Update(dmi::Device),
    Remove(DeviceName),
}

/// Why a call did nothing, as far as is known.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// Nobody listens.
    #[error("its socket does not answer")]
    Unreachable(#[source] io::Error),
    /// It said no.
    #[error("it refused: {}", .0.message())]
    Refused(Box<Status>),
    /// It said nothing.
    #[error("it did not answer within {DEADLINE:?}")]
    Silent,
}

/// A mapper that can be called. What tests replace.
pub(super) trait Caller: Send + Sync + 'static {
    /// Makes one call.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<(), CallError>>;
    /// Whether its socket answers.
    fn answers(&self) -> BoxFuture<'_, bool>;
}

/// A mapper behind a unix socket.
pub(super) struct Socket(pub(super) PathBuf);

impl Caller for Socket {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let stream = dial(&self.0).await.map_err(|error| {
                if nobody_listens(&error) {
                    CallError::Unreachable(error)
                } else {
                    CallError::Silent
                }
            })?;
            let answer = timeout(DEADLINE, speak(stream, call)).await;
            match answer.map_err(|_| CallError::Silent)? {
                Ok(()) => Ok(()),
                Err(status) => Err(CallError::Refused(Box::new(status))),
            }
        })
    }

    fn answers(&self) -> BoxFuture<'_, bool> {
        Box::pin(answers(&self.0))
    }
}

/// Whether somebody listens at a socket.
pub(super) async fn answers(socket: &Path) -> bool {
    dial(socket)
        .await
        .err()
        .is_none_or(|error| !nobody_listens(&error))
}

/// A full queue of connections is an answer: somebody is there, and hangs.
fn nobody_listens(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    let kinds = [
        ConnectionRefused,
        InvalidInput,
        NotADirectory,
        NotFound,
        PermissionDenied,
    ];
    kinds.contains(&error.kind())
}

async fn dial(socket: &Path) -> io::Result<UnixStream> {
    timeout(DIAL_DEADLINE, UnixStream::connect(socket))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn speak(stream: UnixStream, call: Call) -> Result<(), Status> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| {
        let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
        async move { stream.map_err(io::Error::from) }
    });
    // The address is never dialled: the connector has the connection.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|error| Status::from_error(Box::new(error)))?;
    let mut mapper = DeviceMapperServiceClient::new(channel);
    match call {
        Call::CreateModel(model) => {
            let model = Some(model);
            drop(
                mapper
                    .create_device_model(dmi::CreateDeviceModelRequest { model })
                    .await?,
            );
        }
        Call::UpdateModel(model) => {
            let model = Some(model);
            drop(
                mapper
                    .update_device_model(dmi::UpdateDeviceModelRequest { model })
                    .await?,
            );
        }
        Call::Register(device) => {
            let device = Some(device);
            drop(
                mapper
                    .register_device(dmi::RegisterDeviceRequest { device })
                    .await?,
            );
        }
        Call::Update(device) => {
            let device = Some(device);
            drop(mapper.update_device(dmi::UpdateDeviceRequest { device }).await?);
        }
        Call::Remove(DeviceName { namespace, name }) => {
            let request = dmi::RemoveDeviceRequest {
                device_name: name,
                device_namespace: namespace,
            };
            gone(mapper.remove_device(request).await.map(drop))?;
        }
        Call::RemoveModel(DeviceName { namespace, name }) => {
            let request = dmi::RemoveDeviceModelRequest {
                model_name: name,
                model_namespace: namespace,
            };
            gone(mapper.remove_device_model(request).await.map(drop))?;
        }
    }
    Ok(())
}

/// What is not there need not be removed.
fn gone(answer: Result<(), Status>) -> Result<(), Status> {
    answer.or_else(|status| {
        if status.code() == Code::NotFound {
            Ok(())
        } else {
            Err(status)
        }
    })
}
