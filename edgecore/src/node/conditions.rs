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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::shortage::Soft;
    use crate::node::thresholds::{Signal, Threshold};
    use crate::node::{Disk, Machine};

    fn healthy() -> Observation {
        let yes = || {
            Some(RuntimeCondition {
                status: true,
                ..RuntimeCondition::default()
            })
        };
        Observation {
            machine: Machine {
                memory: 8 << 30,
                ..Machine::default()
            },
            load: Load {
                memory_available: 4 << 30,
                disk: Some(Disk {
                    bytes: 1000,
                    bytes_free: 500,
                    inodes: 100,
                    inodes_free: 50,
                }),
                images: None,
                pids_used: 200,
                pids_max: 32768,
            },
            runtime: Ok(RuntimeFacts {
                runtime_ready: yes(),
                network_ready: yes(),
                ..RuntimeFacts::default()
            }),
            device_address: None,
        }
    }

    fn at(seconds: i64, start: Instant) -> Now {
        let wall = Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        Now {
            wall,
            steady: start + Duration::from_secs(seconds.unsigned_abs()),
        }
    }

    fn shown(conditions: &[NodeCondition]) -> Vec<String> {
        conditions
            .iter()
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_healthy_node_is_ready_and_under_no_pressure() {
        let found = Conditions::default().judge(&healthy(), at(0, Instant::now()));
        assert_eq!(
            shown(&found),
            [
                "MemoryPressure=False",
                "DiskPressure=False",
                "PIDPressure=False",
                "Ready=True"
            ]
        );
        assert_eq!(found[3].reason.as_deref(), Some("KubeletReady"));
        assert_eq!(found[0].reason.as_deref(), Some("KubeletHasSufficientMemory"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_is_not_ready_is_told_in_the_kubelets_words() {
        let mut seen = healthy();
        seen.runtime = seen.runtime.map(|facts| RuntimeFacts {
            network_ready: Some(RuntimeCondition {
                status: false,
                reason: "NetworkPluginNotReady".to_owned(),
                message: "Network plugin returns error: cni plugin not initialized".to_owned(),
            }),
            ..facts
        });
        let found = Conditions::default().judge(&seen, at(0, Instant::now()));
        assert_eq!(found[3].status, "False");
        assert_eq!(
            found[3].message.as_deref(),
            Some(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                 message:Network plugin returns error: cni plugin not initialized"
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_does_not_answer_makes_the_node_not_ready() {
        let seen = Observation {
            runtime: Err("connection refused".to_owned()),
            ..healthy()
        };
        let found = Conditions::default().judge(&seen, at(0, Instant::now()));
        assert_eq!(
            found[3].message.as_deref(),
            Some("[container runtime is down, connection refused]")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pressure_holds_for_five_minutes_after_it_was_last_seen() {
        let start = Instant::now();
        let mut conditions = Conditions::default();
        let mut short = healthy();
        short.load.memory_available = 50 << 20;
        assert_eq!(conditions.judge(&short, at(0, start))[0].status, "True");
        assert_eq!(conditions.judge(&healthy(), at(299, start))[0].status, "True");
        assert_eq!(conditions.judge(&healthy(), at(300, start))[0].status, "False");
    }

    #[tokio::test(start_paused = true)]
    async fn below_a_soft_threshold_the_pressure_is_shown_at_once_and_for_as_long_as_is_configured() {
        let start = Instant::now();
        let mut policy = Policy {
            transition: Duration::from_secs(20),
            ..Policy::default()
        };
        let soft = Soft {
            threshold: Threshold::Percent(20),
            grace: Duration::from_mins(10),
        };
        policy.soft.set(Signal::Memory, Some(soft));
        let mut conditions = Conditions::with(policy);
        let mut short = healthy();
        short.load.memory_available = 1 << 30;
        assert_eq!(conditions.judge(&short, at(0, start))[0].status, "True");
        assert_eq!(conditions.judge(&healthy(), at(19, start))[0].status, "True");
        assert_eq!(conditions.judge(&healthy(), at(20, start))[0].status, "False");
    }

    #[tokio::test(start_paused = true)]
    async fn the_transition_time_moves_only_when_the_status_does() {
        let start = Instant::now();
        let mut conditions = Conditions::default();
        let first = conditions.judge(&healthy(), at(0, start));
        let second = conditions.judge(&healthy(), at(10, start));
        assert_eq!(first, second);
        let down = Observation {
            runtime: Err("gone".to_owned()),
            ..healthy()
        };
        let third = conditions.judge(&down, at(20, start));
        assert_eq!(third[3].last_transition_time, Some(Time(at(20, start).wall)));
        assert_eq!(third[0], second[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_and_a_full_process_table_are_pressures() {
        let mut seen = healthy();
        seen.load.disk = Some(Disk {
            bytes: 1000,
            bytes_free: 99,
            inodes: 0,
            inodes_free: 0,
        });
        seen.load.pids_used = 32_700;
        let found = Conditions::default().judge(&seen, at(0, Instant::now()));
        assert_eq!(
            (found[1].status.as_str(), found[2].status.as_str()),
            ("True", "True")
        );
    }
}
