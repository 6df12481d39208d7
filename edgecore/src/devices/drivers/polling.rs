//! The frame of every task that asks devices one after the other: one request at a time, writes first.
//!
//! A [`Poller`] knows its protocol: when what is to be read, and how one reads and writes. Everything
//! else is here: which devices there are, what is wished of them, what could not be read, and what the
//! twins are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use protocol::devices::{DeviceName, DeviceState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::driver::{Hands, Units};
use super::outgoing::Outgoing;
use super::overruns::Overruns;
use super::wishes::{Due, Outcome, Settable, Wishes};
use crate::devices::{Clue, Observation};

/// How long reports may take at the end.
const GRACE: Duration = Duration::from_secs(1);

/// What the frame has to know of a device's settings.
pub(crate) trait Polled: Send + Sync + 'static {
    /// What one of its properties asks for.
    type Property: Settable;

    /// The properties that are read or set.
    fn properties(&self) -> &BTreeMap<String, Self::Property>;
}

/// When what is to be read.
pub(crate) trait Schedule {
    /// When something is to be read next.
    fn next(&self) -> Option<Instant>;

    /// How many cycles could not be kept in all (`PollOverrun`).
    fn overruns(&self) -> u64;
}

/// A protocol in which devices are asked.
pub(crate) trait Poller: Send {
    /// What one device asks for.
    type Device: Polled;

    /// When what is to be read.
    fn schedule(&self) -> &impl Schedule;

    /// So many cycles were skipped that nobody was told of.
    fn tell_overruns(&self, cycles: u64);

    /// Takes over which devices there are, and how they are read.
    fn replan(&mut self, units: &Units<Self::Device>, now: Instant);

    /// Reads what has been due for longest, if anything is.
    fn read(&mut self, frame: &mut Frame<Self::Device>) -> impl Future<Output = ()> + Send;

    /// Sets a property.
    fn write(&mut self, frame: &mut Frame<Self::Device>, due: &Due) -> impl Future<Output = Outcome> + Send;
}

/// What is the same in every protocol.
pub(crate) struct Frame<D> {
    all: watch::Receiver<Units<D>>,
    hands: Hands,
    outgoing: Outgoing,
    pub(crate) wishes: Wishes,
    writes: VecDeque<Due>,
    /// The last request was a write.
    wrote: bool,
    /// The properties of each device that could not be read or written last time.
    bad: BTreeMap<DeviceName, BTreeSet<String>>,
    overruns: Overruns,
}

