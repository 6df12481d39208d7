//! What has been said of devices that are not right, and when it is said again. Pure.
//!
//! **Invariant:** the same is said once while it stays, and again before the API server forgets its Event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::devices::check::Finding;
use protocol::object::Digest;
use tokio::time::Instant;

use crate::cluster::KnownDevice;

/// After how long what stays is said again: the API server keeps an Event for an hour after its last write,
/// unless it was told otherwise.
const AGAIN: Duration = Duration::from_mins(45);

/// What has been said of each device, by uid.
#[derive(Debug, Default)]
pub(super) struct Told {
    checked: BTreeMap<String, Checked>,
}

/// What a device was like when it was checked, and what was found.
#[derive(Debug)]
struct Checked {
    content: (Digest, Option<Digest>),
    findings: BTreeSet<Finding>,
    said: Instant,
}

impl Told {
    /// Forgets devices that are gone.
    pub(super) fn keep(&mut self, devices: &[KnownDevice]) {
        let all: BTreeSet<&str> = devices.iter().map(|device| device.uid.as_str()).collect();
        self.checked.retain(|uid, _| all.contains(uid.as_str()));
    }

    /// Whether there is nothing to say of a device.
    pub(super) fn is_settled(&self, device: &KnownDevice, now: Instant) -> bool {
        let checked = self.checked.get(&device.uid);
        checked.is_some_and(|checked| {
            let is_due = !checked.findings.is_empty() && now >= checked.said + AGAIN;
            checked.content == device.content && !is_due
        })
    }

    /// What is to be said again of a device that is as it was when it was checked; nothing is known of another.
    pub(super) fn again(&mut self, device: &KnownDevice, now: Instant) -> Option<Vec<Finding>> {
        let checked = self.checked.get_mut(&device.uid);
        let checked = checked.filter(|checked| checked.content == device.content)?;
        if now < checked.said + AGAIN {
            return Some(Vec::new());
        }
        checked.said = now;
        Some(checked.findings.iter().cloned().collect())
    }

    /// A device was checked: what is to be said of it.
    pub(super) fn news(
        &mut self,
        device: &KnownDevice,
        findings: Vec<Finding>,
        now: Instant,
    ) -> Vec<Finding> {
        let findings: BTreeSet<Finding> = findings.into_iter().collect();
        let before = self.checked.remove(&device.uid);
        let mut said = before.as_ref().map_or(now, |before| before.said);
        let old = before.map(|before| before.findings).unwrap_or_default();
        let is_late = now >= said + AGAIN;
        if is_late || old.is_empty() {
            said = now;
        }
        let news = findings
            .iter()
            .filter(|finding| is_late || !old.contains(*finding));
        let news = news.cloned().collect();
        let checked = Checked {
            content: device.content,
            findings,
            said,
        };
        self.checked.insert(device.uid.clone(), checked);
        news
    }

    /// When something is to be said again, of one of these devices.
    pub(super) fn due<'a>(&self, devices: impl Iterator<Item = &'a KnownDevice>) -> Option<Instant> {
        let checked = devices.filter_map(|device| self.checked.get(&device.uid));
        let wrong = checked.filter(|checked| !checked.findings.is_empty());
        wrong.map(|checked| checked.said + AGAIN).min()
    }
}

#[cfg(test)]
mod tests {
    use protocol::devices::check::Reason;

    use super::super::report::tests::pump;
    use super::*;

    fn finding() -> Finding {
        Finding {
            reason: Reason::ModelMissing,
            message: "there is none".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_while_it_stays_and_again_when_it_comes_back() {
        let (mut told, now) = (Told::default(), Instant::now());
        let mut pump = pump();
        let one = || vec![finding()];
        assert_eq!(told.again(&pump, now), None);
        assert_eq!(told.news(&pump, one(), now), one());
        assert_eq!(told.again(&pump, now), Some(vec![]));
        pump.content.1 = Some(Digest::of(b"its model came"));
        assert_eq!(told.again(&pump, now), None);
        assert_eq!(told.news(&pump, one(), now), []);
        assert_eq!(told.news(&pump, vec![], now), []);
        assert_eq!(told.news(&pump, one(), now), one());
        told.keep(&[]);
        assert!(told.checked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_is_said_again_before_its_event_is_forgotten() {
        let (mut told, mut now) = (Told::default(), Instant::now());
        let mut pump = pump();
        told.news(&pump, vec![finding()], now);
        for edit in 0..5_u8 {
            assert_eq!(told.due([&pump].into_iter()), Some(now + AGAIN));
            now += AGAIN;
            // Though the device is edited again and again, and stays as wrong.
            if edit % 2 == 1 {
                pump.content.0 = Digest::of(&[edit]);
                assert_eq!(told.news(&pump, vec![finding()], now), [finding()]);
            } else {
                assert_eq!(told.again(&pump, now), Some(vec![finding()]));
            }
            assert_eq!(told.again(&pump, now), Some(vec![]));
        }
        assert!(told.is_settled(&pump, now) && !told.is_settled(&pump, now + AGAIN));
        told.news(&pump, vec![], now);
        assert!(told.is_settled(&pump, now + AGAIN));
        assert_eq!(told.due([&pump].into_iter()), None);
        assert_eq!(told.again(&pump, now + AGAIN), Some(vec![]));
    }
}
