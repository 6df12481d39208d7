//! Probes: one task a probe, a pure state machine each (`machine`), one file a kind of action.
//!
//! ```text
//! startup --success--> started --> liveness --failures--> kill
//!    `------failures----------------------------------------^
//!                              `--> readiness --> ready / not ready
//! ```
//!
//! The results of a container stand in one watch channel. **Invariants:** liveness and readiness do not run
//! before startup has succeeded; a probe that could not be run (the runtime is away) decides nothing; after
//! adoption nothing flips until a probe has spoken; an address of the device that goes or changes fails no
//! container on the host network.

mod action;
mod dial;
mod grpc;
mod host;
mod http;
mod machine;
mod run;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::host::Host;
use self::http::Asker;
pub(crate) use self::http::HttpGet;
use super::events::Tone;
use crate::runtime::Runtime;
use run::Worker;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// `startupProbe`.
    Startup,
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
}

impl ProbeKind {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As it starts a sentence.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

/// What the probes of a container say now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResults {
    /// `status.started`.
    pub started: bool,
    /// Readiness as far as probes decide it. Never true before `started`.
    pub ready: bool,
    /// Set once when the container must be killed and restarted by its policy.
    pub kill: Option<ProbeKill>,
}

/// A liveness or startup probe failed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeKill {
    /// Liveness or startup.
    pub kind: ProbeKind,
    /// `Container x failed liveness probe`; `, will be restarted` is for the caller to add.
    pub message: String,
    /// The probe's own terminationGracePeriodSeconds.
    pub grace_seconds: Option<i64>,
}

/// Whom to tell of a probe that failed or warns: an event's type, reason (`Unhealthy`, `ProbeWarning`) and message.
/// Telling never waits.
pub type Tell = Arc<dyn Fn((Tone, &str, &str)) + Send + Sync>;

/// A running container, as its probes see it.
#[derive(Clone)]
pub struct ProbeTarget {
    /// The container as the pod's spec says it.
    pub container: Container,
    /// The runtime's id of this run.
    pub container_id: String,
    /// Where it is asked.
    pub host: Host,
    /// How long it has been running.
    pub running_for: Duration,
    /// Adopted after a restart of edgecore: what was known of (started, ready).
    pub adopted: Option<(bool, bool)>,
    /// Runs the commands of exec probes.
    pub runtime: Arc<dyn Runtime>,
    /// Hears of failures.
    pub tell: Tell,
}

/// When the probes of a container stop.
#[derive(Clone, Debug)]
pub struct Stop {
    /// All of them.
    pub all: CancellationToken,
    /// Those of liveness and startup alone: the pod ends.
    pub ending: CancellationToken,
}

impl Default for Stop {
    fn default() -> Self {
        let all = CancellationToken::new();
        let ending = all.child_token();
        Self { all, ending }
    }
}

/// Starts the probes of a container in `tasks`, until `stop`. Without probes nothing is spawned and the
/// results say started and ready.
pub fn start(tasks: &mut JoinSet<()>, target: ProbeTarget, stop: &Stop) -> watch::Receiver<ProbeResults> {
    let (results, seen) = watch::channel(initial(&target));
    let (results, target) = (Arc::new(results), Arc::new(target));
    for kind in ProbeKind::ALL {
        if let Some(worker) = Worker::new(kind, &target, &results) {
            let stop = match kind {
                ProbeKind::Startup | ProbeKind::Liveness => stop.ending.clone(),
                ProbeKind::Readiness => stop.all.clone(),
            };
            tasks.spawn(async move { stop.run_until_cancelled(worker.run()).await.unwrap_or_default() });
        }
    }
    seen
}

/// The request of a lifecycle hook: made as probes make theirs, but under another name.
pub(crate) fn hook_request(
    get: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
) -> Result<HttpGet, String> {
    let port = action::port(&get.port, container)?;
    HttpGet::new(get, pod_ip, port, Asker::Hook)
}

fn initial(target: &ProbeTarget) -> ProbeResults {
    let (started, ready) = target.adopted.unwrap_or((false, false));
    let started = started || target.container.startup_probe.is_none();
    let ready = started && (ready || target.container.readiness_probe.is_none());
    ProbeResults {
        started,
        ready,
        kill: None,
    }
}

#[cfg(test)]
mod tests;
