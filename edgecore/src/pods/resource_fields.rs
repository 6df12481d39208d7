//! Resource fields: what a container asks for, told to itself or to a volume (`resourceFieldRef`).
//!
//! Pure. A limit that is not set is told as the node's allocatable, because that is what the container is
//! really limited to; huge pages are never given more than was asked for, so theirs is told as 0.
//!
//! **Invariant:** numbers are rounded up to the divisor as the kubelet rounds them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use thiserror::Error;

use super::resources;
use super::spec;

/// Resources by name, as a Node's `status.allocatable`.
pub type Resources = BTreeMap<String, Quantity>;

const HUGE_PAGES: &str = "hugepages-";

/// Why a resource field cannot be told.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResourceFieldError {
    /// The pod has no such container.
    #[error("container {0} not found")]
    NoContainer(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Unsupported(String),
    /// The divisor does not parse.
    #[error("quantity {0:?} cannot be read")]
    Divisor(String),
}

/// For a variable of `container`, which may name another container of its pod.
pub fn for_env(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    container: &Container,
    allocatable: &Resources,
) -> Result<String, ResourceFieldError> {
    let allocatable = limited_by_pod(pod, allocatable);
    let Some(name) = selector.container_name.as_deref().filter(|name| !name.is_empty()) else {
        return tell(selector, container, &allocatable);
    };
    let main = spec::spec(pod).map(|spec| spec.containers.as_slice());
    if let Some(main) = main.unwrap_or_default().iter().find(|c| c.name == name) {
        return tell(selector, main, &allocatable);
    }
    // The kubelet fills in no limits of an init container that another container asks about.
    tell(selector, find(pod, name)?, &Resources::new())
}

/// For a file of a volume, which always names a container.
pub fn for_volume(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    allocatable: &Resources,
) -> Result<String, ResourceFieldError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    tell(selector, find(pod, name)?, allocatable)
}

fn find<'a>(pod: &'a Pod, name: &str) -> Result<&'a Container, ResourceFieldError> {
    let main = spec::spec(pod).map(|spec| spec.containers.as_slice());
    let mut main = main.unwrap_or_default().iter();
    main.find(|container| container.name == name)
        .or_else(|| spec::all_containers(pod).find(|container| container.name == name))
        .ok_or_else(|| ResourceFieldError::NoContainer(name.to_owned()))
}

/// The pod's own limits stand before the node's allocatable.
fn limited_by_pod(pod: &Pod, allocatable: &Resources) -> Resources {
    let own = spec::spec(pod).and_then(|spec| spec.resources.as_ref()?.limits.as_ref());
    let mut limited = allocatable.clone();
    for name in ["cpu", "memory"] {
        if let Some(limit) = own.and_then(|own| own.get(name)).filter(|limit| !is_zero(limit))
            && let Some(known) = limited.get_mut(name)
        {
            known.clone_from(limit);
        }
    }
    limited
}

fn tell(
    selector: &ResourceFieldSelector,
    container: &Container,
    allocatable: &Resources,
) -> Result<String, ResourceFieldError> {
    let unsupported = || ResourceFieldError::Unsupported(selector.resource.clone());
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let asked = container.resources.as_ref();
    let (said, fallback) = match list {
        "limits" => (asked.and_then(|r| r.limits.as_ref()), Some(allocatable)),
        "requests" => (asked.and_then(|r| r.requests.as_ref()), None),
        _ => return Err(unsupported()),
    };
    let said = said.and_then(|said| said.get(name));
    let fallback = || fallback.and_then(|all| all.get(name));
    let (amount, rounded): (_, fn(&Quantity) -> Option<i64>) = match name {
        "cpu" => (
            said.filter(|said| !is_zero(said)).or_else(fallback),
            resources::milli,
        ),
        "memory" | "ephemeral-storage" => (
            said.filter(|said| !is_zero(said)).or_else(fallback),
            resources::whole,
        ),
        _ if name.starts_with(HUGE_PAGES) => (said, resources::whole),
        _ => return Err(unsupported()),
    };
    divided(amount, selector.divisor.as_ref(), rounded)
}

fn divided(
    amount: Option<&Quantity>,
    divisor: Option<&Quantity>,
    rounded: fn(&Quantity) -> Option<i64>,
) -> Result<String, ResourceFieldError> {
    let one = Quantity("1".to_owned());
    let divisor = divisor.filter(|divisor| !is_zero(divisor)).unwrap_or(&one);
    let unread = |quantity: &Quantity| ResourceFieldError::Divisor(quantity.0.clone());
    let by = rounded(divisor)
        .filter(|by| *by != 0)
        .ok_or_else(|| unread(divisor))?;
    let amount = match amount {
        Some(amount) => rounded(amount).ok_or_else(|| unread(amount))?,
        None => 0,
    };
    let up = amount.div_euclid(by) + i64::from(amount.rem_euclid(by) != 0);
    Ok(up.to_string())
}

