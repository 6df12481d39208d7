//! One connection or bus and all devices on it: one request at a time, writes first.

use std::collections::{BTreeMap, BTreeSet};

use protocol::devices::DeviceName;
use tokio::time::Instant;
use tracing::warn;

use super::codec::{Kind, Layout};
use super::config::{Endpoint, Property, Settled, Timing, Write};
use super::plan::{Member, Read, plan};
use super::rounds::Rounds;
use super::wire::{Failure, Wire, Words};
use crate::devices::drivers::driver::Units;
use crate::devices::drivers::polling::{Frame, Polled, Poller, Schedule};
use crate::devices::drivers::wishes::{Due, Outcome, Settable};
use crate::devices::drivers::writing::Manner;
use crate::devices::{Clue, Observation};

pub(super) struct Task {
    wire: Wire,
    rounds: Rounds,
    /// The devices that did not answer last time.
    lost: BTreeSet<DeviceName>,
}

impl Task {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            wire: Wire::new(endpoint),
            rounds: Rounds::default(),
            lost: BTreeSet::new(),
        }
    }

    /// How the devices of a read are, by whether they answered.
    fn say_states(&mut self, frame: &mut Frame<Settled>, read: &Read, answered: bool) {
        let devices: BTreeSet<_> = read.members.iter().map(|member| &member.device).collect();
        for device in devices {
            if !answered {
                self.lost.insert(device.clone());
            } else if self.lost.remove(device) {
                frame.wishes.reachable(Instant::now());
            }
            frame.say_state(device, answered);
        }
    }

    /// What is to be written; a bit of a register needs the others.
    async fn words(
        &mut self,
        unit: u8,
        timing: Timing,
        property: &Property,
        value: &str,
    ) -> Result<Words, Unsent> {
        if property.layout.kind == Kind::Switch {
            return Layout::to_switch(value)
                .map(|on| Words::Bits(vec![on]))
                .map_err(Unsent::Value);
        }
        let mut before = 0;
        if matches!(property.layout.kind, Kind::Bit(_)) {
            let span = (property.address, 1);
            match self.wire.read(unit, property.table, span, timing).await {
                Ok(Words::Registers(words)) => before = words.first().copied().unwrap_or_default(),
                Ok(Words::Bits(_)) => return Err(Unsent::Before(Failure::Silent)),
                Err(failure) => return Err(Unsent::Before(failure)),
            }
        }
        let words = property.layout.registers(value, before);
        words.map(Words::Registers).map_err(Unsent::Value)
    }

    async fn send(
        &mut self,
        unit: u8,
        timing: Timing,
        (property, write): (&Property, Write),
        value: &str,
    ) -> Result<(), Unsent> {
        let words = self.words(unit, timing, property, value).await?;
        let sent = self
            .wire
            .write(unit, property.address, (&words, write.many), timing)
            .await;
        sent.map_err(Unsent::Asked)
    }
}

/// Why a value was not set.
enum Unsent {
    /// It cannot be.
    Value(String),
    /// What had to be read before could not be.
    Before(Failure),
    /// The unit would not, or did not answer.
    Asked(Failure),
}

impl Settable for Property {
    fn manner(&self) -> Option<Manner> {
        self.write.map(|_| self.manner)
    }
}

impl Polled for Settled {
    type Property = Property;

    fn properties(&self) -> &BTreeMap<String, Property> {
        &self.properties
    }
}

impl Poller for Task {
    type Device = Settled;

    fn schedule(&self) -> &impl Schedule {
        &self.rounds
    }

    fn tell_overruns(&self, cycles: u64) {
        warn!(
            reason = "PollOverrun",
            cycles, "cycles were skipped: the bus is too slow for them"
        );
    }

    fn replan(&mut self, units: &Units<Settled>, now: Instant) {
        self.lost.retain(|name| units.contains_key(name));
        let mut wanted = Vec::new();
        for (name, unit) in units.iter() {
            for (property, at) in &unit.settings.properties {
                let member = Member {
                    device: name.clone(),
                    property: property.clone(),
                    at: at.clone(),
                };
                wanted.push((unit.settings.unit, member));
            }
        }
        self.rounds.replan(plan(wanted), now);
    }

