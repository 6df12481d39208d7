//! What every pod's worker works with: made once by the manager, shared by all.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Secret};
use protocol::clock::Clock;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::cgroups::Cgroups;
use super::endings::Endings;
use super::events::{Events, Tone};
use super::images::Images;
use super::remains::Remains;
use super::resize::Ledger;
use super::seams::Report;
use super::spec::{self, Lookup, NodeFacts, Objects};
use super::volumes::Volumes;
use crate::runtime::Runtime;

/// The pod's class does not exist; its sandbox is made once it does.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("runtimeclass.node.k8s.io {0:?} not found")]
pub struct NoRuntimeClass(pub String);

/// The tools of a pod's worker.
pub struct Kit {
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Its name, for container ids (`containerd://…`).
    pub runtime_name: String,
    /// The node.
    pub facts: Arc<NodeFacts>,
    /// The objects that pods name.
    pub objects: Arc<dyn Objects>,
    /// Image pulls.
    pub images: Images,
    /// Volumes.
    pub volumes: Volumes,
    /// The pods' cgroups; `None` leaves them to the runtime.
    pub cgroups: Option<Arc<Cgroups>>,
    /// Whom to tell.
    pub report: Arc<dyn Report>,
    /// Events.
    pub events: Events,
    /// The wall clock.
    pub clock: Clock,
    /// How many starts may be under way at a time: a burst is bound by CPU, and waiting beats crowding.
    pub starts: Arc<Semaphore>,
    /// Which pods are being stopped.
    pub endings: Arc<Endings>,
    /// What ended pods leave behind.
    pub remains: Arc<Remains>,
    /// What each pod was given of the node.
    pub ledger: Ledger,
    /// `/var/log/containers`: links to the logs, for log shippers.
    pub link_dir: PathBuf,
}

impl Kit {
    /// The runtime handler of the pod's class; the default one is nameless.
    pub fn runtime_handler(&self, pod: &Pod) -> Result<String, NoRuntimeClass> {
        let class = spec::spec(pod).and_then(|spec| spec.runtime_class_name.as_deref());
        let Some(name) = class.filter(|name| !name.is_empty()) else {
            return Ok(String::new());
        };
        let class = self.objects.runtime_class(name);
        let class = class.ok_or_else(|| NoRuntimeClass(name.to_owned()))?;
        Ok(class.handler.clone())
    }

    /// The pod's pull secrets. One that is missing costs perhaps the pull, and is told.
    pub fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Secret>> {
        let named = spec::spec(pod)
            .into_iter()
            .flat_map(|spec| spec.image_pull_secrets.iter().flatten())
            .filter(|secret| !secret.name.is_empty());
        let (mut secrets, mut missing) = (Vec::new(), Vec::new());
        for secret in named {
            match self.objects.secret(spec::namespace(pod), &secret.name) {
                Lookup::Found(found) => secrets.push(found),
                Lookup::Absent | Lookup::Unknown => missing.push(secret.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.events
                .pod(pod, Tone::Warning, "FailedToRetrieveImagePullSecret", &message);
        }
        secrets
    }

    /// Whether mounts of the pod can be read-only all the way down.
    pub fn recursive_read_only(&self, pod: &Pod) -> bool {
        let handler = self.runtime_handler(pod);
        handler.is_ok_and(|handler| self.facts.abilities.recursive_read_only(&handler))
    }

    /// The device's addresses as pods show them.
    pub fn host_ips(&self) -> Vec<String> {
        self.facts
            .host_ip
            .last()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}
