//! What a driver saw, on its way to the twins: in order, newest first where it has to wait.
//!
//! Storing may take half a second while the node is offline; a device that talks faster than that
//! must not fill the memory. So one report per device is under way, and behind it waits at most one
//! value of each property, and what became of its wish.
//!
//! **Invariant:** of two values of one property, the one that was seen later is never taken first.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use protocol::devices::{DeviceName, DeviceState};
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::devices::{Clue, Observation, Origin, Refused, Report, Seen, Twins};

/// How long to wait before a report that could not be stored is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The reports of one driver's task.
pub(crate) struct Outgoing {
    twins: Arc<dyn Twins>,
    waiting: BTreeMap<DeviceName, Load>,
    busy: BTreeMap<Id, (DeviceName, Vec<u64>)>,
    flying: JoinSet<()>,
    said: BTreeMap<DeviceName, DeviceState>,
    /// The number of the last thing that was seen.
    tickets: u64,
    /// What was taken, or overtaken, since somebody asked; none where nobody does.
    done: Option<Vec<u64>>,
}

#[derive(Default)]
struct Load {
    seen: Vec<(u64, Seen)>,
    state: Option<DeviceState>,
}

impl Outgoing {
    /// Nothing is under way.
    pub(crate) fn new(twins: Arc<dyn Twins>) -> Self {
        Self {
            twins,
            waiting: BTreeMap::new(),
            busy: BTreeMap::new(),
            flying: JoinSet::new(),
            said: BTreeMap::new(),
            tickets: 0,
            done: None,
        }
    }

    /// The same, which remembers what was taken: [`Outgoing::take_done`] must be called.
    pub(crate) fn tracking(twins: Arc<dyn Twins>) -> Self {
        Self {
            done: Some(Vec::new()),
            ..Self::new(twins)
        }
    }

    /// A property was seen; the number by which [`Outgoing::take_done`] calls it.
    pub(crate) fn seen(
        &mut self,
        device: &DeviceName,
        property: &str,
        observation: Observation,
        clue: Clue,
    ) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        let load = self.waiting.entry(device.clone()).or_default();
        // What became of a wish is nothing that a value tells again.
        let ends = is_of_wish(&observation);
        let is_older =
            |(_, seen): &(u64, Seen)| seen.property == property && is_of_wish(&seen.observation) == ends;
        let before = load.seen.iter().position(is_older);
        if let Some(before) = before {
            if matches!(observation, Observation::Retained(_)) {
                self.finished([ticket]);
                return ticket;
            }
            let (overtaken, _) = load.seen.remove(before);
            self.finished([overtaken]);
        }
        let load = self.waiting.entry(device.clone()).or_default();
        let seen = Seen {
            property: property.to_owned(),
            observation,
            clue,
        };
        load.seen.push((ticket, seen));
        self.start(device);
        ticket
    }

    /// What was taken since the last call, or overtaken by what was seen later and is not taken yet.
    pub(crate) fn take_done(&mut self) -> Vec<u64> {
        self.done.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn finished(&mut self, tickets: impl IntoIterator<Item = u64>) {
        if let Some(done) = &mut self.done {
            done.extend(tickets);
        }
    }

    /// A device is so; nothing is said where that was said before.
    pub(crate) fn state(&mut self, device: &DeviceName, state: DeviceState) {
        if self.said.insert(device.clone(), state) != Some(state) {
            self.waiting.entry(device.clone()).or_default().state = Some(state);
            self.start(device);
        }
    }

    /// Forgets a device that is not served any more.
    pub(crate) fn forget(&mut self, device: &DeviceName) {
        let load = self.waiting.remove(device).unwrap_or_default();
        self.finished(load.seen.into_iter().map(|(ticket, _)| ticket));
        self.said.remove(device);
    }

    /// Waits until a report of some device was taken, for ever if none is under way.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn settled(&mut self) -> DeviceName {
        loop {
            let id = match self.flying.join_next_with_id().await {
                None => pending().await,
                Some(Ok((id, ()))) => id,
                Some(Err(error)) => {
                    warn!(%error, "a report was lost");
                    error.id()
                }
            };
            if let Some((device, tickets)) = self.busy.remove(&id) {
                self.finished(tickets);
                self.start(&device);
                return device;
            }
        }
    }

    /// Gives what is under way so long to arrive.
    pub(crate) async fn drain(&mut self, grace: Duration) {
        let all = async {
            while !self.busy.is_empty() {
                self.settled().await;
            }
        };
        if timeout(grace, all).await.is_err() {
            warn!("reports of devices were given up at the end");
        }
    }

    fn start(&mut self, device: &DeviceName) {
        if self.busy.values().any(|(busy, _)| busy == device) {
            return;
        }
        let Some(load) = self.waiting.remove(device) else {
            return;
        };
        let (tickets, seen) = load.seen.into_iter().unzip();
        let work = deliver(Arc::clone(&self.twins), device.clone(), load.state, seen);
        let task = self.flying.spawn(work);
        self.busy.insert(task.id(), (device.clone(), tickets));
    }
}

