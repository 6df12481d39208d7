//! A pod as the cluster wants it, decoded once.
//!
//! The raw JSON is checked before the typed decode drops what it does not know.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use protocol::object::owned;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::features::{self, UnsupportedPodFeature};

/// A wanted pod.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// The pod; `status` is what the node itself had said when the pod came, and what others say now.
    pub pod: Pod,
    /// Why it is not run here.
    pub refused: Option<UnsupportedPodFeature>,
}

/// The bytes are not a pod.
#[derive(Debug, Error)]
#[error("the object is not a pod")]
pub struct NotAPod(#[from] serde_json::Error);

impl DesiredPod {
    /// Decodes a pod and the status that came with it.
    ///
    /// A pod that this version cannot decode is refused, not lost: its name and containers are kept, so
    /// that its status can say so.
    pub fn decode(json: &[u8], status: Option<&[u8]>) -> Result<Self, NotAPod> {
        let value: Value = serde_json::from_slice(json)?;
        let refused = features::check(&value).err();
        let (mut pod, refused) = match Pod::deserialize(&value) {
            Ok(pod) => (pod, refused),
            Err(error) => (outline(value)?, Some(undecodable(&error))),
        };
        let seed: Option<PodStatus> = status.and_then(|json| serde_json::from_slice(json).ok());
        pod.status = match seed {
            Some(seed) => Some(joined(seed, pod.status.unwrap_or_default())),
            None => pod.status,
        };
        Ok(Self { pod, refused })
    }
}

/// The node's own part is what came with the pod first; what others say of it comes with every version of
/// the body, and is over when the body has it no more.
fn joined(mut seed: PodStatus, body: PodStatus) -> PodStatus {
    let of = |status: Option<Vec<PodCondition>>, node: bool| {
        let conditions = status.unwrap_or_default().into_iter();
        conditions.filter(move |c| owned::is_pod_condition(&c.type_) == node)
    };
    let conditions: Vec<_> = of(seed.conditions.take(), true)
        .chain(of(body.conditions, false))
        .collect();
    seed.conditions = (!conditions.is_empty()).then_some(conditions);
    seed.resource_claim_statuses = body.resource_claim_statuses;
    seed
}

fn undecodable(error: &serde_json::Error) -> UnsupportedPodFeature {
    UnsupportedPodFeature {
        paths: vec![format!("spec ({error})")],
    }
}

#[derive(Deserialize)]
struct Outline {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: OutlineSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OutlineSpec {
    containers: Vec<OutlineContainer>,
    init_containers: Vec<OutlineContainer>,
    #[serde(flatten)]
    _rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct OutlineContainer {
    name: String,
    image: Option<String>,
}

impl From<OutlineContainer> for Container {
    fn from(OutlineContainer { name, image }: OutlineContainer) -> Self {
        Self {
            name,
            image,
            ..Self::default()
        }
    }
}

fn outline(value: Value) -> Result<Pod, NotAPod> {
    let Outline { metadata, spec } = serde_json::from_value(value)?;
    let containers = spec.containers.into_iter().map(Into::into).collect();
    let init_containers = Some(spec.init_containers.into_iter().map(Into::into).collect());
    let spec = PodSpec {
        containers,
        init_containers,
        ..PodSpec::default()
    };
    Ok(Pod {
        metadata,
        spec: Some(spec),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_cannot_be_decoded_is_refused_by_name() {
        let json = br#"{"metadata":{"name":"p","uid":"u"},"spec":{"containers":[{"name":"c","image":"i","ports":7}]}}"#;
        let desired = DesiredPod::decode(json, None).unwrap();
        assert!(desired.refused.is_some());
        assert_eq!(desired.pod.spec.unwrap().containers[0].name, "c");
    }

    #[test]
    fn the_seed_status_becomes_the_pods_own() {
        let json = br#"{"metadata":{"name":"p","uid":"u"},"spec":{"containers":[]}}"#;
        let desired = DesiredPod::decode(json, Some(br#"{"phase":"Failed"}"#)).unwrap();
        assert_eq!(desired.pod.status.unwrap().phase.as_deref(), Some("Failed"));
    }
}
