//! One server and all devices of a namespace behind it: one request at a time, writes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::ready;
use std::path::PathBuf;
use std::sync::Arc;

use http::uri::PathAndQuery;
use protocol::devices::{DeviceName, DeviceState};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until};
use tracing::{info, warn};

use super::body::{Question, observe, question};
use super::client::{Access, Failure, ask};
use super::config::{Endpoint, Settled};
use super::polls::{Member, Polls};
use crate::backoff::Backoff;
use crate::devices::drivers::driver::{Hands, Units};
use crate::devices::drivers::extract::Payload;
use crate::devices::drivers::outgoing::Outgoing;
use crate::devices::drivers::overruns::Overruns;
use crate::devices::drivers::pace::pause;
use crate::devices::drivers::wishes::{Due, Outcome, Wishes};
use crate::devices::{Clue, Observation};

/// How long reports may take at the end.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    endpoint: Endpoint,
    credentials: PathBuf,
    units: watch::Receiver<Units<Settled>>,
    hands: Hands,
    outgoing: Outgoing,
    wishes: Wishes,
    writes: VecDeque<Due>,
    polls: Polls,
    /// The properties of each device that could not be read or written last time.
    bad: BTreeMap<DeviceName, BTreeSet<String>>,
    backoff: Backoff,
    /// Until when the server is left alone, and why.
    away: Option<(Instant, String)>,
    overruns: Overruns,
}

impl Task {
    pub(super) fn new(
        endpoint: Endpoint,
        credentials: PathBuf,
        units: watch::Receiver<Units<Settled>>,
        hands: Hands,
    ) -> Self {
        Self {
            endpoint,
            credentials,
            units,
            outgoing: Outgoing::new(Arc::clone(&hands.twins)),
            hands,
            wishes: Wishes::default(),
            writes: VecDeque::new(),
            polls: Polls::default(),
            bad: BTreeMap::new(),
            backoff: Backoff::default(),
            away: None,
            overruns: Overruns::new(Instant::now()),
        }
    }

