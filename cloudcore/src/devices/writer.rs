//! Writes the reports of one session's devices.
//!
//! ```text
//! report ──► wait: 1/s of the device, 20/s of the node, 500/s of the replica ──► judge
//!    ──► known revision? ── no ──► read the status, then the Lease ──► patch or create
//!                  `── yes ──► patch ──conflict──^
//! ```
//!
//! **Invariant:** a write names the revision that it goes over. What is not this session's own is read
//! before, and the Lease after that, so that an older session never writes over a newer one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use protocol::devices::{API_VERSION, Device, DeviceIdentity};
use protocol::name::NodeName;
use protocol::object::{Digest, Kind, ObjectKey};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Devices;
use super::events::About;
use super::judge::{Found, Verdict, judge};
use super::pace::DevicePace;
use super::report::{Base, Report, created, patched, state_patch, twins};
use crate::cluster::{Actor, ApiError, Call, Content, KnownDevice, WriteError, status_entry};
use crate::reported::Shown;

/// How long a value that did not change is not written again, though it was seen again.
const UNCHANGED: Duration = Duration::from_mins(1);
/// Conflicts in a row after which the outbox may try again later.
const TRIES: usize = 3;

/// What this session wrote last of one device.
#[derive(Clone, Debug)]
struct Written {
    base: Base,
    whole: Digest,
    values: Digest,
    at: Instant,
}

#[derive(Debug, Default)]
struct Past {
    pace: DevicePace,
    written: Option<Written>,
}

/// The devices of one session.
pub struct DeviceWriter {
    devices: Devices,
    node: NodeName,
    /// Of devices that exist, or did in this session: as many as the node was given.
    past: Mutex<BTreeMap<String, Past>>,
}

impl Devices {
    /// A writer for a session of a node.
    pub fn writer(&self, node: NodeName) -> DeviceWriter {
        DeviceWriter {
            devices: self.clone(),
            node,
            past: Mutex::default(),
        }
    }
}

fn key_of(device: &DeviceIdentity) -> ObjectKey {
    ObjectKey::new(Kind::Device, &device.namespace, &device.name)
}

/// The path of an object of one of our kinds.
pub(super) fn path(key: &ObjectKey, plural: &str) -> String {
    format!(
        "/apis/{API_VERSION}/namespaces/{}/{plural}/{}",
        key.namespace, key.name
    )
}

impl DeviceWriter {
    /// What the cluster shows of a device, as far as this session wrote it.
    pub fn shown(&self, device: &DeviceIdentity, payload: &[u8]) -> Shown {
        let cluster = &self.devices.inner.cluster;
        let known = cluster.known_device(&key_of(device));
        let known = known.filter(|known| judge(Some(found(known)), device, &self.node) == Verdict::Fits);
        let Some((known, (spec, _))) =
            known.and_then(|known| Some((known, cluster.read_device(&key_of(device))?)))
        else {
            return Shown::Nothing;
        };
        let Ok(report) = Report::read(payload, &spec) else {
            return Shown::Nothing;
        };
        let past = self.past.lock();
        let written = past.get(&device.uid).and_then(|past| past.written.as_ref());
        let there =
            written.filter(|written| known.status.is_some_and(|status| status.uid == written.base.uid));
        compare(&report, there, Instant::now())
    }

    /// Writes a report, as soon as its turn has come.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point: what was not answered is reported again.
    pub async fn write(&self, device: &DeviceIdentity, payload: &[u8]) -> Result<(), WriteError> {
        let due = self
            .past
            .lock()
            .get(&device.uid)
            .map(|past| past.pace.due(Instant::now()));
        if let Some(due) = due {
            sleep_until(due).await;
        }
        self.devices.inner.turns.turn(&self.node).await;
        let (known, spec) = self.admit(device).await?;
        let report = Report::read(payload, &spec).map_err(|text| WriteError::Unreadable {
            what: format!("device {}/{}", device.namespace, device.name),
            text,
        })?;
        let base = self.write_status(&known, &report).await?;
        self.wrote(device, base, &report);
        self.show_state(&known, &report).await;
        Ok(())
    }