/// Serves the devices until it is told to stop.
pub(crate) async fn run<P: Poller>(mut poller: P, units: watch::Receiver<Units<P::Device>>, hands: Hands) {
    let mut frame = Frame::new(units, hands);
    let mut changed = frame.hands.twins.changed();
    frame.replan(&mut poller);
    loop {
        let next = [poller.schedule().next(), frame.wishes.next()]
            .into_iter()
            .flatten()
            .min();
        let work = !frame.writes.is_empty() || next.is_some_and(|next| next <= Instant::now());
        tokio::select! {
            biased;
            () = frame.hands.stop.cancelled() => break,
            alive = frame.all.changed() => match alive {
                Ok(()) => frame.replan(&mut poller),
                Err(_) => break,
            },
            alive = changed.changed() => {
                if alive.is_err() {
                    break;
                }
                for device in frame.wishes.devices() {
                    frame.look(&device);
                }
            }
            device = frame.outgoing.settled() => frame.look(&device),
            () = ready(()), if work => {
                let stop = frame.hands.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = frame.work(&mut poller) => {}
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
    frame.outgoing.drain(GRACE).await;
}

impl<D: Polled> Frame<D> {
    fn new(all: watch::Receiver<Units<D>>, hands: Hands) -> Self {
        Self {
            all,
            outgoing: Outgoing::new(Arc::clone(&hands.twins)),
            hands,
            wishes: Wishes::default(),
            writes: VecDeque::new(),
            wrote: false,
            bad: BTreeMap::new(),
            overruns: Overruns::new(Instant::now()),
        }
    }

    /// The devices there are.
    pub(crate) fn units(&self) -> Units<D> {
        Arc::clone(&self.all.borrow())
    }

    /// Takes over which devices are served, and how.
    fn replan<P: Poller<Device = D>>(&mut self, poller: &mut P) {
        let units = Arc::clone(&self.all.borrow_and_update());
        let gone = |name: &DeviceName| !units.contains_key(name);
        for name in self.wishes.devices().into_iter().filter(gone) {
            self.wishes.forget(&name);
            self.outgoing.forget(&name);
            self.bad.remove(&name);
        }
        self.writes.retain(|due| units.contains_key(&due.device));
        for (name, unit) in units.iter() {
            let properties = unit.settings.properties();
            self.wishes.serve(name, properties);
            if let Some(bad) = self.bad.get_mut(name) {
                bad.retain(|property| properties.contains_key(property));
            }
        }
        poller.replan(&units, Instant::now());
        for name in units.keys() {
            self.look(name);
        }
    }

    async fn work<P: Poller<Device = D>>(&mut self, poller: &mut P) {
        for device in self.wishes.ripe(Instant::now()) {
            self.look(&device);
        }
        // Writes first, yet no two in a row while something is to be read: devices that answer none, one
        // timeout after the other, would keep all others from being read.
        let wrote = std::mem::take(&mut self.wrote);
        let read_is_due = poller
            .schedule()
            .next()
            .is_some_and(|next| next <= Instant::now());
        if !(wrote && read_is_due)
            && let Some(due) = self.writes.pop_front()
        {
            self.wrote = true;
            let outcome = poller.write(self, &due).await;
            self.wishes.came(&due, outcome, Instant::now());
        } else {
            poller.read(self).await;
        }
        if let Some(cycles) = self.overruns.count(poller.schedule().overruns(), Instant::now()) {
            poller.tell_overruns(cycles);
        }
    }

    fn look(&mut self, device: &DeviceName) {
        let twins = self.hands.twins.as_ref();
        let found = self.wishes.look(twins, device, Instant::now());
        for (property, end) in found.ended {
            self.outgoing.seen(device, &property, end, Clue::default());
        }
        self.writes.retain(|due| due.device != *device);
        self.writes.extend(found.due);
    }

    /// A property was seen.
    pub(crate) fn good(&mut self, device: &DeviceName, property: &str, observation: Observation, clue: Clue) {
        self.answered(device, property);
        let note = self.overruns.note().to_owned();
        self.outgoing
            .seen(device, property, observation, Clue { note, ..clue });
    }

    /// A property was asked for, and nothing is wrong with it.
    pub(crate) fn answered(&mut self, device: &DeviceName, property: &str) {
        if let Some(bad) = self.bad.get_mut(device) {
            bad.remove(property);
        }
    }

    /// A property could not be read or written.
    pub(crate) fn fault(&mut self, device: &DeviceName, property: &str, why: String) {
        self.bad
            .entry(device.clone())
            .or_default()
            .insert(property.to_owned());
        self.outgoing
            .seen(device, property, Observation::Fault(why), Clue::default());
    }

    /// Says how a device is, by whether it answered.
    pub(crate) fn say_state(&mut self, device: &DeviceName, answered: bool) {
        if answered {
            self.wishes.answers(device, Instant::now());
        }
        let faulty = self.all.borrow().get(device).is_some_and(|unit| unit.faulty);
        let bad = self.bad.get(device).is_some_and(|bad| !bad.is_empty());
        let state = match (answered, faulty || bad) {
            (false, _) => DeviceState::Offline,
            (true, true) => DeviceState::Unhealthy,
            (true, false) => DeviceState::Online,
        };
        self.outgoing.state(device, state);
    }
}

#[cfg(test)]
mod tests;
