//! One server and all devices of a namespace behind it: one request at a time, writes first.

use std::collections::BTreeMap;
use std::path::PathBuf;

use protocol::devices::DeviceName;
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::body::{Question, observe, question};
use super::client::{Access, Failure, ask};
use super::config::{Endpoint, Property, Settled};
use super::polls::{Member, Polls};
use crate::backoff::Backoff;
use crate::devices::drivers::driver::Units;
use crate::devices::drivers::extract::Payload;
use crate::devices::drivers::pace::pause;
use crate::devices::drivers::polling::{Frame, Polled, Poller, Schedule};
use crate::devices::drivers::wishes::{Due, Outcome, Settable};
use crate::devices::drivers::writing::Manner;
use crate::devices::{Clue, Observation};

pub(super) struct Task {
    endpoint: Endpoint,
    credentials: PathBuf,
    polls: Polls,
    backoff: Backoff,
    /// Until when the server is left alone, and why.
    away: Option<(Instant, String)>,
}

impl Settable for Property {
    fn manner(&self) -> Option<Manner> {
        self.write.as_ref().map(|_| self.manner)
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
        &self.polls
    }

    fn tell_overruns(&self, cycles: u64) {
        warn!(
            reason = "PollOverrun",
            cycles,
            server = %self.endpoint.place,
            "cycles were skipped: the server is too slow for them"
        );
    }

    fn replan(&mut self, units: &Units<Settled>, now: Instant) {
        let mut wanted = Vec::new();
        for (name, unit) in units.iter() {
            for (property, settled) in &unit.settings.properties {
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
        self.polls.replan(wanted, now);
    }

    async fn read(&mut self, frame: &mut Frame<Settled>) {
        let Some((target, members)) = self.polls.due(Instant::now()) else {
            return;
        };
        let timeout = timeout(frame, members.iter().map(|member| &member.device));
        let answer = self.ask(frame, &Question::get(target.clone()), timeout).await;
        let awaited = members
            .iter()
            .any(|member| frame.wishes.is_awaited(&member.device, &member.property));
        match &answer {
            Ok(body) => {
                self.polls.done(&target, awaited, Instant::now());
                let payload = Payload::new(body);
                for member in &members {
                    take(frame, member, &payload);
                }
            }
            Err(failure) => {
                let now = Instant::now();
                match &self.away {
                    Some((until, _)) => self.polls.away(&target, now, *until),
                    None => self.polls.done(&target, awaited, now),
                }
                let path = target.path();
                for member in &members {
                    let why = format!("GET {path}: {failure}");
                    frame.fault(&member.device, &member.property, why);
                }
            }
        }
        let silence = answer.as_ref().err().and_then(Failure::silence);
        say_states(frame, silence.is_none());
    }

    async fn write(&mut self, frame: &mut Frame<Settled>, due: &Due) -> Outcome {
        if self
            .away
            .as_ref()
            .is_some_and(|(until, _)| *until > Instant::now())
        {
            return Outcome::Unreachable;
        }
        let units = frame.units();
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
        let timeout = timeout(frame, [&due.device].into_iter());
        let answer = self.ask(frame, &question, timeout).await;
        match answer {
            Err(Failure::Away(_)) => {
                say_states(frame, false);
                return Outcome::Unreachable;
            }
            Err(Failure::Unanswered(_)) => {
                say_states(frame, false);
                return Outcome::Unanswered;
            }
            Err(failure) => {
                let why = format!("{} {}: {failure}", question.method, question.target.path());
                frame.fault(&due.device, &due.property, why.clone());
                say_states(frame, true);
                return Outcome::Refused(why);
            }
            Ok(_) => {}
        }
        if write.optimistic {
            let value = Observation::Value(due.value.clone());
            frame.good(&due.device, &due.property, value, Clue::default());
        } else {
            self.polls.hurry(&due.device, &due.property, Instant::now());
        }
        Outcome::Sent
    }
}

impl Task {
    pub(super) fn new(endpoint: Endpoint, credentials: PathBuf) -> Self {
        Self {
            endpoint,
            credentials,
            polls: Polls::default(),
            backoff: Backoff::default(),
            away: None,
        }
    }

    /// One request. A server that is not there is left alone for a while, longer each time.
    async fn ask(
        &mut self,
        frame: &mut Frame<Settled>,
        question: &Question,
        timeout: Duration,
    ) -> Result<bytes::Bytes, Failure> {
        let access = Access::read(&self.endpoint, &self.credentials);
        let answer = match access {
            Ok(access) => ask(&self.endpoint.place, &access, question, timeout).await,
            Err(error) => Err(Failure::Away(error.to_string())),
        };
        if let Some(why) = answer.as_ref().err().and_then(Failure::silence) {
            let wait = pause(&mut self.backoff);
            if self.away.is_none() {
                warn!(server = %self.endpoint.place, why, ?wait, "a device's server does not answer");
            }
            self.away = Some((Instant::now() + wait, why.to_owned()));
            return answer;
        }
        self.backoff.reset();
        if self.away.take().is_some() {
            info!(server = %self.endpoint.place, "a device's server answers again");
            frame.wishes.reachable(Instant::now());
        }
        answer
    }
}

fn take(frame: &mut Frame<Settled>, member: &Member, payload: &Result<Payload<'_>, String>) {
    let units = frame.units();
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
            frame.fault(&member.device, &member.property, why);
        }
        Some((observation, clue)) => {
            frame.good(&member.device, &member.property, observation, clue);
        }
        // No report is no fault: it may be another day's path.
        None => frame.answered(&member.device, &member.property),
    }
}

/// How the devices are: all behind one server, which answered or did not.
fn say_states(frame: &mut Frame<Settled>, answered: bool) {
    for device in frame.units().keys() {
        frame.say_state(device, answered);
    }
}

/// The longest that these devices allow.
fn timeout<'a>(frame: &Frame<Settled>, devices: impl Iterator<Item = &'a DeviceName>) -> Duration {
    let units = frame.units();
    let timeouts = devices.filter_map(|device| units.get(device).map(|unit| unit.settings.timeout));
    timeouts.max().unwrap_or(Duration::from_secs(5))
}
