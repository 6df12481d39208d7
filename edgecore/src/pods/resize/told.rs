//! What is said of a resize: conditions and events.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use super::{ERROR, IN_PROGRESS, PENDING, Pending, Progress, Resize};
use crate::pods::lifecycle;
use crate::pods::spec::is_sidecar;

/// A condition without its times.
pub struct Told<'a> {
    kind: &'static str,
    reason: Option<&'a str>,
    message: Option<&'a str>,
    generation: Option<i64>,
}

impl Resize {
    /// The conditions that say how far it is.
    pub fn conditions(&self) -> impl Iterator<Item = Told<'_>> {
        let pending = self.pending.iter().map(Pending::told);
        pending.chain(self.progress.iter().map(Progress::told))
    }
}

impl Pending {
    fn told(&self) -> Told<'_> {
        Told {
            kind: PENDING,
            reason: Some(self.reason),
            message: Some(&self.message),
            generation: self.generation,
        }
    }
}

impl Progress {
    fn told(&self) -> Told<'_> {
        Told {
            kind: IN_PROGRESS,
            reason: self.error.as_ref().map(|_| ERROR),
            message: self.error.as_deref(),
            generation: self.generation,
        }
    }
}

impl Told<'_> {
    /// The condition, since `now` unless one of the same reason was told before.
    pub fn since(self, before: Option<&[PodCondition]>, now: Time) -> PodCondition {
        let same = |c: &&PodCondition| c.type_ == self.kind && c.reason.as_deref() == self.reason;
        let before = before.unwrap_or_default().iter().find(same);
        PodCondition {
            type_: self.kind.to_owned(),
            status: "True".to_owned(),
            reason: self.reason.map(ToOwned::to_owned),
            message: self.message.map(ToOwned::to_owned),
            observed_generation: self.generation,
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(now)),
            last_probe_time: None,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Line<'a>>,
    containers: Vec<Line<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// What an event says of the sizes of a pod: the kubelet's JSON.
pub fn summary(pod: &Pod, generation: Option<i64>, error: Option<&str>) -> String {
    let (init_containers, containers) = (lifecycle::init_containers(pod), lifecycle::main_containers(pod));
    let summary = Summary {
        init_containers: init_containers
            .iter()
            .filter(|init| is_sidecar(init))
            .map(line)
            .collect(),
        containers: containers.iter().map(line).collect(),
        generation: generation.unwrap_or(0),
        error,
    };
    serde_json::to_string(&summary).unwrap_or_default()
}

fn line(container: &Container) -> Line<'_> {
    let mut resources = container.resources.clone().unwrap_or_default();
    for list in [&mut resources.requests, &mut resources.limits]
        .into_iter()
        .flatten()
    {
        list.retain(|name, _| matches!(name.as_str(), "cpu" | "memory"));
    }
    resources.claims = None;
    Line {
        name: &container.name,
        resources,
    }
}
