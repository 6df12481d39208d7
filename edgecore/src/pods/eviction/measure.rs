//! Getting what pods use: from their cgroups, from the runtime, and from their directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_cri::v1 as api;
use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::task::JoinSet;

use super::limits::Needs;
use super::rank::Candidate;
use super::usage::{ContainerUsage, Space, Usage};
use crate::pods::cgroups::Cgroups;
use crate::pods::container_config::CONTAINER_NAME;
use crate::pods::desired::DesiredPod;
use crate::pods::resources;
use crate::pods::sandbox_config::POD_UID;
use crate::pods::spec::{self, NodeFacts};
use crate::pods::volumes::measure::{self, Taken};
use crate::runtime::{Labels, Runtime, RuntimeError};

/// What is in a pod's directory and not its own: volumes are measured one by one or not at all, and of volumes there
/// are the directories that are bound below the other name for a `subPath`: of a hostPath, a part of the device.
const NOT_ITS_OWN: [&str; 2] = ["volumes", "volume-subpaths"];

/// A pod, and what is to be measured of it.
pub(super) struct Subject {
    pub(super) desired: Arc<DesiredPod>,
    pub(super) needs: Needs,
}

/// Measures pods.
pub(super) struct Meter {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) facts: Arc<NodeFacts>,
    pub(super) cgroups: Option<Arc<Cgroups>>,
}

/// What the runtime says, by pod and container.
type Told = BTreeMap<String, BTreeMap<String, ContainerUsage>>;

impl Meter {
    /// Measures those of which something is on the device. `apart` says whether images, and with them what containers
    /// write beside their volumes, lie on a file system of their own.
    pub(super) async fn measure(
        &self,
        subjects: Vec<Subject>,
        apart: bool,
    ) -> Result<Vec<Candidate>, RuntimeError> {
        let asks = subjects
            .iter()
            .any(|subject| subject.needs.stats || subject.needs.everything);
        let mut told = if asks { self.ask(apart).await? } else { Told::new() };
        let (places, desired): (Vec<_>, Vec<_>) = subjects
            .into_iter()
            .map(|subject| (Place::of(&self.facts, &subject), subject))
            .filter(|(place, _)| place.dir.exists())
            .map(|(place, subject)| (place, subject.desired))
            .unzip();
        let mut candidates = Vec::with_capacity(desired.len());
        for (desired, mut usage) in desired.into_iter().zip(walk(places).await) {
            let uid = spec::uid(&desired.pod);
            for (name, seen) in told.remove(uid).unwrap_or_default() {
                let container = usage.containers.entry(name).or_default();
                container.memory = seen.memory;
                container.layer = seen.layer;
                container.layer_apart = seen.layer_apart;
            }
            usage.memory = self.memory(&desired.pod, &usage);
            usage.processes = self.processes(&desired.pod);
            candidates.push(Candidate { desired, usage });
        }
        Ok(candidates)
    }

    async fn ask(&self, apart: bool) -> Result<Told, RuntimeError> {
        let mut told = Told::new();
        for stats in self.runtime.container_stats(Labels::new()).await? {
            let Some(labels) = stats.attributes.as_ref().map(|attributes| &attributes.labels) else {
                continue;
            };
            let (Some(uid), Some(name)) = (labels.get(POD_UID), labels.get(CONTAINER_NAME)) else {
                continue;
            };
            let pod = told.entry(uid.clone()).or_default();
            let container = pod.entry(name.clone()).or_default();
            let (memory, layer) = said(&stats);
            container.memory += memory;
            if apart {
                container.layer_apart += layer;
            } else {
                container.layer += layer;
            }
        }
        Ok(told)
    }

    /// As the pod's cgroup counts it; where there is none, what its containers use together.
    fn memory(&self, pod: &Pod, usage: &Usage) -> u64 {
        let counted = self
            .cgroups
            .as_ref()
            .and_then(|cgroups| cgroups.working_set(resources::qos(pod), spec::uid(pod)));
        counted.unwrap_or_else(|| usage.containers.values().map(|container| container.memory).sum())
    }

