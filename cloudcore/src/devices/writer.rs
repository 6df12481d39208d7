//! Writes the reports of one session's devices.
//!
//! ```text
//! report ──► first of its device? ── yes ──► what does the node's status show? ──► shown already: done
//!    ──► wait: 1/s of the device, 20/s of the node, 500/s of the replica ──► judge
//!    ──► known revision? ── no ──► read the status, then the Lease ──► patch or create
//!                  `── yes ──► patch ──conflict──^
//! ```
//!
//! **Invariant:** a write names the revision that it goes over. What is not this session's own is read
//! before, and the Lease after that, so that an older session never writes over a newer one.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use protocol::devices::{API_VERSION, Device, DeviceIdentity, DeviceModel};
use protocol::object::{Digest, Kind, ObjectKey, Revision};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Devices;
use super::attempt::Attempt;
use super::begin::{Begun, Lists};
use super::document::state_patch;
use super::events::About;
use super::judge::{Found, Verdict, judge};
use super::pace::DevicePace;
use super::report::Report;
use super::shown::{Written, compare};
use crate::cluster::{Actor, Call, Cluster, Content, Holder, KnownDevice, WriteError};
use crate::reported::Shown;

#[derive(Debug, Default)]
struct Past {
    pace: DevicePace,
    written: Option<Written>,
    /// The state that was written last on the Device, and what it replaced.
    stated: Option<(Option<String>, Option<String>)>,
}

impl Past {
    /// Whether the Device shows the state, or drops it in silence, as a CRD without that field does: it
    /// would be written again and again.
    fn shows_state(&mut self, known: &KnownDevice, report: &Report) -> bool {
        if known.state.as_deref() == report.state() {
            self.stated = None;
            return true;
        }
        let stated = self.stated.as_ref();
        stated.is_some_and(|(over, state)| *over == known.state && state.as_deref() == report.state())
    }
}

/// A device that a report may be written of, and its model.
pub(super) struct Admitted {
    known: KnownDevice,
    spec: Device,
    model: Option<DeviceModel>,
}

/// The devices of one session.
pub struct DeviceWriter {
    devices: Devices,
    by: Holder,
    /// Of devices that exist, or did in this session: as many as the node was given.
    past: Mutex<BTreeMap<String, Past>>,
    begun: Begun,
}

