//! What the runtime and the disk hold of pods that nobody wants any more.
//!
//! A pod that is wanted and cannot be read is none of them: it goes on without care, and that is said.
//!
//! **Invariant:** nothing here acts before the cluster has confirmed the list of pods in this boot.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_cri::v1 as api;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::{JoinError, spawn_blocking};
use tracing::{info, warn};

use super::watch::Seen;
use super::{Round, helped};
use crate::pods::cgroups::Cgroups;
use crate::pods::desired::DesiredPod;
use crate::pods::events::Tone;
use crate::pods::kit::Kit;
use crate::pods::resources::{self, Qos};
use crate::pods::spec;
use crate::pods::worker::Order;
use crate::runtime::{Labels, Runtime};

/// What is said of a pod that is wanted and cannot be read.
const UNREAD: &str = "The node holds no version of this pod that it can read: what runs of it goes on as it is, \
     without restarts, probes and reports, until a readable version comes or the pod is removed";

impl Round {
    /// Gives what runs for no wanted pod to a worker that ends it.
    pub(super) fn end_orphans(&mut self) {
        let wanted = self.wanted();
        let orphan = |uid: &&String| !wanted.contains(*uid) && !self.roster.knows(uid);
        let orphans: Vec<String> = self.seen.keys().filter(orphan).cloned().collect();
        let unread = self.source.unread();
        let (spared, orphans): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|uid| {
            let seen = &self.seen[uid];
            unread
                .iter()
                .any(|pod| pod.may_be(uid, &seen.namespace, &seen.name))
        });
        self.spare(spared);
        if !self.source.pods_synced() {
            return;
        }
        for uid in orphans {
            info!(uid, "nobody wants this pod any more; it is ended");
            let seen = &self.seen[&uid];
            self.roster.employ_to_end(order_to_end(&uid, seen), !seen.alive);
        }
    }

    /// Says once of each pod that it goes on without care.
    fn spare(&mut self, uids: Vec<String>) {
        let uids: BTreeSet<String> = uids.into_iter().collect();
        for uid in uids.difference(&self.spared) {
            let seen = &self.seen[uid];
            warn!(uid, pod = seen.name, "{UNREAD}");
            self.kit
                .events
                .pod(&outline(uid, seen), Tone::Warning, "PodUnreadable", UNREAD);
        }
        self.spared = uids;
    }

    /// Lets go of removed pods that nobody works on and of which the runtime has nothing: what they named, a
    /// Secret perhaps, would stay on the device for them.
    pub(super) async fn forget_strangers(&self) {
        let wanted = self.wanted();
        let unknown =
            |uid: &String| !wanted.contains(uid) && !self.roster.knows(uid) && !self.seen.contains_key(uid);
        for uid in self.kit.report.unforgotten().into_iter().filter(unknown) {
            self.kit.report.forget(&uid).await;
        }
    }

    fn wanted(&self) -> BTreeSet<String> {
        self.source
            .pods()
            .iter()
            .map(|desired| spec::uid(&desired.pod).to_owned())
            .collect()
    }

    /// Takes down directories and logs of pods that are neither wanted nor running: beside the rounds, for it
    /// may take long, and a node that does not count its rounds is not well.
    pub(super) async fn clean(&mut self) {
        let unread = self.source.unread();
        // Of what such a pod left on the disk nobody knows whose it is.
        let nameless = unread.iter().any(|pod| pod.uid.is_none());
        if !self.source.pods_synced() || nameless || !self.cleaning.is_empty() {
            return;
        }
        let mut wanted = self.wanted();
        wanted.extend(unread.into_iter().filter_map(|pod| pod.uid));
        let needed =
            |uid: &str| wanted.contains(uid) || self.roster.knows(uid) || self.seen.contains_key(uid);
        let kit = &self.kit;
        let mut remains = Remains {
            dirs: kit.volumes.on_disk().await,
            cgroups: kit
                .cgroups
                .as_ref()
                .map(|cgroups| cgroups.pods())
                .into_iter()
                .flatten()
                .map(|(_, uid)| uid)
                .collect(),
            logs: logs_on_disk(&kit.facts.log_dir),
            burstable_milli: burstable_milli(&self.source.pods()),
        };
        remains.dirs.retain(|uid| !needed(uid));
        remains.cgroups.retain(|uid| !needed(uid));
        remains.logs.retain(|(uid, _)| !needed(uid));
        self.roster.take_down(remains.uids());
        self.cleaning.spawn(remains.take_down(Arc::clone(kit)));
    }

    /// The remains are gone, or resist.
    pub(super) fn cleaned(&mut self, ended: Result<(), JoinError>, objects: u64) {
        helped(ended);
        self.roster.take_down(BTreeSet::new());
        self.follow_pods(objects);
    }
}

/// What is left on the device of pods that are no more.
struct Remains {
    dirs: Vec<String>,
    cgroups: Vec<String>,
    /// UIDs and log directories.
    logs: Vec<(String, PathBuf)>,
    burstable_milli: i64,
}