const fn is_of_wish(observation: &Observation) -> bool {
    matches!(
        observation,
        Observation::GivenUp { .. } | Observation::Settled { .. }
    )
}

async fn deliver(twins: Arc<dyn Twins>, device: DeviceName, state: Option<DeviceState>, seen: Vec<Seen>) {
    if let Some(state) = state {
        tell_state(&*twins, &device, state).await;
    }
    let mut rest = vec![seen];
    while let Some(seen) = rest.pop().filter(|seen| !seen.is_empty()) {
        let report = Report {
            device: device.clone(),
            seen,
            event_id: String::new(),
            origin: Origin::Driver,
        };
        match twins.report(report.clone()).await {
            Ok(_) => {}
            Err(Refused::Unavailable(why)) => {
                warn!(%device, why, "values could not be stored; they are tried again");
                sleep(TRY_AGAIN).await;
                rest.push(report.seen);
            }
            // One value spoils the report: each goes alone, the first one first.
            Err(Refused::TooLarge { .. } | Refused::BadWish { .. }) if report.seen.len() > 1 => {
                rest.extend(report.seen.into_iter().rev().map(|seen| vec![seen]));
            }
            Err(error) => {
                warn!(%device, %error, "values were not taken");
                if let Some(fault) = told_instead(&report, &error) {
                    rest.push(vec![fault]);
                }
            }
        }
    }
}

/// It is said once: what was not stored now would not be said again before it changes.
async fn tell_state(twins: &dyn Twins, device: &DeviceName, state: DeviceState) {
    while let Err(error) = twins.state(device.clone(), state).await {
        warn!(%device, %error, "the state of a device was not taken");
        if !matches!(error, Refused::Unavailable(_)) {
            return;
        }
        sleep(TRY_AGAIN).await;
    }
}

