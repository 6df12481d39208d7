//! What to send of the node, and how soon to look again. Pure: observations and time are given.
//!
//! **Invariant:** a document is offered until the outbox has it, and one that says nothing new is not offered.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use tokio::time::Instant;

use super::conditions::{Conditions, Now};
use super::document::{self, Identity};
use super::pressures::Pressures;
use super::shortage::Policy;
use super::{Observation, RuntimeFacts};

/// The kubelet's own interval.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// While the node is not ready, or the runtime does not answer: a runtime that comes up is seen at once.
const EVERY_WHILE_NOT_READY: Duration = Duration::from_secs(1);
/// How long after its last answer the runtime counts as down, as with the kubelet: it may be upgraded, or wait
/// for the disk, and the pods of a node that is not ready are taken out of service.
pub(super) const DOWN_AFTER: Duration = Duration::from_secs(30);

/// What was last told, and since when what holds. Pure.
#[derive(Debug, Default)]
pub(super) struct Watch {
    conditions: Conditions,
    address: Option<IpAddr>,
    disk_bytes: Option<u64>,
    answered: Option<(Instant, RuntimeFacts)>,
    missed: bool,
    ready: bool,
    pressures: Pressures,
    told: Option<Node>,
}

impl Watch {
    /// Judges by this policy, notes the pressures there, and goes on from the conditions that were told last.
    pub(super) fn of(policy: &Policy, pressures: Pressures, before: &[NodeCondition]) -> Self {
        let mut conditions = Conditions::with(*policy);
        conditions.remember(before);
        Self {
            conditions,
            pressures,
            ..Self::default()
        }
    }

    /// Keeps the disk's size as it was first seen, as the kubelet does: some file systems (ZFS) count
    /// as size what others leave them, and the node's capacity would change with every write.
    pub(super) fn settle(&mut self, seen: &mut Observation) {
        if let Some(disk) = &mut seen.load.disk {
            disk.bytes = *self.disk_bytes.get_or_insert(disk.bytes);
        }
    }

    /// Puts the runtime's last answer in the place of one that is missing, while it is young.
    pub(super) fn bridge(&mut self, seen: &mut Observation, now: Instant) {
        self.missed = seen.runtime.is_err();
        if let Ok(facts) = &seen.runtime {
            self.answered = Some((now, facts.clone()));
        }
        let young = |(at, _): &&(Instant, RuntimeFacts)| now.duration_since(*at) < DOWN_AFTER;
        if let (true, Some((_, facts))) = (self.missed, self.answered.as_ref().filter(young)) {
            seen.runtime = Ok(facts.clone());
        }
    }

    /// The document of this observation, when it says something new.
    pub(super) fn look(&mut self, identity: &Identity, seen: &Observation, now: Now) -> Option<Node> {
        for (kind, at) in self.pressures.take_seen() {
            self.conditions.press(kind, at);
        }
        let conditions = self.conditions.judge(seen, now);
        self.pressures.learn(&conditions);
        self.ready = conditions
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        // Without a network there is no address to name, and the last one is still the best.
        self.address = seen.device_address.or(self.address);
        let node = document::node(identity, seen, self.address, conditions);
        (self.told.as_ref() != Some(&node)).then_some(node)
    }

    /// How soon to look again.
    pub(super) fn pace(&self) -> Duration {
        if self.ready && !self.missed {
            EVERY
        } else {
            EVERY_WHILE_NOT_READY
        }
    }

    /// Notes that the document is on its way for good.
    pub(super) fn told(&mut self, node: Node) {
        self.told = Some(node);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::node::{Disk, Load, Machine};

    fn seen() -> Observation {
        Observation {
            machine: Machine::default(),
            load: Load::default(),
            runtime: Ok(RuntimeFacts::default()),
            device_address: Some(IpAddr::from([198, 18, 0, 7])),
        }
    }

    fn now(seconds: i64) -> Now {
        Now {
            wall: Timestamp::from_second(seconds).unwrap(),
            steady: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pressure_that_was_over_before_the_look_is_shown_for_its_time_all_the_same() {
        let (pressures, identity) = (Pressures::default(), Identity::default());
        let mut watch = Watch::of(&Policy::default(), pressures.clone(), &[]);
        pressures.see("DiskPressure", Instant::now());
        tokio::time::sleep(Duration::from_secs(9)).await;
        let mut shown = || {
            let node = watch.look(&identity, &seen(), now(100)).unwrap();
            let conditions = node.status.unwrap().conditions.unwrap();
            let disk = conditions.into_iter().find(|one| one.type_ == "DiskPressure");
            disk.unwrap().status
        };
        assert_eq!(shown(), "True");
        assert_eq!(pressures.held(), ["DiskPressure"]);
        tokio::time::sleep(Duration::from_secs(290)).await;
        assert_eq!(shown(), "True");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(shown(), "False");
        assert!(pressures.held().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_did_not_change_is_not_reported_again() {
        let (mut watch, identity) = (Watch::default(), Identity::default());
        let first = watch.look(&identity, &seen(), now(100)).unwrap();
        assert!(
            watch.look(&identity, &seen(), now(105)).is_some(),
            "it was not stored yet"
        );
        watch.told(first);
        assert_eq!(watch.look(&identity, &seen(), now(110)), None);
        let changed = Observation {
            runtime: Err("down".to_owned()),
            ..seen()
        };
        assert!(watch.look(&identity, &changed, now(120)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_lost_its_network_keeps_the_address_it_had() {
        let (mut watch, identity) = (Watch::default(), Identity::default());
        let first = watch.look(&identity, &seen(), now(100)).unwrap();
        watch.told(first);
        let dark = Observation {
            device_address: None,
            ..seen()
        };
        assert_eq!(watch.look(&identity, &dark, now(110)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_is_silent_for_a_moment_is_not_down() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        let mut look = |answer: Result<RuntimeFacts, String>, seconds| {
            let mut seen = Observation {
                runtime: answer,
                ..seen()
            };
            watch.bridge(&mut seen, after(seconds));
            (seen.runtime.is_ok(), watch.missed)
        };
        let (here, silent) = (|| Ok(RuntimeFacts::default()), || Err("silent".to_owned()));
        assert_eq!(look(silent(), 0), (false, true), "it has never answered");
        assert_eq!(look(here(), 10), (true, false));
        assert_eq!(look(silent(), 20), (true, true));
        assert_eq!(look(silent(), 39), (true, true));
        assert_eq!(look(silent(), 40), (false, true));
        assert_eq!(look(here(), 41), (true, false));
    }

    #[test]
    fn a_disk_whose_size_breathes_does_not_change_the_node() {
        let sized = |bytes| {
            let mut seen = seen();
            seen.load.disk = Some(Disk {
                bytes,
                ..Disk::default()
            });
            seen
        };
        let mut watch = Watch::default();
        let (mut first, mut later) = (sized(1000), sized(990));
        watch.settle(&mut first);
        watch.settle(&mut later);
        assert_eq!(first, later);
    }
}
