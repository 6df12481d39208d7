//! One connection or bus and all devices on it: one request at a time, writes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use protocol::devices::{DeviceName, DeviceState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::codec::{Kind, Layout};
use super::config::{Endpoint, Property, Settled, Timing};
use super::plan::{Member, Read, plan};
use super::rounds::Rounds;
use super::wire::{Failure, Wire, Words};
use crate::devices::drivers::driver::{Hands, Units};
use crate::devices::drivers::outgoing::Outgoing;
use crate::devices::drivers::overruns::Overruns;
use crate::devices::drivers::wishes::{Due, Outcome, Wishes};
use crate::devices::{Clue, Observation};

/// How long reports may take at the end.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    units: watch::Receiver<Units<Settled>>,
    hands: Hands,
    outgoing: Outgoing,
    wishes: Wishes,
    writes: VecDeque<Due>,
    wire: Wire,
    rounds: Rounds,
    /// The properties of each device that could not be read or written last time.
    bad: BTreeMap<DeviceName, BTreeSet<String>>,
    /// The devices that did not answer last time.
    lost: BTreeSet<DeviceName>,
    overruns: Overruns,
}

impl Task {
    pub(super) fn new(endpoint: Endpoint, units: watch::Receiver<Units<Settled>>, hands: Hands) -> Self {
        Self {
            units,
            outgoing: Outgoing::new(Arc::clone(&hands.twins)),
            hands,
            wishes: Wishes::default(),
            writes: VecDeque::new(),
            wire: Wire::new(endpoint),
            rounds: Rounds::default(),
            bad: BTreeMap::new(),
            lost: BTreeSet::new(),
            overruns: Overruns::new(Instant::now()),
        }
    }

