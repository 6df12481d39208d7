//! Whose turn it is when the node is short of something.
//!
//! Those first that use more than they requested, of these the one of the lowest priority, of those the one that
//! exceeds its request most.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::usage::Usage;
use super::{is_critical, priority};
use crate::node::thresholds::Signal;
use crate::pods::desired::DesiredPod;
use crate::pods::resources;

/// A pod that runs, and what it uses.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) desired: Arc<DesiredPod>,
    pub(super) usage: Usage,
}

/// The one that goes, if any may.
pub(super) fn first(candidates: &[Candidate], signal: Signal) -> Option<&Candidate> {
    // Without a count of processes nobody is known to have too many.
    let counts = |usage: &Usage| signal != Signal::Pids || usage.processes > 0;
    let may_go = candidates
        .iter()
        .filter(|candidate| !is_critical(&candidate.desired.pod) && counts(&candidate.usage));
    may_go.min_by_key(|candidate| {
        let (pod, used) = (&candidate.desired.pod, candidate.usage.of(signal));
        let over = if candidate.usage.is_cut(signal) {
            // Nobody gains by hiding what they use.
            i128::MAX
        } else {
            i128::from(used) - i128::from(request(pod, signal))
        };
        // Nobody requests inodes or processes.
        let exceeds = over > 0;
        (Reverse(exceeds), priority(pod), Reverse(over))
    })
}

fn request(pod: &Pod, signal: Signal) -> u64 {
    let requested = match signal {
        Signal::Memory => resources::pod_requests(pod).memory,
        Signal::Disk | Signal::Images => resources::pod_storage(pod).request,
        Signal::Inodes | Signal::ImageInodes | Signal::Pids => None,
    };
    u64::try_from(requested.unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{candidate, wanting};
    use super::*;

    fn whose_turn(candidates: &[Candidate], signal: Signal) -> String {
        let first = first(candidates, signal).map(|one| one.desired.pod.metadata.name.clone());
        first.flatten().unwrap_or_default()
    }

    fn of(name: &str, request: &str, priority: i32, used: u64) -> Candidate {
        let mut spec = wanting(&json!({"requests": {"memory": request, "ephemeral-storage": request}}));
        spec["priority"] = json!(priority);
        candidate(name, &spec, used)
    }

    #[test]
    fn who_uses_more_than_it_requested_goes_before_who_does_not_whatever_its_priority() {
        for signal in [Signal::Memory, Signal::Disk] {
            let pods = [
                of("modest", "100Mi", 0, 100 << 20),
                of("greedy", "100Mi", 1000, (100 << 20) + 1),
            ];
            assert_eq!(whose_turn(&pods, signal), "greedy");
        }
    }

    #[test]
    fn of_two_that_exceed_the_one_of_lower_priority_goes_and_then_the_greater() {
        for signal in [Signal::Memory, Signal::Disk] {
            let pods = [
                of("worthy", "1Mi", 10, 900 << 20),
                of("small", "1Mi", 0, 50 << 20),
                of("great", "100Mi", 0, 160 << 20),
            ];
            assert_eq!(whose_turn(&pods, signal), "great", "60 MiB above its request");
            assert_eq!(whose_turn(&pods[..2], signal), "small");
        }
    }

    #[test]
    fn a_pod_that_requested_nothing_exceeds_whatever_it_uses() {
        let pods = [of("asked", "200Mi", 0, 150 << 20), of("never", "0", 0, 1)];
        assert_eq!(whose_turn(&pods, Signal::Memory), "never");
    }

    #[test]
    fn who_has_more_than_can_be_counted_exceeds_and_exceeds_most() {
        let hiding = |priority: i32| {
            let mut pod = of("hiding", "1Gi", priority, 1);
            pod.usage.rest.cut = true;
            pod
        };
        for signal in [Signal::Disk, Signal::Inodes] {
            let pods = [of("great", "0", 0, 900 << 20), hiding(0)];
            assert_eq!(whose_turn(&pods, signal), "hiding");
            let pods = [of("great", "0", 0, 900 << 20), hiding(7)];
            assert_eq!(whose_turn(&pods, signal), "great", "the priority counts before");
        }
        let pods = [of("great", "0", 0, 900 << 20), hiding(0)];
        assert_eq!(whose_turn(&pods, Signal::Memory), "great");
    }

    #[test]
    fn inodes_are_nobodys_by_right() {
        let (few, many) = (of("few", "1Gi", 0, 10), of("many", "1Gi", 0, 20));
        assert_eq!(whose_turn(&[few, many], Signal::Inodes), "many");
    }

    #[test]
    fn of_images_what_was_written_beside_them_counts_and_nothing_else() {
        let (mut logs, mut layer) = (of("logs", "0", 0, 900), of("layer", "0", 0, 900));
        for (pod, apart) in [(&mut logs, 10), (&mut layer, 20)] {
            let container = pod.usage.containers.get_mut("c").unwrap();
            container.layer_apart.bytes = apart;
            container.layer_apart.inodes = apart;
        }
        logs.usage.containers.get_mut("c").unwrap().logs.bytes = 1 << 30;
        let pods = [logs, layer];
        assert_eq!(whose_turn(&pods, Signal::Images), "layer");
        assert_eq!(whose_turn(&pods, Signal::ImageInodes), "layer");
        assert_eq!(whose_turn(&pods, Signal::Disk), "logs");
    }

    #[test]
    fn of_processes_the_lowest_priority_goes_and_then_the_most_but_nobody_uncounted() {
        let counted = |name: &str, priority: i32, processes: u64| {
            let mut pod = of(name, "1Gi", priority, 0);
            pod.usage.processes = processes;
            pod
        };
        let pods = [
            counted("uncounted", -1, 0),
            counted("few", 0, 10),
            counted("many", 0, 20),
            counted("worthy", 5, 900),
        ];
        assert_eq!(whose_turn(&pods, Signal::Pids), "many");
        assert_eq!(whose_turn(&pods[..1], Signal::Pids), "");
    }

    #[test]
    fn what_is_critical_stays_if_it_is_the_last_thing_that_runs() {
        let mut mirror = wanting(&json!({}));
        mirror["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        let critical = [
            of("cluster", "0", 2_000_000_000, 1 << 30),
            of("node", "0", 2_000_001_000, 1 << 30),
            candidate("mirror", &mirror, 1 << 30),
        ];
        assert_eq!(whose_turn(&critical, Signal::Memory), "");
        let almost = of("almost", "0", 1_999_999_999, 1);
        let all = [critical[0].clone(), almost];
        assert_eq!(whose_turn(&all, Signal::Memory), "almost");
    }
}