    pub(super) async fn run(mut self) {
        let mut changed = self.hands.twins.changed();
        self.replan();
        loop {
            let next = [self.polls.next(), self.wishes.next()]
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
        }
        self.writes.retain(|due| units.contains_key(&due.device));
        let mut wanted = Vec::new();
        for (name, unit) in units.iter() {
            let properties = &unit.settings.properties;
            let written = properties.iter().filter(|(_, property)| property.write.is_some());
            self.wishes.serve(
                name,
                written.map(|(property, settled)| (property.clone(), settled.manner)),
            );
            if let Some(bad) = self.bad.get_mut(name) {
                bad.retain(|property| properties.contains_key(property));
            }
            for (property, settled) in properties {
                for (read, (target, _)) in settled.reads.iter().enumerate() {
                    let member = Member {
                        device: name.clone(),
                        property: property.clone(),
                        read,
                    };
                    wanted.push((target.clone(), settled.cycle, member));
                }
            }
        }
        self.polls.replan(wanted, Instant::now());
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
        } else if let Some((target, members)) = self.polls.due(Instant::now()) {
            self.read(&target, &members).await;
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

    async fn read(&mut self, target: &PathAndQuery, members: &[Member]) {
        let timeout = self.timeout(members.iter().map(|member| &member.device));
        let answer = self.ask(&Question::get(target.clone()), timeout).await;
        let awaited = members
            .iter()
            .any(|member| self.wishes.is_awaited(&member.device, &member.property));
        match &answer {
            Ok(body) => {
                self.polls.done(target, awaited, Instant::now());
                let payload = Payload::new(body);
                for member in members {
                    self.take(member, &payload);
                }
            }
            Err(failure) => {
                let now = Instant::now();
                match &self.away {
                    Some((until, _)) => self.polls.away(target, now, *until),
                    None => self.polls.done(target, awaited, now),
                }
                let path = target.path();
                for member in members {
                    let why = format!("GET {path}: {failure}");
                    self.fault(&member.device, &member.property, why);
                }
            }
        }
        self.say_states(!matches!(answer, Err(Failure::Away(_))));
    }

    /// One request. A server that is not there is left alone for a while, longer each time.
    async fn ask(&mut self, question: &Question, timeout: Duration) -> Result<bytes::Bytes, Failure> {
        let access = Access::read(&self.endpoint, &self.credentials);
        let answer = match access {
            Ok(access) => ask(&self.endpoint.place, &access, question, timeout).await,
            Err(error) => Err(Failure::Away(error.to_string())),
        };
        if let Err(Failure::Away(why)) = &answer {
            let wait = pause(&mut self.backoff);
            if self.away.is_none() {
                warn!(server = %self.endpoint.place, why, ?wait, "a device's server does not answer");
            }
            self.away = Some((Instant::now() + wait, why.clone()));
            return answer;
        }
        self.backoff.reset();
        if self.away.take().is_some() {
            info!(server = %self.endpoint.place, "a device's server answers again");
            self.wishes.reachable(Instant::now());
        }
        answer
    }

    fn take(&mut self, member: &Member, payload: &Result<Payload<'_>, String>) {
        let units = Arc::clone(&self.units.borrow());
        let property = units
            .get(&member.device)
            .and_then(|unit| unit.settings.properties.get(&member.property));
        let Some((property, (target, source))) =
            property.and_then(|property| Some((property, property.reads.get(member.read)?)))
        else {
            return;
        };
        match observe(property, source, payload) {
            Some((Observation::Fault(why), _)) => {
                let why = format!("GET {}: {why}", target.path());
                self.fault(&member.device, &member.property, why);
            }
            Some((observation, clue)) => {
                self.good(&member.device, &member.property, observation, clue);
            }
            // No report is no fault: it may be another day's path.
            None => {
                if let Some(bad) = self.bad.get_mut(&member.device) {
                    bad.remove(&member.property);
                }
            }
        }
    }

    fn good(&mut self, device: &DeviceName, property: &str, observation: Observation, clue: Clue) {
        if let Some(bad) = self.bad.get_mut(device) {
            bad.remove(property);
        }
        let note = self.overruns.note().to_owned();
        self.outgoing
            .seen(device, property, observation, Clue { note, ..clue });
    }

    fn fault(&mut self, device: &DeviceName, property: &str, why: String) {
        self.bad
            .entry(device.clone())
            .or_default()
            .insert(property.to_owned());
        self.outgoing
            .seen(device, property, Observation::Fault(why), Clue::default());
    }

    /// How the devices are: all behind one server, which answered or did not.
    fn say_states(&mut self, answered: bool) {
        let units = Arc::clone(&self.units.borrow());
        for (device, unit) in units.iter() {
            let bad = self.bad.get(device).is_some_and(|bad| !bad.is_empty());
            let state = match (answered, unit.faulty || bad) {
                (false, _) => DeviceState::Offline,
                (true, true) => DeviceState::Unhealthy,
                (true, false) => DeviceState::Online,
            };
            self.outgoing.state(device, state);
        }
    }

    async fn write(&mut self, due: &Due) -> Outcome {
        if self
            .away
            .as_ref()
            .is_some_and(|(until, _)| *until > Instant::now())
        {
            return Outcome::Unreachable;
        }
        let units = Arc::clone(&self.units.borrow());
        let property = units
            .get(&due.device)
            .and_then(|unit| unit.settings.properties.get(&due.property));
        let Some((property, write)) = property.and_then(|one| Some((one, one.write.as_ref()?))) else {
            return Outcome::Unreachable;
        };
        let question = match question(property, write, &due.value) {
            Ok(question) => question,
            Err(why) => return Outcome::Refused(why),
        };
        let timeout = self.timeout([&due.device].into_iter());
        let answer = self.ask(&question, timeout).await;
        match answer {
            Err(Failure::Away(_)) => {
                self.say_states(false);
                return Outcome::Unreachable;
            }
            Err(failure) => {
                let why = format!("{} {}: {failure}", question.method, question.target.path());
                self.fault(&due.device, &due.property, why.clone());
                self.say_states(true);
                return Outcome::Refused(why);
            }
            Ok(_) => {}
        }
        if write.optimistic {
            let value = Observation::Value(due.value.clone());
            self.good(&due.device, &due.property, value, Clue::default());
        } else {
            self.polls.hurry(&due.device, &due.property, Instant::now());
        }
        Outcome::Sent
    }

    /// The longest that these devices allow.
    fn timeout<'a>(&self, devices: impl Iterator<Item = &'a DeviceName>) -> Duration {
        let units = self.units.borrow();
        let timeouts = devices.filter_map(|device| units.get(device).map(|unit| unit.settings.timeout));
        timeouts.max().unwrap_or(Duration::from_secs(5))
    }

    fn tell_overruns(&mut self) {
        if let Some(cycles) = self.overruns.count(self.polls.overruns(), Instant::now()) {
            warn!(
                reason = "PollOverrun",
                cycles,
                server = %self.endpoint.place,
                "cycles were skipped: the server is too slow for them"
            );
        }
    }
}
