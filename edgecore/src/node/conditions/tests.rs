//! Observations, and what the node says of itself.

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
async fn after_a_restart_only_what_changed_meanwhile_has_a_new_time() {
    let start = Instant::now();
    let before = Conditions::default().judge(&healthy(), at(0, start));
    let mut seen = healthy();
    seen.load.disk = Some(Disk {
        bytes: 1000,
        bytes_free: 1,
        inodes: 0,
        inodes_free: 0,
    });
    let mut conditions = Conditions::default();
    conditions.remember(&before);
    let after = conditions.judge(&seen, at(500, start));
    let since = |conditions: &[NodeCondition], at: usize| conditions[at].last_transition_time.clone();
    assert_eq!(since(&after, 1), Some(Time(at(500, start).wall)));
    for same in [0, 2, 3] {
        assert_eq!(since(&after, same), since(&before, same), "{}", after[same].type_);
    }
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