/// A value that was refused is not kept silent.
fn told_instead(report: &Report, error: &Refused) -> Option<Seen> {
    let one = report.seen.first()?;
    let was_value = matches!(one.observation, Observation::Value(_));
    (was_value && matches!(error, Refused::TooLarge { .. })).then(|| Seen {
        property: one.property.clone(),
        observation: Observation::Fault(error.to_string()),
        clue: Clue::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeTwins;
    use super::*;

    fn value(text: &str) -> Observation {
        Observation::Value(text.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn while_one_report_is_stored_only_the_newest_of_each_property_waits() {
        let twins = FakeTwins::slow(Duration::from_millis(500));
        let device = DeviceName::new("hall", "lamp");
        let mut outgoing = Outgoing::new(Arc::clone(&twins) as Arc<dyn Twins>);
        for number in 0..1000 {
            outgoing.seen(&device, "power", value(&number.to_string()), Clue::default());
        }
        outgoing.seen(&device, "level", value("7"), Clue::default());
        outgoing.seen(
            &device,
            "level",
            Observation::Retained("3".into()),
            Clue::default(),
        );
        outgoing.drain(Duration::from_secs(5)).await;
        assert_eq!(
            twins.observed(&device),
            [
                ("power".to_owned(), value("0")),
                ("power".to_owned(), value("999")),
                ("level".to_owned(), value("7"))
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_wish_was_given_up_is_told_whatever_is_seen_after_it() {
        let twins = FakeTwins::slow(Duration::from_millis(500));
        let device = DeviceName::new("hall", "lamp");
        let mut outgoing = Outgoing::new(Arc::clone(&twins) as Arc<dyn Twins>);
        let given_up = |version| Observation::GivenUp {
            version,
            why: "NotConfirmed".to_owned(),
        };
        for seen in [
            value("1"),
            value("2"),
            given_up(1),
            given_up(2),
            value("3"),
            value("4"),
        ] {
            outgoing.seen(&device, "power", seen, Clue::default());
        }
        outgoing.drain(Duration::from_secs(5)).await;
        let observed = twins.observed(&device).into_iter().map(|(_, seen)| seen);
        assert_eq!(
            observed.collect::<Vec<_>>(),
            [value("1"), given_up(2), value("4")]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_stored_is_tried_again_before_anything_newer() {
        let twins = FakeTwins::new();
        let device = DeviceName::new("hall", "lamp");
        twins.refuse_next(3);
        let mut outgoing = Outgoing::new(Arc::clone(&twins) as Arc<dyn Twins>);
        outgoing.seen(&device, "power", value("1"), Clue::default());
        tokio::task::yield_now().await;
        outgoing.seen(&device, "power", value("2"), Clue::default());
        outgoing.drain(Duration::from_secs(30)).await;
        let values: Vec<_> = twins
            .observed(&device)
            .into_iter()
            .map(|(_, seen)| seen)
            .collect();
        assert_eq!(values, [value("1"), value("2")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_could_not_be_stored_is_tried_again_and_then_the_newest() {
        let twins = FakeTwins::new();
        let device = DeviceName::new("hall", "lamp");
        twins.refuse_next_states(2);
        let mut outgoing = Outgoing::new(Arc::clone(&twins) as Arc<dyn Twins>);
        outgoing.state(&device, DeviceState::Online);
        tokio::task::yield_now().await;
        outgoing.state(&device, DeviceState::Offline);
        outgoing.state(&device, DeviceState::Unhealthy);
        outgoing.drain(Duration::from_secs(30)).await;
        let told = [DeviceState::Online, DeviceState::Unhealthy];
        assert_eq!(twins.states(&device), told);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_was_stored_or_overtaken_by_what_is_not() {
        let twins = FakeTwins::slow(Duration::from_millis(500));
        let device = DeviceName::new("hall", "lamp");
        let mut outgoing = Outgoing::tracking(Arc::clone(&twins) as Arc<dyn Twins>);
        let see = |outgoing: &mut Outgoing, text: &str| {
            outgoing.seen(&device, "power", value(text), Clue::default())
        };
        let (first, second) = (see(&mut outgoing, "1"), see(&mut outgoing, "2"));
        assert_eq!(outgoing.take_done(), [0; 0]);
        let third = see(&mut outgoing, "3");
        assert_eq!(outgoing.take_done(), [second]);
        outgoing.settled().await;
        assert_eq!(outgoing.take_done(), [first]);
        outgoing.settled().await;
        assert_eq!(outgoing.take_done(), [third]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_said_once() {
        let twins = FakeTwins::new();
        let device = DeviceName::new("hall", "lamp");
        let mut outgoing = Outgoing::new(Arc::clone(&twins) as Arc<dyn Twins>);
        for state in [DeviceState::Online, DeviceState::Online, DeviceState::Offline] {
            outgoing.state(&device, state);
            outgoing.drain(Duration::from_secs(5)).await;
        }
        assert_eq!(twins.states(&device), [DeviceState::Online, DeviceState::Offline]);
    }
}
