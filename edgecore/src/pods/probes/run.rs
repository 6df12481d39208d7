//! The task of one probe: waits, runs it, tells what changed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::debug;

use super::action::Action;
use super::host::Place;
use super::machine::{Machine, Outcome};
use super::{ProbeKill, ProbeKind, ProbeResults, ProbeTarget};
use crate::pods::events::Tone;

const TRIES: usize = 3;

/// One probe of one run of a container.
pub(super) struct Worker {
    kind: ProbeKind,
    target: Arc<ProbeTarget>,
    results: Arc<watch::Sender<ProbeResults>>,
    probe: Probe,
    place: Place,
    action: Action,
    machine: Machine,
    first: Duration,
    period: Duration,
    grace_seconds: Option<i64>,
}

impl Worker {
    /// The worker of a probe that the container has and that still has something to say.
    pub(super) fn new(
        kind: ProbeKind,
        target: &Arc<ProbeTarget>,
        results: &Arc<watch::Sender<ProbeResults>>,
    ) -> Option<Self> {
        let container = &target.container;
        let probe = match kind {
            ProbeKind::Startup if results.borrow().started => None,
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }?;
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let place = target.host.now();
        Some(Self {
            kind,
            target: Arc::clone(target),
            results: Arc::clone(results),
            action: Action::new(probe, target, &place.host),
            probe: probe.clone(),
            place,
            machine: Machine::new(probe),
            first: first_after(probe, target, period),
            period,
            grace_seconds: probe.termination_grace_period_seconds,
        })
    }

    /// Probes until there is nothing left to find out.
    pub(super) async fn run(mut self) {
        let ready_at = Instant::now() + self.first;
        if self.kind != ProbeKind::Startup && !self.started().await {
            return;
        }
        let mut ticks = interval_at(ready_at.max(Instant::now()), self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = self.probe().await;
            self.tell(&outcome);
            if self
                .machine
                .observe(&outcome)
                .is_some_and(|success| self.settle(success))
            {
                return;
            }
        }
    }

    /// Waits for the container to have started; false when it never will.
    async fn started(&self) -> bool {
        self.results
            .subscribe()
            .wait_for(|results| results.started || results.kill.is_some())
            .await
            .is_ok()
            && self.results.borrow().started
    }

    /// What could not be run is tried again at once, as the kubelet does.
    async fn probe(&mut self) -> Outcome {
        let place = self.target.host.now();
        if place != self.place {
            self.action = Action::new(&self.probe, &self.target, &place.host);
            self.place = place;
        }
        let mut outcome = self.action.run().await;
        for _ in 1..TRIES {
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
            outcome = self.action.run().await;
        }
        self.target.host.judged(outcome, &self.place, &self.probe)
    }

    /// Takes a result in; says whether this probe is over.
    fn settle(&self, success: bool) -> bool {
        match (self.kind, success) {
            (ProbeKind::Startup, true) => {
                let ready = self.target.container.readiness_probe.is_none();
                self.change(|results| {
                    results.started = true;
                    results.ready |= ready;
                });
                true
            }
            (ProbeKind::Liveness, true) => false,
            (ProbeKind::Readiness, ready) => {
                self.change(|results| results.ready = ready);
                false
            }
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                self.change(|results| results.kill = results.kill.take().or_else(|| Some(self.kill())));
                true
            }
        }
    }

    fn kill(&self) -> ProbeKill {
        let message = format!(
            "Container {} failed {} probe",
            self.target.container.name,
            self.kind.word()
        );
        ProbeKill {
            kind: self.kind,
            message,
            grace_seconds: self.grace_seconds,
        }
    }

    fn change(&self, change: impl FnOnce(&mut ProbeResults)) {
        self.results.send_if_modified(|results| {
            let before = results.clone();
            change(results);
            *results != before
        });
    }

    fn tell(&self, outcome: &Outcome) {
        let title = self.kind.title();
        let (reason, message) = match outcome {
            Outcome::Success => return,
            Outcome::Warning(what) => ("ProbeWarning", format!("{title} probe warning: {what}")),
            Outcome::Failure(why) => ("Unhealthy", format!("{title} probe failed: {why}")),
            Outcome::Error(why) => (
                "Unhealthy",
                format!("{title} probe errored and resulted in unknown state: {why}"),
            ),
        };
        debug!(container = %self.target.container.name, %message, "probe");
        (self.target.tell)((Tone::Warning, reason, &message));
    }
}

/// The initial delay counts from the container's start. After adoption probes are spread over a period.
fn first_after(probe: &Probe, target: &ProbeTarget, period: Duration) -> Duration {
    let delay = seconds(probe.initial_delay_seconds, 0).saturating_sub(target.running_for);
    match target.adopted {
        Some(_) => delay.max(period.mul_f64(rand::random::<f64>())),
        None => delay,
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value
            .and_then(|value| u64::try_from(value).ok())
            .filter(|value| *value > 0)
            .unwrap_or(default),
    )
}