    async fn read(&mut self, frame: &mut Frame<Settled>) {
        let Some(read) = self.rounds.due(Instant::now()) else {
            return;
        };
        let timing = timing(frame, read.members.first().map(|member| &member.device));
        let span = (read.address, read.count);
        let answer = self.wire.read(read.unit, read.table, span, timing).await;
        let now = Instant::now();
        match answer {
            Ok(words) => {
                self.rounds.done(&read, now);
                for member in &read.members {
                    take(frame, member, read.address, &words);
                }
            }
            Err(Failure::Exception(1..=4)) if self.rounds.split(&read, now) => {}
            Err(failure) => {
                match self.wire.away_until(now) {
                    Some(until) => self.rounds.away(until),
                    None if failure.is_silence() => self.rounds.silent(&read, now),
                    None => self.rounds.done(&read, now),
                }
                let text = failure.to_string();
                let only_writes = self.rounds.only_writes(read.unit);
                for member in &read.members {
                    // What was sent counts as said.
                    if only_writes && member.at.write.is_some_and(|write| write.optimistic) {
                        continue;
                    }
                    frame.fault(&member.device, &member.property, text.clone());
                }
                self.say_states(frame, &read, failure.is_answer());
                return;
            }
        }
        self.say_states(frame, &read, true);
    }

    async fn write(&mut self, frame: &mut Frame<Settled>, due: &Due) -> Outcome {
        let units = frame.units();
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
        // Each further timeout would be the others' time.
        let lost = self.lost.contains(&due.device);
        if lost && !self.rounds.may_write(unit) {
            return Outcome::Unreachable;
        }
        // One whose endpoint is left alone is not asked.
        let is_away = self.wire.away_until(Instant::now()).is_some();
        let sent = self.send(unit, timing, (property, write), &due.value).await;
        let answered = match &sent {
            Ok(()) => true,
            Err(Unsent::Before(failure) | Unsent::Asked(failure)) => failure.is_answer(),
            Err(Unsent::Value(why)) => return Outcome::Refused(why.clone()),
        };
        let now = Instant::now();
        if lost && self.rounds.wrote(unit, answered, now) {
            frame.wishes.reachable(now);
        }
        match sent {
            Err(Unsent::Asked(failure)) if !is_away => return outcome(frame, due, &failure, true),
            Err(Unsent::Before(failure) | Unsent::Asked(failure)) => {
                return outcome(frame, due, &failure, false);
            }
            Err(Unsent::Value(_)) | Ok(()) => {}
        }
        if write.optimistic {
            good(frame, &due.device, &due.property, due.value.clone());
            return Outcome::Sent;
        }
        // One that answers no reads is read with the others.
        let span = (property.address, property.layout.kind.width());
        if !lost && let Ok(words) = self.wire.read(unit, property.table, span, timing).await {
            let member = Member {
                device: due.device.clone(),
                property: due.property.clone(),
                at: property.clone(),
            };
            take(frame, &member, property.address, &words);
        }
        Outcome::Sent
    }
}

fn take(frame: &mut Frame<Settled>, member: &Member, first: u16, words: &Words) {
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
        Ok(value) => good(frame, &member.device, &member.property, value),
        Err(why) => frame.fault(&member.device, &member.property, why),
    }
}

fn good(frame: &mut Frame<Settled>, device: &DeviceName, property: &str, value: String) {
    frame.good(device, property, Observation::Value(value), Clue::default());
}

/// What came of a write that failed; `asked` where it may have gone out.
fn outcome(frame: &mut Frame<Settled>, due: &Due, failure: &Failure, asked: bool) -> Outcome {
    if !failure.is_answer() {
        return if asked {
            Outcome::Unanswered
        } else {
            Outcome::Unreachable
        };
    }
    frame.fault(&due.device, &due.property, failure.to_string());
    Outcome::Refused(failure.to_string())
}

fn timing(frame: &Frame<Settled>, device: Option<&DeviceName>) -> Timing {
    let units = frame.units();
    let unit = device.and_then(|device| units.get(device));
    unit.map_or_else(Timing::default, |unit| unit.settings.timing)
}
