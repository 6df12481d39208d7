//! Which devices lack a status, and which of them is given one next. Pure.
//!
//! ```text
//! lacking ──► due ──► under way, one of its node at a time ──► made
//!              ▲                                  `── another was faster, or it failed
//!              └──────── later and later ──────────┘
//! ```
//!
//! **Invariant:** a node with many new devices, or with some that cannot be made, holds up no other node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::KnownDevice;

/// After how long what another replica should have created is created here.
const ABSENT: Duration = Duration::from_secs(10);
/// The pause after a creation that was for nothing; it doubles with each.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest pause.
const LATEST: Duration = Duration::from_mins(5);

/// How a creation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// There is one now, and the watch knows; or there is none to make any more.
    Made,
    /// It was for nothing: there is one that the watch does not know yet, or it was refused.
    Not,
}

/// A device without a status.
#[derive(Debug)]
struct Lack {
    device: KnownDevice,
    since: Instant,
    not_before: Instant,
    pause: Duration,
}

impl Lack {
    /// The replica that has the device's node creates at once, the others after a while.
    fn due(&self) -> Instant {
        let since = if self.device.is_here {
            self.since
        } else {
            self.since + ABSENT
        };
        since.max(self.not_before)
    }
}

/// All of them, by node and uid.
#[derive(Debug, Default)]
pub(super) struct Missing {
    by_node: BTreeMap<String, BTreeMap<String, Lack>>,
    busy: BTreeSet<String>,
}

impl Missing {
    /// The devices are so now.
    pub(super) fn look(&mut self, devices: Vec<KnownDevice>, now: Instant) {
        let mut before = std::mem::take(&mut self.by_node);
        // The status of an earlier device of that name is the garbage collector's.
        for device in devices.into_iter().filter(|device| device.status.is_none()) {
            let known = before
                .get_mut(&device.node)
                .and_then(|lacking| lacking.remove(&device.uid));
            let (since, not_before, pause) = known.map_or((now, now, AGAIN), |lack| {
                (lack.since, lack.not_before, lack.pause)
            });
            let (node, uid) = (device.node.clone(), device.uid.clone());
            let lack = Lack {
                device,
                since,
                not_before,
                pause,
            };
            self.by_node.entry(node).or_default().insert(uid, lack);
        }
    }

    /// The next to create; end it with [`Missing::ended`].
    pub(super) fn next(&mut self, now: Instant) -> Option<KnownDevice> {
        let device = self.idle().find(|lack| lack.due() <= now)?.device.clone();
        self.busy.insert(device.node.clone());
        Some(device)
    }

    /// A creation has ended.
    pub(super) fn ended(&mut self, device: &KnownDevice, how: Ended, now: Instant) {
        self.busy.remove(&device.node);
        let Some(lacking) = self.by_node.get_mut(&device.node) else {
            return;
        };
        match (how, lacking.get_mut(&device.uid)) {
            (Ended::Made, _) => drop(lacking.remove(&device.uid)),
            (Ended::Not, Some(lack)) => {
                lack.not_before = now + lack.pause;
                lack.pause = (lack.pause * 2).min(LATEST);
            }
            (Ended::Not, None) => {}
        }
        if lacking.is_empty() {
            self.by_node.remove(&device.node);
        }
    }

    /// When there will be a next one without being told of anything.
    pub(super) fn due(&self) -> Option<Instant> {
        self.idle().map(Lack::due).min()
    }

    /// Those of nodes that have none under way.
    fn idle(&self) -> impl Iterator<Item = &Lack> {
        let idle = self.by_node.iter().filter(|(node, _)| !self.busy.contains(*node));
        idle.flat_map(|(_, lacking)| lacking.values())
    }
}

#[cfg(test)]
mod tests {
    use protocol::object::{ObjectKey, Revision};

    use super::super::report::tests::pump;
    use super::*;
    use crate::cluster::StatusEntry;

    fn at(node: &str, number: u32) -> KnownDevice {
        KnownDevice {
            key: ObjectKey {
                name: format!("{node}-{number}"),
                ..pump().key
            },
            uid: format!("{node}-{number}"),
            node: node.to_owned(),
            ..pump()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_replica_that_has_the_node_creates_a_status_at_once_and_others_later() {
        let now = Instant::now();
        let mut missing = Missing::default();
        missing.look(vec![pump()], now);
        let device = missing.next(now).unwrap();
        missing.ended(&device, Ended::Made, now);
        assert_eq!(missing.due(), None);
        let mut elsewhere = pump();
        elsewhere.is_here = false;
        missing.look(vec![elsewhere.clone()], now);
        assert!(missing.next(now).is_none());
        assert_eq!(missing.due(), Some(now + ABSENT));
        missing.look(vec![elsewhere], now + ABSENT);
        assert!(missing.next(now + ABSENT).is_some());
        let mut done = pump();
        done.status = Some(StatusEntry {
            uid: "s".into(),
            revision: Revision(1),
            device: "u".into(),
            said: None,
        });
        missing.look(vec![done], now);
        assert!(missing.by_node.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_with_many_new_devices_has_one_under_way_and_holds_up_no_other() {
        let now = Instant::now();
        let mut missing = Missing::default();
        let mut all: Vec<_> = (0..1_000).map(|number| at("a", number)).collect();
        missing.look(all.clone(), now);
        let first = missing.next(now).unwrap();
        assert!(missing.next(now).is_none() && missing.due().is_none());
        // The other's come while the first has far to go.
        all.push(at("b", 0));
        missing.look(all, now);
        assert_eq!(missing.next(now).unwrap().node, "b");
        assert!(missing.next(now).is_none());
        missing.ended(&first, Ended::Made, now);
        let second = missing.next(now).unwrap();
        assert!(second.node == "a" && second.uid != first.uid);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_created_is_tried_later_and_later_and_holds_up_nothing() {
        let mut now = Instant::now();
        let mut missing = Missing::default();
        let all = vec![at("a", 0), at("a", 1)];
        missing.look(all.clone(), now);
        let bad = missing.next(now).unwrap();
        missing.ended(&bad, Ended::Not, now);
        let good = missing.next(now).unwrap();
        assert_ne!(bad.uid, good.uid);
        missing.ended(&good, Ended::Made, now);
        let mut tries = 0;
        let end = now + Duration::from_hours(1);
        while now < end {
            missing.look(vec![bad.clone()], now);
            if let Some(device) = missing.next(now) {
                tries += 1;
                missing.ended(&device, Ended::Not, now);
            }
            now = missing.due().unwrap();
        }
        assert!((15..=20).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_goes_while_its_status_is_made_leaves_nothing_behind() {
        let now = Instant::now();
        let mut missing = Missing::default();
        missing.look(vec![at("a", 0)], now);
        let device = missing.next(now).unwrap();
        missing.look(Vec::new(), now);
        missing.ended(&device, Ended::Not, now);
        assert!(missing.by_node.is_empty() && missing.busy.is_empty());
    }
}
