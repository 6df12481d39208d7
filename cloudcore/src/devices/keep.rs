//! Gives each device of an edge node its `DeviceStatus`, and says what is wrong with it.
//!
//! **Invariant:** what is created rests on complete lists alone; that another replica was faster is
//! as good.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use protocol::devices::check::{Finding, check};
use protocol::name::NodeName;
use protocol::object::Digest;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::Devices;
use super::events::About;
use super::status::create_empty;
use crate::cluster::{Actor, KnownDevice};

/// How long changes gather before they are looked at: a model often comes just after its device.
const GATHER: Duration = Duration::from_secs(1);
/// After how long what another replica should have created is created here.
const ABSENT: Duration = Duration::from_secs(10);
/// The pause after a creation that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Creations at a time.
const PARALLEL: usize = 16;

/// What to do for the devices as they are.
#[derive(Debug, Default)]
struct Plan {
    create: Vec<KnownDevice>,
    /// When to look again without being told.
    again: Option<Instant>,
}

/// Since when devices have had no status, by uid.
type Missing = BTreeMap<String, Instant>;

/// The replica that has the device's node creates at once, the others after a while. Pure.
fn plan(devices: Vec<KnownDevice>, missing: &mut Missing, now: Instant) -> Plan {
    let mut plan = Plan::default();
    // The status of an earlier device of that name is the garbage collector's.
    let lacking: Vec<_> = devices
        .into_iter()
        .filter(|device| device.status.is_none())
        .collect();
    let uids: BTreeSet<&str> = lacking.iter().map(|device| device.uid.as_str()).collect();
    missing.retain(|uid, _| uids.contains(uid.as_str()));
    for device in lacking {
        let since = *missing.entry(device.uid.clone()).or_insert(now);
        let due = if device.is_here { since } else { since + ABSENT };
        if due <= now {
            plan.create.push(device);
        } else {
            plan.again = Some(plan.again.map_or(due, |again| again.min(due)));
        }
    }
    plan
}

/// What has been said of each device, by uid: the same is not said again while it stays.
type Told = BTreeMap<String, Checked>;

/// What a device was like when it was checked, and what was found.
#[derive(Debug)]
struct Checked {
    content: (Digest, Option<Digest>),
    findings: BTreeSet<Finding>,
}

/// What is to be said of a device now. Pure.
fn news(told: &mut Told, device: &KnownDevice, findings: Vec<Finding>) -> Vec<Finding> {
    let checked = Checked {
        content: device.content,
        findings: findings.into_iter().collect(),
    };
    let now = checked.findings.clone();
    let before = told.insert(device.uid.clone(), checked);
    let before = before.map(|before| before.findings).unwrap_or_default();
    now.difference(&before).cloned().collect()
}

/// Whether a device is as it was when it was checked. Pure.
fn is_checked(told: &Told, device: &KnownDevice) -> bool {
    told.get(&device.uid)
        .is_some_and(|checked| checked.content == device.content)
}

impl Devices {
    /// Creates statuses and says what is wrong, for ever.
    pub(super) async fn keep(&self) {
        let (mut missing, mut told) = (Missing::new(), Told::new());
        loop {
            let devices = self.inner.cluster.edge_devices();
            self.tell(&devices, &mut told);
            let plan = plan(devices, &mut missing, Instant::now());
            let failed = self.create(plan.create).await;
            let again = if failed {
                Some(Instant::now() + AGAIN)
            } else {
                plan.again
            };
            tokio::select! {
                () = self.inner.cluster.devices_bell() => {}
                () = due(again) => {}
            }
            sleep(GATHER).await;
        }
    }

    /// Whether any could not be created.
    async fn create(&self, devices: Vec<KnownDevice>) -> bool {
        let creations = stream::iter(devices).map(|device| async move { self.create_one(&device).await });
        let results: Vec<bool> = creations.buffer_unordered(PARALLEL).collect().await;
        results.contains(&false)
    }

    async fn create_one(&self, device: &KnownDevice) -> bool {
        let Ok(node) = device.node.parse::<NodeName>() else {
            return true;
        };
        self.inner.turns.turn(&node).await;
        let call = create_empty(device);
        match self.inner.cluster.api().call(Actor::Cloudcore, call).await {
            Ok(_) => true,
            Err(error) if error.is_conflict() => true,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                if device.is_here {
                    warn!(device = %device.key, error, "its DeviceStatus cannot be created yet");
                } else {
                    debug!(device = %device.key, error, "its DeviceStatus cannot be created yet");
                }
                false
            }
        }
    }

    fn tell(&self, devices: &[KnownDevice], told: &mut Told) {
        let all: BTreeSet<&str> = devices.iter().map(|device| device.uid.as_str()).collect();
        told.retain(|uid, _| all.contains(uid.as_str()));
        // The replica that has the node says it.
        let here = devices.iter().filter(|device| device.is_here);
        let unchecked: Vec<_> = here.filter(|device| !is_checked(told, device)).collect();
        for device in unchecked {
            let Some((spec, model)) = self.inner.cluster.read_device(&device.key) else {
                continue;
            };
            for finding in news(told, device, check(&spec, model.as_ref())) {
                let about = About::device(&device.key, &device.uid);
                self.inner
                    .events
                    .say(about, finding.reason.name(), &finding.message);
            }
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use protocol::devices::check::Reason;
    use protocol::object::Revision;

    use super::super::report::tests::pump;
    use super::*;
    use crate::cluster::StatusEntry;

    #[tokio::test(start_paused = true)]
    async fn the_replica_that_has_the_node_creates_a_status_at_once_and_others_later() {
        let (mut missing, now) = (Missing::new(), Instant::now());
        assert_eq!(plan(vec![pump()], &mut missing, now).create.len(), 1);
        let mut elsewhere = pump();
        elsewhere.is_here = false;
        let first = plan(vec![elsewhere.clone()], &mut missing, now);
        assert_eq!((first.create.len(), first.again), (0, Some(now + ABSENT)));
        assert_eq!(plan(vec![elsewhere], &mut missing, now + ABSENT).create.len(), 1);
        let mut done = pump();
        done.status = Some(StatusEntry {
            uid: "s".into(),
            revision: Revision(1),
            device: "u".into(),
            said: None,
        });
        assert!(plan(vec![done], &mut missing, now).create.is_empty() && missing.is_empty());
    }

    #[test]
    fn the_same_is_said_once_while_it_stays_and_again_when_it_comes_back() {
        let mut told = Told::new();
        let finding = Finding {
            reason: Reason::ModelMissing,
            message: "there is none".into(),
        };
        let mut pump = pump();
        let one = || vec![finding.clone()];
        assert!(!is_checked(&told, &pump));
        assert_eq!(news(&mut told, &pump, one()), one());
        assert!(is_checked(&told, &pump));
        pump.content.1 = Some(Digest::of(b"its model came"));
        assert!(!is_checked(&told, &pump));
        assert_eq!(news(&mut told, &pump, one()), []);
        assert_eq!(news(&mut told, &pump, vec![]), []);
        assert_eq!(news(&mut told, &pump, one()), one());
    }
}
