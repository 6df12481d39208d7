//! One mapper: brings it to what it should have, and notices when it is gone.
//!
//! The plan says what to call next; this only waits. A call that fails is tried again with growing
//! pauses, and by then says what is true then. Each session is a task of its own, from a registration to the
//! next one of the same protocol.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use protocol::devices::{DeviceName, DeviceState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::caller::{Call, CallError, Caller};
use super::message::Digest;
use super::plan::{Accepted, Step, Verb, Wanted, plan};
use super::presence::Presence;
use super::rows::{self, Registration, Rows};
use crate::devices::{Refused, Twins};

/// The first pause after a call that failed, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// One mapper, from a registration on.
pub(super) struct Session {
    registration: Registration,
    accepted: Accepted,
    twins: Arc<dyn Twins>,
    rows: Arc<dyn Rows>,
    caller: Box<dyn Caller>,
    changed: watch::Receiver<u64>,
    wanted: Wanted,
    presence: Presence,
    pauses: BTreeMap<Step, Pause>,
}

/// A call that failed, and when it may be made again.
struct Pause {
    failures: u32,
    until: Instant,
    /// What it carried; anything newer is sent without waiting.
    carried: Option<Digest>,
}

impl Session {
    /// A mapper that has accepted this much.
    pub(super) fn new(
        registration: Registration,
        accepted: Accepted,
        twins: Arc<dyn Twins>,
        rows: Arc<dyn Rows>,
        caller: Box<dyn Caller>,
    ) -> Self {
        Self {
            changed: twins.changed(),
            wanted: wanted(&registration, &*twins),
            presence: Presence::new(Instant::now()),
            pauses: BTreeMap::new(),
            registration,
            accepted,
            twins,
            rows,
            caller,
        }
    }

    /// Serves the mapper until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        loop {
            if self.changed.has_changed().is_ok_and(|changed| changed) {
                self.refresh();
            }
            if Instant::now() >= self.presence.look_at() {
                self.look().await;
                continue;
            }
            let (step, wake_at) = self.next();
            if let Some(step) = step {
                self.carry_out(step).await;
                continue;
            }
            tokio::select! {
                () = sleep_until(wake_at) => {}
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        // The twins have ended; so will this task.
                        return;
                    }
                    self.refresh();
                }
            }
        }
    }

    fn refresh(&mut self) {
        self.changed.mark_unchanged();
        self.wanted = wanted(&self.registration, &*self.twins);
        let steps = plan(&self.wanted, &self.accepted);
        let Self { pauses, wanted, .. } = self;
        pauses.retain(|step, pause| steps.contains(step) && carried(step, wanted) == pause.carried);
    }

    /// The call to make now, if any; else when to look again.
    fn next(&self) -> (Option<Step>, Instant) {
        let look_at = self.presence.look_at();
        if !self.presence.is_there() {
            return (None, look_at);
        }
        let (now, mut wake_at) = (Instant::now(), look_at);
        for step in plan(&self.wanted, &self.accepted) {
            match self.pauses.get(&step) {
                Some(pause) if pause.until > now => wake_at = wake_at.min(pause.until),
                Some(_) | None => return (Some(step), now),
            }
        }
        (None, wake_at)
    }

    async fn carry_out(&mut self, step: Step) {
        let Some(call) = call(&step, &self.wanted) else {
            return;
        };
        match self.caller.call(call).await {
            Ok(()) => {
                debug!(protocol = self.registration.protocol, ?step, "a mapper accepted");
                self.pauses.remove(&step);
                self.accepted.take(&step, &self.wanted);
                let rows = &*self.rows;
                if let Err(error) = rows::accept(rows, &self.registration, &self.accepted, &step).await {
                    // After a restart the mapper is told once more.
                    warn!(
                        error = &error as &dyn Error,
                        "what a mapper accepted is not stored"
                    );
                }
            }
            Err(CallError::Unreachable(_)) => self.refused().await,
            Err(error) => self.pause(step, &error),
        }
    }

    fn pause(&mut self, step: Step, error: &CallError) {
        let carried = carried(&step, &self.wanted);
        let failures = self.pauses.get(&step).map_or(1, |pause| pause.failures + 1);
        let protocol = &self.registration.protocol;
        if failures == 1 {
            warn!(protocol, verb = ?step.verb, name = %step.name, %error, "a call of a mapper failed; it is made again");
        } else {
            debug!(protocol, ?step, %error, failures, "a call of a mapper failed again");
        }
        let longest = LONGEST_PAUSE.min(PAUSE * 2_u32.pow((failures - 1).min(16)));
        let pause = Pause {
            failures,
            // Devices of one mapper must not all come at once for ever.
            until: Instant::now() + longest.mul_f64(rand::random_range(0.5..=1.0)),
            carried,
        };
        self.pauses.insert(step, pause);
    }

    async fn look(&mut self) {
        if !self.caller.answers().await {
            return self.refused().await;
        }
        if self.presence.answered(Instant::now()) {
            info!(
                protocol = self.registration.protocol,
                "the mapper's socket answers"
            );
            self.pauses.clear();
        }
    }

    async fn refused(&mut self) {
        if self.presence.refused(Instant::now()) && self.give_up().await {
            info!(
                protocol = self.registration.protocol,
                socket = %self.registration.address.display(),
                "the mapper is gone; the state of its devices is unknown"
            );
            self.presence.given_up();
        }
    }

    /// Says that nobody knows how its devices are; false if that must be said again.
    async fn give_up(&self) -> bool {
        let mut all = true;
        for name in self.wanted.devices.keys().chain(self.wanted.held.keys()) {
            let told = self.twins.state(name.clone(), DeviceState::Unknown).await;
            all &= !matches!(told, Err(Refused::Unavailable(_)));
        }
        all
    }
}

/// What the mapper of a registration should have now.
pub(super) fn wanted(registration: &Registration, twins: &dyn Twins) -> Wanted {
    Wanted::of(&registration.protocol, &twins.devices(), |name| {
        twins.wishes(name)
    })
}

fn call(step: &Step, wanted: &Wanted) -> Option<Call> {
    let name: &DeviceName = &step.name;
    let model = || Some(wanted.models.get(name)?.message.clone());
    let device = || Some(wanted.devices.get(name)?.message.clone());
    Some(match step.verb {
        Verb::Remove => Call::Remove(name.clone()),
        Verb::CreateModel => Call::CreateModel(model()?),
        Verb::UpdateModel => Call::UpdateModel(model()?),
        Verb::Register => Call::Register(device()?),
        Verb::Update => Call::Update(device()?),
        Verb::RemoveModel => Call::RemoveModel(name.clone()),
    })
}

fn carried(step: &Step, wanted: &Wanted) -> Option<Digest> {
    match step.verb {
        Verb::CreateModel | Verb::UpdateModel => {
            wanted.models.get(&step.name).map(|model| model.digest.clone())
        }
        Verb::Register | Verb::Update => wanted.devices.get(&step.name).map(|device| device.digest.clone()),
        Verb::Remove | Verb::RemoveModel => None,
    }
}

#[cfg(test)]
mod tests;