impl Devices {
    /// A writer for a session of a node.
    pub fn writer(&self, by: Holder) -> DeviceWriter {
        DeviceWriter {
            devices: self.clone(),
            by,
            past: Mutex::default(),
            begun: Begun::default(),
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
    /// What the cluster shows of a device, as far as this replica wrote it.
    pub fn shown(&self, device: &DeviceIdentity, payload: &[u8]) -> Shown {
        let cluster = &self.devices.inner.cluster;
        let known = cluster.known_device(&key_of(device));
        let known = known.filter(|known| judge(Some(found(known)), device, &self.by.node) == Verdict::Fits);
        let Some((known, (spec, model))) =
            known.and_then(|known| Some((known, cluster.read_device(&key_of(device))?)))
        else {
            // Gone, as far as is known: if it is not, the next write looks first.
            self.past.lock().remove(&device.uid);
            return Shown::Nothing;
        };
        let Ok(report) = Report::read(payload, &spec, model.as_ref()) else {
            return Shown::Nothing;
        };
        let shown = compare(&report, &known, Instant::now());
        let mut past = self.past.lock();
        let shows_state = match past.get_mut(&device.uid) {
            Some(past) => past.shows_state(&known, &report),
            None => Past::default().shows_state(&known, &report),
        };
        if shown == Shown::Same && !shows_state {
            return Shown::Other(Digest::of(b"another state"));
        }
        shown
    }

    /// Writes a report, as soon as its turn has come.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point: what was not answered is reported again.
    pub async fn write(&self, device: &DeviceIdentity, payload: &[u8]) -> Result<(), WriteError> {
        if !self.cluster().has_devices() {
            return Err(WriteError::Unlisted { what: "devices" });
        }
        if self.written(&device.uid).is_none() {
            self.begin().await?;
            if self.shown(device, payload) == Shown::Same {
                return Ok(());
            }
        }
        let now = Instant::now();
        let due = self.past.lock().get(&device.uid).map(|past| past.pace.due(now));
        if let Some(due) = due.filter(|due| *due > now) {
            sleep_until(due).await;
        }
        self.devices.inner.turns.turn(&self.by.node).await;
        let Admitted { known, spec, model } = self.admit(device).await?;
        let report = Report::read(payload, &spec, model.as_ref()).map_err(|text| {
            let what = named(device);
            let error = WriteError::Unreadable { what, text };
            self.refuse(device, &known.uid, &error);
            error
        })?;
        let own = self.written(&device.uid);
        let mut attempt = Attempt::new(known, report);
        let written = self.write_status(&mut attempt, own.as_ref()).await?;
        // Before the state: what comes of that takes nothing from what is written.
        self.wrote(device, written);
        self.show_state(&attempt.device, &attempt.report).await
    }

    /// The device, if it is this node's to report of. What a watch says against a node is asked again:
    /// it may lag behind the one that told the node.
    async fn admit(&self, device: &DeviceIdentity) -> Result<Admitted, WriteError> {
        let cluster = &self.devices.inner.cluster;
        let key = key_of(device);
        if let Some(known) = cluster.known_device(&key)
            && judge(Some(found(&known)), device, &self.by.node) == Verdict::Fits
            && let Some((spec, model)) = cluster.read_device(&key)
        {
            return Ok(Admitted { known, spec, model });
        }
        if !crate::cluster::is_path_segment(&key.namespace) || !crate::cluster::is_path_segment(&key.name) {
            return Err(WriteError::Gone { what: named(device) });
        }
        self.ask_whose(device).await
    }

    /// The device as the API server has it now, if it is this node's to report of.
    pub(super) async fn ask_whose(&self, device: &DeviceIdentity) -> Result<Admitted, WriteError> {
        let key = key_of(device);
        let call = Call::get(path(&key, "devices"));
        let now: Option<Device> = match self.cluster().api().call_as(Actor::Cloudcore, call).await {
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
    ) -> Result<Admitted, WriteError> {
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
        let error = match (judge(there, device, &self.by.node), now) {
            (Verdict::Fits, Some(spec)) => {
                let cluster = &self.devices.inner.cluster;
                let model = spec
                    .model_name()
                    .map(|name| ObjectKey::new(Kind::DeviceModel, &key.namespace, name));
                let revision = spec.metadata.resource_version.as_deref();
                let known = KnownDevice {
                    key: key.clone(),
                    revision: Revision(revision.and_then(|text| text.parse().ok()).unwrap_or_default()),
                    state: spec.status.as_ref().and_then(|status| status.state.clone()),
                    status: cluster.known_device(key).and_then(|known| known.status),
                    content: (Digest::of(b""), None),
                    is_here: true,
                    uid,
                    node,
                    model,
                };
                let model = known.model.as_ref().and_then(|key| cluster.read_model(key));
                return Ok(Admitted { known, spec, model });
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
        debug!(node = %self.by.node, %error, "a device's report is refused");
        let about = if uid_now.is_empty() {
            About::node(&self.by.node)
        } else {
            About::device(&key_of(device), uid_now)
        };
        let message = format!("node {} reports of it: {error}", self.by.node);
        self.devices.inner.events.say(about, "ReportRefused", &message);
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.devices.inner.cluster
    }

    pub(super) fn lists(&self) -> &Lists {
        &self.devices.inner.lists
    }

    pub(super) const fn begun(&self) -> &Begun {
        &self.begun
    }

    pub(super) const fn by(&self) -> &Holder {
        &self.by
    }

    /// What was written last of a device.
    fn written(&self, uid: &str) -> Option<Written> {
        self.past.lock().get(uid)?.written.clone()
    }

    /// A status was found, which this session may write over unasked, unless it has written it meanwhile.
    pub(super) fn may_write_over(&self, uid: &str, found: Written) {
        let mut past = self.past.lock();
        let past = past.entry(uid.to_owned()).or_default();
        past.written.get_or_insert(found);
    }

    fn wrote(&self, device: &DeviceIdentity, written: Written) {
        let mut past = self.past.lock();
        let past = past.entry(device.uid.clone()).or_default();
        past.pace.take(Instant::now());
        past.written = Some(written);
    }

    /// The device as it is known by now: it may have been edited while its status was written. One whose state
    /// somebody else changed stays as it was, so that the API server refuses to have that undone.
    fn retaken(&self, device: &KnownDevice) -> KnownDevice {
        let now = self.cluster().known_device(&device.key);
        let is_edited = |now: &KnownDevice| {
            let same = (&now.uid, &now.node, &now.state) == (&device.uid, &device.node, &device.state);
            same && now.revision > device.revision
        };
        now.filter(is_edited).unwrap_or_else(|| device.clone())
    }

    /// Shows a state that changed on the Device itself. What the API server cannot take just now is
    /// tried again with the report: an offline device says nothing more.
    async fn show_state(&self, device: &KnownDevice, report: &Report) -> Result<(), WriteError> {
        let uid = &device.uid;
        if self
            .past
            .lock()
            .entry(uid.clone())
            .or_default()
            .shows_state(device, report)
        {
            return Ok(());
        }
        self.devices.inner.turns.turn(&self.by.node).await;
        let device = &self.retaken(device);
        let state = report.state();
        let patch = state_patch(device, state).to_string().into_bytes();
        let call = Call::patch(path(&device.key, "devices"), Content::MergePatch, patch);
        let api = self.devices.inner.cluster.api();
        match api.call(Actor::Cloudcore, call.only_metadata()).await {
            Ok(answer) => self.cluster().stated(device, state, &answer),
            Err(error) => {
                debug!(device = %device.key, error = &error as &dyn std::error::Error, "its state is not shown on the Device");
                if error.may_pass() {
                    return Err(error.into());
                }
            }
        }
        let stated = (device.state.clone(), state.map(str::to_owned));
        self.past.lock().entry(uid.clone()).or_default().stated = Some(stated);
        Ok(())
    }
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