impl Remains {
    fn uids(&self) -> BTreeSet<String> {
        let logs = self.logs.iter().map(|(uid, _)| uid);
        let all = self.dirs.iter().chain(&self.cgroups).chain(logs);
        all.cloned().collect()
    }

    async fn take_down(self, kit: Arc<Kit>) {
        for uid in self.dirs {
            if let Err(error) = kit.volumes.unmount(&uid).await {
                warn!(uid, %error, "an orphaned pod directory resists");
            }
        }
        if let Some(cgroups) = &kit.cgroups {
            clean_cgroups(cgroups, self.burstable_milli, self.cgroups).await;
        }
        let (logs, links) = (self.logs, kit.link_dir.clone());
        let cleaned = spawn_blocking(move || {
            for (_, dir) in &logs {
                clean_log(dir);
            }
            dangling_links(&links)
        });
        match cleaned.await {
            Ok(dangling) => remove_dead_links(kit.runtime.as_ref(), dangling).await,
            Err(failure) => helped(Err(failure)),
        }
    }
}

/// A container that has not ended keeps its link although its log is missing: while a log is rotated there is none
/// for a moment, and its link is made at its start only. Whom a link belongs to is asked after it was seen dangling.
async fn remove_dead_links(runtime: &dyn Runtime, dangling: Vec<PathBuf>) {
    if dangling.is_empty() {
        return;
    }
    // What cannot be asked now is cleaned the next time.
    let Ok(containers) = runtime.list_containers(Labels::new()).await else {
        return;
    };
    let ended = |container: &api::Container| container.state == api::ContainerState::ContainerExited as i32;
    let spared: BTreeSet<&str> = containers
        .iter()
        .filter(|container| !ended(container))
        .map(|container| container.id.as_str())
        .collect();
    for link in dangling {
        if !container_of(&link).is_some_and(|id| spared.contains(id)) {
            remove_link(&link);
        }
    }
}

/// The id in a link's name, `<pod>_<namespace>_<container>-<id>.log`.
fn container_of(link: &Path) -> Option<&str> {
    let name = link.file_name()?.to_str()?.strip_suffix(".log")?;
    name.rsplit_once('-').map(|(_, id)| id)
}

async fn clean_cgroups(cgroups: &Arc<Cgroups>, milli: i64, orphans: Vec<String>) {
    if let Err(error) = cgroups.aside(move |cgroups| cgroups.weigh_burstable(milli)).await {
        warn!(error = error.whole(), "the Burstable class cannot be weighed");
    }
    for uid in orphans {
        let orphan = uid.clone();
        if let Err(error) = cgroups.aside(move |cgroups| cgroups.remove_pod(&orphan)).await {
            warn!(uid, error = error.whole(), "an orphaned cgroup resists");
        }
    }
}

/// What all Burstable pods request, in thousandths of a CPU.
fn burstable_milli(pods: &[Arc<DesiredPod>]) -> i64 {
    let burstable = pods
        .iter()
        .filter(|desired| resources::qos(&desired.pod) == Qos::Burstable);
    burstable
        .filter_map(|desired| resources::pod_requests(&desired.pod).cpu_milli)
        .sum()
}

/// All that is known of an orphan is what its labels say.
fn outline(uid: &str, seen: &Seen) -> Pod {
    let metadata = ObjectMeta {
        uid: Some(uid.to_owned()),
        name: Some(seen.name.clone()),
        namespace: Some(seen.namespace.clone()),
        ..ObjectMeta::default()
    };
    Pod {
        metadata,
        ..Pod::default()
    }
}

fn order_to_end(uid: &str, seen: &Seen) -> Order {
    let pod = outline(uid, seen);
    Order {
        desired: Arc::new(DesiredPod { pod, refused: None }),
        removed: true,
        followed: false,
        evicted: None,
        objects: 0,
    }
}

/// The directories of pods' logs, with the pods' UIDs.
///
/// `<namespace>_<name>_<uid>`: neither names nor UIDs have an underscore.
pub(crate) fn logs_on_disk(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.split('_').collect::<Vec<_>>().as_slice() {
            [_, _, uid] => Some(((*uid).to_owned(), entry.path())),
            _ => None,
        }
    });
    named.collect()
}

fn clean_log(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        warn!(%error, path = %dir.display(), "an orphaned log directory resists");
    }
}

/// Removes the links whose log is gone, once no container runs any more.
pub(crate) fn clean_links(dir: &Path) {
    for link in dangling_links(dir) {
        remove_link(&link);
    }
}

/// The links whose log is missing.
fn dangling_links(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_symlink() && !path.exists())
        .collect()
}

fn remove_link(link: &Path) {
    if fs::remove_file(link).is_err() {
        warn!(path = %link.display(), "a dangling log link resists");
    }
}
