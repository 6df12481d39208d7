//! One pod in one line, in the words of `kubectl get pods`. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::PodLine;

impl PodLine {
    /// The line of a pod, by its spec and its newest status.
    pub fn of(pod: &Pod, status: &PodStatus) -> Self {
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let count = |found: usize| u32::try_from(found).unwrap_or(u32::MAX);
        let restarts: i32 = containers.iter().map(|container| container.restart_count).sum();
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            state: state(pod, status),
            ready: count(containers.iter().filter(|container| container.ready).count()),
            containers: count(pod.spec.as_ref().map_or(0, |spec| spec.containers.len())),
            restarts: u32::try_from(restarts).unwrap_or(0),
            ip: status.pod_ip.clone().unwrap_or_default(),
        }
    }
}

/// What is worth knowing most: that it goes, what an init container waits for, what a container
/// waits for or ended with, else the phase.
fn state(pod: &Pod, status: &PodStatus) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".to_owned();
    }
    let phase = status.phase.clone().unwrap_or_else(|| "Pending".to_owned());
    let init = status.init_container_statuses.iter().flatten().find_map(trouble);
    let main = status.container_statuses.iter().flatten().find_map(trouble);
    init.map(|reason| format!("Init:{reason}"))
        .or(main)
        .or_else(|| status.reason.clone())
        .unwrap_or(phase)
}

fn trouble(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        // Everything is on its way: the phase says it better.
        return waiting
            .reason
            .clone()
            .filter(|reason| reason != "PodInitializing" && reason != "ContainerCreating");
    }
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    Some(ended.reason.clone().unwrap_or_else(|| "Error".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn line(metadata: &Value, status: Value) -> PodLine {
        let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        PodLine::of(
            &serde_json::from_value(pod).unwrap(),
            &serde_json::from_value(status).unwrap(),
        )
    }

    fn container(state: &Value, ready: bool) -> Value {
        json!({"name": "a", "image": "", "imageID": "", "ready": ready, "restartCount": 2, "state": state})
    }

    #[test]
    fn a_running_pod_shows_its_phase_and_how_much_of_it_is_ready() {
        let status = json!({
            "phase": "Running", "podIP": "10.86.0.3",
            "containerStatuses": [container(&json!({"running": {}}), true), container(&json!({"running": {}}), false)],
        });
        let line = line(&json!({"name": "hello", "namespace": "default"}), status);
        assert_eq!(
            (line.state.as_str(), line.ready, line.containers, line.restarts),
            ("Running", 1, 2, 4)
        );
        assert_eq!(line.ip, "10.86.0.3");
    }

    #[test]
    fn what_a_pod_waits_for_or_failed_with_is_its_state() {
        let waiting = |reason: &str| json!({"phase": "Pending", "containerStatuses": [container(&json!({"waiting": {"reason": reason}}), false)]});
        assert_eq!(
            line(&json!({}), waiting("ImagePullBackOff")).state,
            "ImagePullBackOff"
        );
        assert_eq!(line(&json!({}), waiting("ContainerCreating")).state, "Pending");
        let init = json!({"phase": "Pending", "initContainerStatuses": [container(&json!({"terminated": {"exitCode": 1}}), false)]});
        assert_eq!(line(&json!({}), init).state, "Init:Error");
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(line(&going, json!({"phase": "Running"})).state, "Terminating");
        assert_eq!(line(&json!({}), json!({})).state, "Pending");
    }
}