    fn processes(&self, pod: &Pod) -> u64 {
        let cgroups = self.cgroups.as_ref();
        cgroups
            .and_then(|cgroups| cgroups.processes(resources::qos(pod), spec::uid(pod)))
            .unwrap_or(0)
    }
}

fn said(stats: &api::ContainerStats) -> (u64, Space) {
    let number = |value: &Option<api::UInt64Value>| value.as_ref().map_or(0, |number| number.value);
    let memory = stats.memory.as_ref();
    let layer = stats.writable_layer.as_ref();
    let layer = layer.map_or_else(Space::default, |layer| Space {
        bytes: number(&layer.used_bytes),
        inodes: number(&layer.inodes_used),
        cut: false,
    });
    (
        memory.map_or(0, |memory| number(&memory.working_set_bytes)),
        layer,
    )
}

/// Where a pod's files are, as far as they are to be measured.
struct Place {
    dir: PathBuf,
    everything: bool,
    volumes: Vec<(String, PathBuf)>,
    logs: Vec<(String, PathBuf)>,
}

impl Place {
    fn of(facts: &NodeFacts, Subject { desired, needs }: &Subject) -> Self {
        let (pod, mut place) = (
            &desired.pod,
            Self {
                dir: facts.pod_dir(spec::uid(&desired.pod)),
                everything: needs.everything,
                volumes: Vec::new(),
                logs: Vec::new(),
            },
        );
        if needs.volumes || needs.everything {
            let volumes = spec::spec(pod).and_then(|spec| spec.volumes.as_deref());
            let local = |volume: &Volume| {
                let plain = spec::is_plain_name(&volume.name);
                let dir = place.dir.join("volumes").join(plugin(volume)?).join(&volume.name);
                plain.then(|| (volume.name.clone(), dir))
            };
            place.volumes = volumes.unwrap_or_default().iter().filter_map(local).collect();
        }
        if needs.everything {
            let dir = facts.pod_log_dir(pod);
            let plain = spec::all_containers(pod).filter(|c| spec::is_plain_name(&c.name));
            place.logs = plain.map(|c| (c.name.clone(), dir.join(&c.name))).collect();
        }
        place
    }

    fn measure(&self, stop: &AtomicBool) -> Usage {
        let mut usage = Usage::default();
        for (name, dir) in &self.volumes {
            usage
                .volumes
                .insert(name.clone(), space(measure::tree(dir, &[], stop)));
        }
        for (name, dir) in &self.logs {
            let logs = space(measure::tree(dir, &[], stop));
            usage.containers.insert(
                name.clone(),
                ContainerUsage {
                    logs,
                    ..ContainerUsage::default()
                },
            );
        }
        if self.everything {
            usage.rest = space(measure::tree(&self.dir, &NOT_ITS_OWN, stop));
        }
        usage
    }
}

/// The directory of a volume that lies on the device's disk.
fn plugin(volume: &Volume) -> Option<&'static str> {
    let on_disk = |medium: &Option<String>| medium.as_deref().unwrap_or_default().is_empty();
    match (&volume.empty_dir, &volume.config_map) {
        (Some(source), _) if on_disk(&source.medium) => Some("kubernetes.io~empty-dir"),
        (None, Some(_)) => Some("kubernetes.io~configmap"),
        _ => None,
    }
}

fn space(Taken { bytes, inodes, cut }: Taken) -> Space {
    Space { bytes, inodes, cut }
}

/// Measures one place after the other, where it may block; is called off when nobody waits for it any more. How long it
/// takes is bounded by the number of entries: whoever was not measured would count as one that has nothing.
async fn walk(places: Vec<Place>) -> Vec<Usage> {
    let stop = Arc::new(AtomicBool::new(false));
    let guard = CallOff(Arc::clone(&stop));
    let mut task = JoinSet::new();
    task.spawn_blocking(move || places.iter().map(|place| place.measure(&stop)).collect());
    let measured = task.join_next().await.and_then(Result::ok).unwrap_or_default();
    drop(guard);
    measured
}

struct CallOff(Arc<AtomicBool>);

impl Drop for CallOff {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