    pub(super) async fn run(mut self) {
        let mut changed = self.hands.twins.changed();
        self.replan();
        loop {
            let next = [self.rounds.next(), self.wishes.next()]
                .into_iter()
                .flatten()
                .min();
            let work = !self.writes.is_empty() || next.is_some_and(|next| next <= Instant::now());
            tokio::select! {
                biased;
                () = self.hands.stop.cancelled() => break,
                alive = self.units.changed() => match alive {
                    Ok(()) => self.replan(),
                    Err(_) => break,
                },
                alive = changed.changed() => {
                    if alive.is_err() {
                        break;
                    }
                    for device in self.wishes.devices() {
                        self.look(&device);
                    }
                }
                device = self.outgoing.settled() => self.look(&device),
                () = ready(()), if work => {
                    let stop = self.hands.stop.clone();
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.work() => {}
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        self.outgoing.drain(GRACE).await;
    }

    /// Takes over which devices are served, and how.
    fn replan(&mut self) {
        let units = Arc::clone(&self.units.borrow_and_update());
        let gone = |name: &DeviceName| !units.contains_key(name);
        for name in self.wishes.devices().into_iter().filter(gone) {
            self.wishes.forget(&name);
            self.outgoing.forget(&name);
            self.bad.remove(&name);
            self.lost.remove(&name);
        }
        self.writes.retain(|due| units.contains_key(&due.device));
        let mut wanted = Vec::new();
        for (name, unit) in units.iter() {
            let written = unit
                .settings
                .properties
                .iter()
                .filter(|(_, property)| property.write.is_some());
            self.wishes
                .serve(name, written.map(|(property, at)| (property.clone(), at.manner)));
            if let Some(bad) = self.bad.get_mut(name) {
                bad.retain(|property| unit.settings.properties.contains_key(property));
            }
            for (property, at) in &unit.settings.properties {
                let member = Member {
                    device: name.clone(),
                    property: property.clone(),
                    at: at.clone(),
                };
                wanted.push((unit.settings.unit, member));
            }
        }
        self.rounds.replan(plan(wanted), Instant::now());
        for name in units.keys() {
            self.look(name);
        }
    }

    async fn work(&mut self) {
        for device in self.wishes.ripe(Instant::now()) {
            self.look(&device);
        }
        if let Some(due) = self.writes.pop_front() {
            let outcome = self.write(&due).await;
            self.wishes.came(&due, outcome, Instant::now());
        } else if let Some(read) = self.rounds.due(Instant::now()) {
            self.read(&read).await;
        }
        self.tell_overruns();
    }

    fn look(&mut self, device: &DeviceName) {
        let found = self
            .wishes
            .look(self.hands.twins.as_ref(), device, Instant::now());
        for (property, why) in found.given_up {
            self.outgoing
                .seen(device, &property, Observation::Fault(why), Clue::default());
        }
        self.writes.retain(|due| due.device != *device);
        self.writes.extend(found.due);
    }

    async fn read(&mut self, read: &Read) {
        let timing = self.timing(read.members.first().map(|member| &member.device));
        let span = (read.address, read.count);
        let answer = self.wire.read(read.unit, read.table, span, timing).await;
        let now = Instant::now();
        match answer {
            Ok(words) => {
                self.rounds.done(read, now);
                for member in &read.members {
                    self.take(member, read.address, &words);
                }
            }
            Err(Failure::Exception(1..=4)) if self.rounds.split(read, now) => {}
            Err(failure) => {
                match self.wire.away_until(now) {
                    Some(until) => self.rounds.away(until),
                    None if failure.is_silence() => self.rounds.silent(read, now),
                    None => self.rounds.done(read, now),
                }
                let text = failure.to_string();
                for member in &read.members {
                    self.fault(&member.device, &member.property, text.clone());
                }
                self.say_states(read, failure.is_answer());
                return;
            }
        }
        self.say_states(read, true);
    }

    fn take(&mut self, member: &Member, first: u16, words: &Words) {
        let start = usize::from(member.at.address.saturating_sub(first));
        let end = start + usize::from(member.at.layout.kind.width());
        let value = match words {
            Words::Bits(bits) => bits
                .get(start)
                .map(|bit| member.at.layout.of_switch(*bit))
                .ok_or_else(|| "the answer is too short".to_owned()),
            Words::Registers(words) => match words.get(start..end) {
                Some(words) => member.at.layout.value(words),
                None => Err("the answer is too short".to_owned()),
            },
        };
        match value {
            Ok(value) => self.good(&member.device, &member.property, value),
            Err(why) => self.fault(&member.device, &member.property, why),
        }
    }

    fn good(&mut self, device: &DeviceName, property: &str, value: String) {
        if let Some(bad) = self.bad.get_mut(device) {
            bad.remove(property);
        }
        let clue = Clue {
            note: self.overruns.note().to_owned(),
            ..Clue::default()
        };
        self.outgoing
            .seen(device, property, Observation::Value(value), clue);
    }

    fn fault(&mut self, device: &DeviceName, property: &str, why: String) {
        self.bad
            .entry(device.clone())
            .or_default()
            .insert(property.to_owned());
        self.outgoing
            .seen(device, property, Observation::Fault(why), Clue::default());
    }

    /// How the devices of a read are, by whether they answered.
    fn say_states(&mut self, read: &Read, answered: bool) {
        let units = Arc::clone(&self.units.borrow());
        let devices: BTreeSet<_> = read.members.iter().map(|member| &member.device).collect();
        for device in devices {
            if !answered {
                self.lost.insert(device.clone());
            } else if self.lost.remove(device) {
                self.wishes.reachable(Instant::now());
            }
            let faulty = units.get(device).is_some_and(|unit| unit.faulty);
            let bad = self.bad.get(device).is_some_and(|bad| !bad.is_empty());
            let state = match (answered, faulty || bad) {
                (false, _) => DeviceState::Offline,
                (true, true) => DeviceState::Unhealthy,
                (true, false) => DeviceState::Online,
            };
            self.outgoing.state(device, state);
        }
    }

    async fn write(&mut self, due: &Due) -> Outcome {
        let units = Arc::clone(&self.units.borrow());
        let place = units.get(&due.device).and_then(|unit| {
            let property = unit.settings.properties.get(&due.property)?;
            Some((
                unit.settings.unit,
                unit.settings.timing,
                property,
                property.write?,
            ))
        });
        let Some((unit, timing, property, write)) = place else {
            return Outcome::Unreachable;
        };
        let words = match self.words(unit, timing, property, &due.value).await {
            Ok(words) => words,
            Err(outcome) => return outcome,
        };
        let sent = self
            .wire
            .write(unit, property.address, (&words, write.many), timing)
            .await;
        if let Err(failure) = sent {
            return self.outcome(due, &failure);
        }
        if write.optimistic {
            self.good(&due.device, &due.property, due.value.clone());
            return Outcome::Sent;
        }
        let span = (property.address, property.layout.kind.width());
        if let Ok(words) = self.wire.read(unit, property.table, span, timing).await {
            let member = Member {
                device: due.device.clone(),
                property: due.property.clone(),
                at: property.clone(),
            };
            self.take(&member, property.address, &words);
        }
        Outcome::Sent
    }

    /// What is to be written; a bit of a register needs the others.
    async fn words(
        &mut self,
        unit: u8,
        timing: Timing,
        property: &Property,
        value: &str,
    ) -> Result<Words, Outcome> {
        if property.layout.kind == Kind::Switch {
            return Layout::to_switch(value)
                .map(|on| Words::Bits(vec![on]))
                .map_err(Outcome::Refused);
        }
        let mut before = 0;
        if matches!(property.layout.kind, Kind::Bit(_)) {
            let span = (property.address, 1);
            match self.wire.read(unit, property.table, span, timing).await {
                Ok(Words::Registers(words)) => before = words.first().copied().unwrap_or_default(),
                Err(Failure::Exception(code)) => {
                    return Err(Outcome::Refused(Failure::Exception(code).to_string()));
                }
                Ok(Words::Bits(_)) | Err(Failure::Silent | Failure::Away(_)) => {
                    return Err(Outcome::Unreachable);
                }
            }
        }
        let words = property.layout.registers(value, before);
        words.map(Words::Registers).map_err(Outcome::Refused)
    }

    fn outcome(&mut self, due: &Due, failure: &Failure) -> Outcome {
        match failure {
            Failure::Exception(_) => {
                self.fault(&due.device, &due.property, failure.to_string());
                Outcome::Refused(failure.to_string())
            }
            Failure::Silent | Failure::Away(_) => Outcome::Unreachable,
        }
    }

    fn timing(&self, device: Option<&DeviceName>) -> Timing {
        let units = self.units.borrow();
        let unit = device.and_then(|device| units.get(device));
        unit.map_or_else(Timing::default, |unit| unit.settings.timing)
    }

    fn tell_overruns(&mut self) {
        if let Some(cycles) = self.overruns.count(self.rounds.overruns(), Instant::now()) {
            warn!(
                reason = "PollOverrun",
                cycles, "cycles were skipped: the bus is too slow for them"
            );
        }
    }
}