/// An empty divisor is what Go writes for none.
fn is_zero(quantity: &Quantity) -> bool {
    quantity.0.is_empty() || resources::nano(quantity) == Some(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::spec::testing::{facts, pod};
    use super::*;

    const SPEC: &str = r#"{
        "initContainers":[{"name":"i","resources":{"requests":{"cpu":"2"}}}],
        "containers":[
            {"name":"a","resources":{"requests":{"cpu":"250m","memory":"64Mi"},
                "limits":{"cpu":"1500m","memory":"100M","hugepages-2Mi":"4Mi","ephemeral-storage":"1Gi"}}},
            {"name":"b"}]}"#;

    fn selector(container: &str, resource: &str, divisor: &str) -> ResourceFieldSelector {
        let mut json = json!({"containerName": container, "resource": resource});
        if !divisor.is_empty() {
            json["divisor"] = json!(divisor);
        }
        serde_json::from_value(json).unwrap()
    }

    fn env(spec: &str, own: &str, asked: &ResourceFieldSelector) -> Result<String, ResourceFieldError> {
        let pod = pod(spec);
        let container = spec::all_containers(&pod).find(|c| c.name == own).unwrap();
        for_env(asked, &pod, container, &facts().allocatable)
    }

    #[test]
    fn amounts_are_told_in_units_of_the_divisor_rounded_up() {
        for (resource, divisor, told) in [
            ("limits.cpu", "", "2"),
            ("limits.cpu", "0", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "1", "1"),
            ("requests.memory", "1Mi", "64"),
            ("requests.memory", "1Gi", "1"),
            ("limits.memory", "", "100000000"),
            ("limits.memory", "1Mi", "96"),
            ("limits.hugepages-2Mi", "1Mi", "4"),
            ("requests.hugepages-2Mi", "", "0"),
            ("limits.ephemeral-storage", "1Mi", "1024"),
            ("requests.ephemeral-storage", "", "0"),
        ] {
            let asked = selector("", resource, divisor);
            assert_eq!(
                env(SPEC, "a", &asked).as_deref(),
                Ok(told),
                "{resource} / {divisor:?}"
            );
        }
    }

    #[test]
    fn a_limit_that_is_not_set_is_what_pods_may_have_of_the_node() {
        let told = |own: &str, of: &str, resource: &str| env(SPEC, own, &selector(of, resource, ""));
        assert_eq!(told("b", "", "limits.cpu").as_deref(), Ok("4"));
        assert_eq!(told("a", "b", "limits.memory").as_deref(), Ok("4189061120"));
        assert_eq!(
            told("b", "b", "limits.ephemeral-storage").as_deref(),
            Ok("90000000000")
        );
        assert_eq!(told("b", "", "requests.cpu").as_deref(), Ok("0"));
        // An init container's own limit is filled in; another container's question about it is not.
        assert_eq!(told("i", "", "limits.cpu").as_deref(), Ok("4"));
        assert_eq!(told("a", "i", "limits.cpu").as_deref(), Ok("0"));
    }

    #[test]
    fn the_pods_own_limit_comes_before_the_nodes_in_variables_only() {
        let spec = r#"{"resources":{"limits":{"cpu":"3"}},"containers":[{"name":"a"}]}"#;
        assert_eq!(
            env(spec, "a", &selector("", "limits.cpu", "")).as_deref(),
            Ok("3")
        );
        let allocatable = facts().allocatable;
        let volume = for_volume(&selector("a", "limits.cpu", ""), &pod(spec), &allocatable);
        assert_eq!(volume.as_deref(), Ok("4"));
    }

    #[test]
    fn a_volume_names_its_container_init_or_not() {
        let told = |of: &str, resource: &str| {
            for_volume(&selector(of, resource, ""), &pod(SPEC), &facts().allocatable)
        };
        assert_eq!(told("i", "requests.cpu").as_deref(), Ok("2"));
        assert_eq!(told("i", "limits.cpu").as_deref(), Ok("4"));
        assert_eq!(
            told("none", "limits.cpu").unwrap_err().to_string(),
            "container none not found"
        );
        assert_eq!(
            told("a", "limits.pods").unwrap_err().to_string(),
            "unsupported container resource : limits.pods"
        );
    }
}