    /// The device, if it is this node's to report of. What a watch says against a node is asked again:
    /// it may lag behind the one that told the node.
    async fn admit(&self, device: &DeviceIdentity) -> Result<(KnownDevice, Device), WriteError> {
        let cluster = &self.devices.inner.cluster;
        let key = key_of(device);
        if !cluster.has_devices() {
            return Err(WriteError::Unlisted { what: "devices" });
        }
        if let Some(known) = cluster.known_device(&key)
            && judge(Some(found(&known)), device, &self.node) == Verdict::Fits
            && let Some((spec, _)) = cluster.read_device(&key)
        {
            return Ok((known, spec));
        }
        if !crate::cluster::is_path_segment(&key.namespace) || !crate::cluster::is_path_segment(&key.name) {
            return Err(WriteError::Gone { what: named(device) });
        }
        let now: Option<Device> = match cluster
            .api()
            .call_as(Actor::Cloudcore, Call::get(path(&key, "devices")))
            .await
        {
            Ok(now) => Some(now),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        self.judge_now(device, &key, now)
    }

    fn judge_now(
        &self,
        device: &DeviceIdentity,
        key: &ObjectKey,
        now: Option<Device>,
    ) -> Result<(KnownDevice, Device), WriteError> {
        let uid = now
            .as_ref()
            .and_then(|now| now.metadata.uid.clone())
            .unwrap_or_default();
        let node = now
            .as_ref()
            .and_then(|now| now.spec.node_name.clone())
            .unwrap_or_default();
        let there = now.as_ref().map(|_| Found {
            uid: &uid,
            node: &node,
        });
        let error = match (judge(there, device, &self.node), now) {
            (Verdict::Fits, Some(spec)) => {
                let cluster = &self.devices.inner.cluster;
                let model = spec
                    .model_name()
                    .map(|name| ObjectKey::new(Kind::DeviceModel, &key.namespace, name));
                let known = KnownDevice {
                    key: key.clone(),
                    state: spec.status.as_ref().and_then(|status| status.state.clone()),
                    status: cluster.known_device(key).and_then(|known| known.status),
                    content: (Digest::of(b""), None),
                    is_here: true,
                    uid,
                    node,
                    model,
                };
                return Ok((known, spec));
            }
            (Verdict::Fits | Verdict::Gone, _) => WriteError::Gone { what: named(device) },
            (Verdict::AnotherUid(found), _) => WriteError::AnotherUid {
                what: named(device),
                found,
            },
            (Verdict::AnotherNode(node), _) => WriteError::AnotherNode {
                what: named(device),
                node,
            },
        };
        self.refuse(device, &uid, &error);
        self.past.lock().remove(&device.uid);
        Err(error)
    }

    /// Says on the Device, or on the Node where there is none, that a report was refused.
    fn refuse(&self, device: &DeviceIdentity, uid_now: &str, error: &WriteError) {
        debug!(node = %self.node, %error, "a device's report is refused");
        let about = if uid_now.is_empty() {
            About::node(&self.node)
        } else {
            About::device(&key_of(device), uid_now)
        };
        let message = format!("node {} reports of it: {error}", self.node);
        self.devices.inner.events.say(about, "ReportRefused", &message);
    }

    async fn write_status(&self, device: &KnownDevice, report: &Report) -> Result<Base, WriteError> {
        let mut last = None;
        let mut base = self.own_base(&device.uid);
        for _ in 0..TRIES {
            let (over, adopt) = match base.take() {
                Some(base) => (Some(base), false),
                None => self.read_base(device).await?,
            };
            let (report, over) = match over {
                Some(over) if report.leaves_some() => {
                    let (report, over) = self.fill(device, report, over).await?;
                    (report, Some(over))
                }
                over => (Cow::Borrowed(report), over),
            };
            let report = report.as_ref();
            let result = match over {
                Some(over) => self.patch(device, &patched(device, report, &over, adopt)).await,
                None => self.create(device, report).await,
            };
            match result {
                Ok(base) => return Ok(base),
                // Another writer was faster, or it was deleted a moment ago: looked at again.
                Err(WriteError::Api(error)) if is_stale(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.map_or(
            WriteError::Unlisted {
                what: "device statuses",
            },
            not_final,
        ))
    }

    /// The report with the values that it leaves, and the status that they were read from; the Lease is read
    /// after it.
    async fn fill<'a>(
        &self,
        device: &KnownDevice,
        report: &'a Report,
        over: Base,
    ) -> Result<(Cow<'a, Report>, Base), WriteError> {
        let cluster = &self.devices.inner.cluster;
        let call = Call::get(path(&device.key, "devicestatuses"));
        let found = match cluster.api().call(Actor::Cloudcore, call).await {
            Ok(found) => found,
            // The write will find the same.
            Err(error) if error.is_not_found() => return Ok((Cow::Borrowed(report), over)),
            Err(error) => return Err(error.into()),
        };
        cluster.holds_node(&self.node).await?;
        Ok(match Base::of(&found).filter(|base| base.uid == over.uid) {
            Some(base) => (Cow::Owned(report.over(&twins(&found))), base),
            None => (Cow::Borrowed(report), over),
        })
    }

    fn own_base(&self, uid: &str) -> Option<Base> {
        let past = self.past.lock();
        Some(past.get(uid)?.written.as_ref()?.base.clone())
    }

    /// The status as it is now, and whether it has no owner yet; the Lease is read after it.
    async fn read_base(&self, device: &KnownDevice) -> Result<(Option<Base>, bool), WriteError> {
        let cluster = &self.devices.inner.cluster;
        let call = Call::get(path(&device.key, "devicestatuses")).only_metadata();
        let found = match cluster.api().call(Actor::Cloudcore, call).await {
            Ok(found) => Some(found),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        cluster.holds_node(&self.node).await?;
        let Some(found) = found else {
            return Ok((None, false));
        };
        let owner = status_entry(&found)
            .map(|status| status.device)
            .unwrap_or_default();
        if !owner.is_empty() && owner != device.uid {
            // The garbage collector is about to take it away.
            return Err(WriteError::Unlisted {
                what: "the status of an earlier device of that name",
            });
        }
        Ok((Base::of(&found), owner.is_empty()))
    }

    async fn patch(&self, device: &KnownDevice, patch: &serde_json::Value) -> Result<Base, WriteError> {
        let at = path(&device.key, "devicestatuses");
        let call = Call::patch(at, Content::MergePatch, patch.to_string().into_bytes());
        self.request(device, call).await
    }

    async fn create(&self, device: &KnownDevice, report: &Report) -> Result<Base, WriteError> {
        self.request(device, create_call(device, Some(report))).await
    }

    async fn request(&self, device: &KnownDevice, call: Call) -> Result<Base, WriteError> {
        let cluster = &self.devices.inner.cluster;
        let answer = cluster.api().call(Actor::Cloudcore, call.only_metadata()).await?;
        if let Some(status) = status_entry(&answer) {
            cluster.saw_status(&device.key, status);
        }
        Base::of(&answer).ok_or(WriteError::Unlisted {
            what: "the revision of a device status",
        })
    }

    fn wrote(&self, device: &DeviceIdentity, base: Base, report: &Report) {
        let now = Instant::now();
        let mut past = self.past.lock();
        let past = past.entry(device.uid.clone()).or_default();
        past.pace.take(now);
        past.written = Some(Written {
            base,
            whole: report.whole,
            values: report.values,
            at: now,
        });
    }

    /// Shows a state that changed on the Device itself. It is a copy: failing costs the glance alone.
    async fn show_state(&self, device: &KnownDevice, report: &Report) {
        let Some(state) = report
            .state()
            .filter(|state| device.state.as_deref() != Some(*state))
        else {
            return;
        };
        let patch = state_patch(device, state).to_string().into_bytes();
        let call = Call::patch(path(&device.key, "devices"), Content::MergePatch, patch);
        self.devices.inner.turns.turn(&self.node).await;
        let api = self.devices.inner.cluster.api();
        if let Err(error) = api.call(Actor::Cloudcore, call.only_metadata()).await {
            debug!(device = %device.key, error = &error as &dyn std::error::Error, "its state is not shown on the Device");
        }
    }
}

/// The creation of a status.
pub(super) fn create_call(device: &KnownDevice, report: Option<&Report>) -> Call {
    let collection = format!(
        "/apis/{API_VERSION}/namespaces/{}/devicestatuses",
        device.key.namespace
    );
    Call::post(collection, created(device, report).to_string().into_bytes()).only_metadata()
}

const fn found(known: &KnownDevice) -> Found<'_> {
    Found {
        uid: known.uid.as_str(),
        node: known.node.as_str(),
    }
}

fn named(device: &DeviceIdentity) -> String {
    format!("device {}/{}", device.namespace, device.name)
}

/// A status that bears another uid by now is called invalid.
const fn is_stale(error: &ApiError) -> bool {
    error.is_conflict() || error.is_not_found() || error.code() == 422
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

/// What is shown, given what was written last into the status that is there.
fn compare(report: &Report, written: Option<&Written>, now: Instant) -> Shown {
    match written {
        None => Shown::Other(Digest::of(b"none")),
        Some(written) if written.whole == report.whole => Shown::Same,
        Some(written) if written.values == report.values && now - written.at < UNCHANGED => Shown::Same,
        Some(written) => Shown::Other(written.whole),
    }
}
