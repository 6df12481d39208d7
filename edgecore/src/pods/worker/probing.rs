//! A worker's probes: one set for each running container, started and stopped with it. They tell their failures
//! themselves: the worker may be busy for long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::act::field;
use crate::pods::desired::DesiredPod;
use crate::pods::kit::Kit;
use crate::pods::lifecycle::{self, History};
use crate::pods::observed::{ContainerObserved, PodObserved, Run};
use crate::pods::probes::{self, Host, ProbeResults, ProbeTarget, Stop};
use crate::pods::spec;
use crate::pods::status::Health;

pub(super) struct Probing {
    kit: Arc<Kit>,
    poke: Arc<Notify>,
    /// Beats when a probe says something else.
    beat: watch::Sender<()>,
    tasks: JoinSet<()>,
    probed: BTreeMap<String, Probed>,
    looked: bool,
}

struct Probed {
    results: watch::Receiver<ProbeResults>,
    /// Ends liveness and startup.
    ending: CancellationToken,
    _stop: DropGuard,
}

impl Probing {
    pub(super) fn new(kit: Arc<Kit>, poke: Arc<Notify>) -> Self {
        Self {
            kit,
            poke,
            beat: watch::Sender::new(()),
            tasks: JoinSet::new(),
            probed: BTreeMap::new(),
            looked: false,
        }
    }

    /// Probes what runs, and nothing else; of a pod that ends nothing new, and of its main containers only whether they
    /// are ready: no other failure matters any more. What ran at the first look is adopted: it stays as it was said to be.
    pub(super) fn follow(
        &mut self,
        desired: &DesiredPod,
        observed: &PodObserved,
        ending: bool,
        reported: Option<&PodStatus>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let runs = |id: &str| {
            observed
                .containers
                .iter()
                .any(|c| c.id == id && c.run == Run::Running)
        };
        self.probed.retain(|id, _| runs(id));
        let first_look = !std::mem::replace(&mut self.looked, true);
        if ending {
            self.end_of_main(desired, observed);
            return;
        }
        for container in lifecycle::lasting(&desired.pod) {
            let Some(seen) = observed.latest(&container.name) else {
                continue;
            };
            if seen.run == Run::Running && !self.probed.contains_key(&seen.id) {
                let adopted = first_look.then(|| was(reported, seen)).flatten();
                self.start(&desired.pod, observed, (container, seen), adopted);
            }
        }
    }

    /// A sidecar is still needed, and goes on as it is.
    fn end_of_main(&self, desired: &DesiredPod, observed: &PodObserved) {
        for container in lifecycle::main_containers(&desired.pod) {
            let seen = observed.latest(&container.name);
            if let Some(probed) = seen.and_then(|seen| self.probed.get(&seen.id)) {
                probed.ending.cancel();
            }
        }
    }

    fn start(
        &mut self,
        pod: &Pod,
        observed: &PodObserved,
        (container, seen): (&Container, &ContainerObserved),
        adopted: Option<(bool, bool)>,
    ) {
        let stop = Stop::default();
        let host = if spec::host_network(pod) {
            Host::Device(self.kit.facts.host_ip.clone())
        } else {
            Host::Pod(observed.ips().first().cloned().unwrap_or_default())
        };
        let target = ProbeTarget {
            container: container.clone(),
            container_id: seen.id.clone(),
            host,
            running_for: self.running_for(seen),
            adopted,
            runtime: Arc::clone(&self.kit.runtime),
            tell: Arc::new(self.kit.events.teller(pod, &field(pod, &container.name))),
        };
        let results = probes::start(&mut self.tasks, target, &stop);
        let (mut changes, poke, beat) = (results.clone(), Arc::clone(&self.poke), self.beat.clone());
        self.tasks.spawn(async move {
            while changes.changed().await.is_ok() {
                beat.send_replace(());
                poke.notify_one();
            }
        });
        self.probed.insert(
            seen.id.clone(),
            Probed {
                results,
                ending: stop.ending,
                _stop: stop.all.drop_guard(),
            },
        );
    }

    fn running_for(&self, seen: &ContainerObserved) -> Duration {
        let now = self
            .kit
            .clock
            .now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(u64::try_from(seen.started_at).unwrap_or(0)))
    }

    /// Notes the containers that have started, and those that their probes gave up.
    pub(super) fn judge(&self, history: &mut History) {
        for (id, probed) in &self.probed {
            if probed.results.borrow().started {
                history.started.insert(id.clone());
            }
            if let Some(kill) = probed.results.borrow().kill.clone() {
                history.unhealthy.entry(id.clone()).or_insert(kill);
            }
        }
    }

    /// What the probes say now, by container id.
    pub(super) fn health(&self) -> BTreeMap<String, Health> {
        health(self.probed.iter().map(|(id, probed)| (id, &probed.results)))
    }

    /// The same from now on; nothing where no probe has anything more to say.
    pub(super) fn pulse(&self) -> Option<Pulse> {
        let lasts = |probed: &Probed| probed.results.has_changed().is_ok();
        self.probed.values().any(lasts).then(|| Pulse {
            beat: self.beat.subscribe(),
            results: self
                .probed
                .iter()
                .map(|(id, probed)| (id.clone(), probed.results.clone()))
                .collect(),
        })
    }
}

/// What the probes say of the containers that ran when it was asked for.
pub(super) struct Pulse {
    beat: watch::Receiver<()>,
    results: BTreeMap<String, watch::Receiver<ProbeResults>>,
}

impl Pulse {
    /// Ends when a probe says something else.
    pub(super) async fn changed(&mut self) {
        if self.beat.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn health(&self) -> BTreeMap<String, Health> {
        health(self.results.iter())
    }
}

fn health<'a>(
    results: impl Iterator<Item = (&'a String, &'a watch::Receiver<ProbeResults>)>,
) -> BTreeMap<String, Health> {
    let health = |results: &ProbeResults| Health {
        started: results.started,
        ready: results.ready,
    };
    results
        .map(|(id, results)| (id.clone(), health(&results.borrow())))
        .collect()
}

/// What was reported of (started, ready) for this very container.
fn was(reported: Option<&PodStatus>, seen: &ContainerObserved) -> Option<(bool, bool)> {
    let all = spec::container_statuses(reported?);
    let same = |id: &String| id.ends_with(&format!("//{}", seen.id));
    let status = all
        .iter()
        .find(|status| status.container_id.as_ref().is_some_and(same))?;
    Some((status.started.unwrap_or(false), status.ready))
}
