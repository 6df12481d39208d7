//! The conditions of the node: Ready and the three pressures.
//!
//! Pure but for what it remembers: since when each condition holds, and when a pressure was
//! last seen. A pressure that was seen holds for five minutes more, unless the configuration has
//! another time, so that a node that swings around a threshold does not flap. Reasons and messages are the kubelet's; dashboards and
//! scripts match on them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use super::shortage::{History, Policy};
use super::{Load, Observation, RuntimeCondition, RuntimeFacts};

/// Of process ids, one part in so many must be free. The kubelet sets no threshold by default;
/// on a small device a fork bomb in one pod would otherwise go unseen.
const PIDS_RESERVED_PART: u64 = 50;

/// One instant, on the wall and on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what is shown; may jump.
    pub wall: Timestamp,
    /// For what is measured; never jumps.
    pub steady: Instant,
}

/// Since when what holds.
#[derive(Debug, Default)]
pub struct Conditions {
    policy: Policy,
    history: History,
    since: BTreeMap<&'static str, (bool, Timestamp)>,
    pressed: BTreeMap<&'static str, Instant>,
}

/// Those that are judged here.
const KINDS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// A condition's words: (reason, message) when it holds and when it does not.
type Words = [(&'static str, &'static str); 2];

const MEMORY: Words = [
    (
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
    ),
    (
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
];
const DISK: Words = [
    ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
];
const PIDS: Words = [
    (
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
    ),
    ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
];

impl Conditions {
    /// Judges by this policy.
    pub fn with(policy: Policy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// Goes on from what was shown before a restart: a status that has not changed has the time of then.
    pub fn remember(&mut self, shown: &[NodeCondition]) {
        for kind in KINDS {
            let before = shown.iter().find(|condition| condition.type_ == kind);
            if let Some(before) = before
                && let Some(Time(since)) = before.last_transition_time
            {
                self.since.insert(kind, (before.status == "True", since));
            }
        }
    }

    /// A pressure was seen at that time, by someone else.
    pub fn press(&mut self, kind: &'static str, at: Instant) {
        let last = self.pressed.entry(kind).or_insert(at);
        *last = at.max(*last);
    }

    /// Judges an observation. Ready stands last, as readers of old expect.
    pub fn judge(&mut self, seen: &Observation, now: Now) -> Vec<NodeCondition> {
        let shortages = self
            .history
            .look(&self.policy, seen.machine.memory, &seen.load, now.steady);
        let short = |kind: &str| shortages.iter().any(|one| one.signal.condition() == kind);
        let no_pids = short("PIDPressure") || pids_short(&seen.load);
        vec![
            self.pressure("MemoryPressure", short("MemoryPressure"), MEMORY, now),
            self.pressure("DiskPressure", short("DiskPressure"), DISK, now),
            self.pressure("PIDPressure", no_pids, PIDS, now),
            self.ready(seen, now),
        ]
    }

    fn pressure(&mut self, kind: &'static str, seen: bool, words: Words, now: Now) -> NodeCondition {
        if seen {
            self.press(kind, now.steady);
        }
        let recent = |last: &Instant| now.steady.duration_since(*last) < self.policy.transition;
        let holds = self.pressed.get(kind).is_some_and(recent);
        let (reason, message) = words[usize::from(!holds)];
        self.since(kind, holds, now).because(reason, message.to_owned())
    }

    fn ready(&mut self, seen: &Observation, now: Now) -> NodeCondition {
        let troubles = troubles(seen);
        if troubles.is_empty() {
            let message = "kubelet is posting ready status".to_owned();
            return self.since("Ready", true, now).because("KubeletReady", message);
        }
        self.since("Ready", false, now)
            .because("KubeletNotReady", aggregate(&troubles))
    }

    fn since(&mut self, kind: &'static str, holds: bool, now: Now) -> Verdict {
        let entry = self.since.entry(kind).or_insert((holds, now.wall));
        if entry.0 != holds {
            *entry = (holds, now.wall);
        }
        Verdict {
            kind,
            holds,
            since: entry.1,
        }
    }
}

/// A condition before its words.
struct Verdict {
    kind: &'static str,
    holds: bool,
    since: Timestamp,
}

impl Verdict {
    fn because(self, reason: &str, message: String) -> NodeCondition {
        NodeCondition {
            type_: self.kind.to_owned(),
            status: if self.holds { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(self.since)),
            last_heartbeat_time: None,
        }
    }
}

fn pids_short(load: &Load) -> bool {
    load.pids_max.saturating_sub(load.pids_used) < load.pids_max / PIDS_RESERVED_PART
}

fn troubles(seen: &Observation) -> Vec<String> {
    let mut troubles = match &seen.runtime {
        Ok(facts) => runtime_troubles(facts),
        Err(why) => vec!["container runtime is down".to_owned(), why.clone()],
    };
    if seen.load.disk.is_none() {
        troubles.push("missing node capacity for resources: ephemeral-storage".to_owned());
    }
    troubles
}

fn runtime_troubles(facts: &RuntimeFacts) -> Vec<String> {
    let runtime = (!holds(facts.runtime_ready.as_ref())).then(|| {
        format!(
            "container runtime not ready: {}",
            shown("RuntimeReady", facts.runtime_ready.as_ref())
        )
    });
    let network = (!holds(facts.network_ready.as_ref())).then(|| {
        let shown = shown("NetworkReady", facts.network_ready.as_ref());
        format!("container runtime network not ready: {shown}")
    });
    runtime.into_iter().chain(network).collect()
}

fn holds(condition: Option<&RuntimeCondition>) -> bool {
    condition.is_some_and(|condition| condition.status)
}

fn shown(kind: &str, condition: Option<&RuntimeCondition>) -> String {
    condition.map_or_else(
        || "<nil>".to_owned(),
        |RuntimeCondition {
             status,
             reason,
             message,
         }| { format!("{kind}={status} reason:{reason} message:{message}") },
    )
}

/// One trouble stands alone, several in brackets.
fn aggregate(troubles: &[String]) -> String {
    match troubles {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests;
