//! What pods request of the device's disk, and what they are limited to.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pods::aggregate;
use super::{Amounts, whole};

const STORAGE: &str = "ephemeral-storage";

/// Bytes on disk; `None` means not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Requested by all containers together.
    pub request: Option<i64>,
    /// What those that have a limit may hold together.
    pub limit: Option<i64>,
}

/// What a pod may have of the disk. Containers add up as for memory.
pub fn pod_storage(pod: &Pod) -> Storage {
    Storage {
        request: aggregate(pod, |container| in_place_of_memory(storage_request(container)))
            .sum
            .memory,
        limit: aggregate(pod, |container| in_place_of_memory(storage_limit(container)))
            .sum
            .memory,
    }
}

/// The sum is the same whatever is added up.
fn in_place_of_memory(bytes: Option<&Quantity>) -> Amounts {
    Amounts {
        memory: bytes.and_then(whole),
        ..Amounts::default()
    }
}

/// What a container may hold on disk.
pub fn storage_limit(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)
}

fn storage_request(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.requests.as_ref()?.get(STORAGE)
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::testing::pod;
    use super::*;

    #[test]
    fn containers_add_up_and_init_containers_count_where_they_want_more() {
        let spec = r#"{
            "initContainers": [{"name": "i", "resources": {"limits": {"ephemeral-storage": "10Mi"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"ephemeral-storage": "1Mi"}, "limits": {"ephemeral-storage": "2Mi"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "3Mi"}}},
                {"name": "c"}]}"#;
        assert_eq!(
            pod_storage(&pod(spec)),
            Storage {
                request: Some(1 << 20),
                limit: Some(10 << 20)
            }
        );
        assert_eq!(pod_storage(&pod("{}")), Storage::default());
    }
}
