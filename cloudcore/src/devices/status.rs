//! Writing one `DeviceStatus`: the requests that an [`Attempt`] asks for.

use protocol::devices::API_VERSION;
use serde_json::Value;
use tokio::time::Instant;

use super::attempt::{Ask, Attempt, Earlier};
use super::document::{Base, created};
use super::shown::Written;
use super::writer::{DeviceWriter, path};
use crate::cluster::{Actor, ApiError, Call, Content, KnownDevice, WriteError, status_entry};

impl DeviceWriter {
    /// Writes a report into the status of its device, given what this session wrote last.
    pub(super) async fn write_status(
        &self,
        attempt: &mut Attempt,
        own: Option<&Written>,
    ) -> Result<Written, WriteError> {
        let mut ask = attempt.first(own);
        loop {
            let call = match ask {
                Ask::Look { values } => {
                    let found = self.look(&attempt.device, values).await?;
                    ask = attempt.after_look(found.as_deref()).map_err(earlier)?;
                    continue;
                }
                Ask::Patch(patch) => {
                    let at = path(&attempt.device.key, "devicestatuses");
                    Call::patch(at, Content::MergePatch, patch.to_string().into_bytes())
                }
                Ask::Create(status) => create_call(&attempt.device, &status),
            };
            match self.request(attempt, call).await {
                Ok(base) => return Ok(attempt.written(base)),
                Err(WriteError::Api(error)) => match after_refusal(attempt, &error) {
                    Some(next) => ask = next,
                    None => return Err(not_final(error)),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// The status as it is now; then whether the node, and then whether the device is still ours.
    async fn look(&self, device: &KnownDevice, values: bool) -> Result<Option<Vec<u8>>, WriteError> {
        let cluster = self.cluster();
        let call = Call::get(path(&device.key, "devicestatuses"));
        let call = if values { call } else { call.only_metadata() };
        let found = match cluster.api().call(Actor::Cloudcore, call).await {
            Ok(found) => Some(found.to_vec()),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        cluster.still_ours(self.by()).await?;
        self.ask_whose(&device.identity()).await?;
        Ok(found)
    }

    async fn request(&self, attempt: &Attempt, call: Call) -> Result<Base, WriteError> {
        let cluster = self.cluster();
        let answer = cluster.api().call(Actor::Cloudcore, call.only_metadata()).await?;
        if let Some(mut status) = status_entry(&answer) {
            status.said = Some(attempt.said(Instant::now()));
            cluster.saw_status(&attempt.device.key, status);
        }
        Base::of(&answer).ok_or(WriteError::Unlisted {
            what: "the revision of a device status",
        })
    }
}

const fn earlier(_: Earlier) -> WriteError {
    WriteError::Unlisted {
        what: "the status of an earlier device of that name",
    }
}

/// The creation of a status of a device that has said nothing yet.
pub(super) fn create_empty(device: &KnownDevice) -> Call {
    create_call(device, &created(device, None))
}

fn create_call(device: &KnownDevice, status: &Value) -> Call {
    let collection = format!(
        "/apis/{API_VERSION}/namespaces/{}/devicestatuses",
        device.key.namespace
    );
    Call::post(collection, status.to_string().into_bytes()).only_metadata()
}

/// What to ask next, if the status may only have changed meanwhile.
fn after_refusal(attempt: &mut Attempt, error: &ApiError) -> Option<Ask> {
    match error.code() {
        404 | 409 => attempt.after_conflict(),
        422 => attempt.after_invalid(),
        _ => None,
    }
}

/// That a status or its kind is away is no word about the device.
fn not_final(error: ApiError) -> WriteError {
    if error.is_not_found() {
        WriteError::Unlisted {
            what: "device statuses",
        }
    } else {
        error.into()
    }
}
