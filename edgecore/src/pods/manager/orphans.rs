//! What the runtime and the disk hold of pods that nobody wants any more.
//!
//! **Invariant:** nothing here acts before the cluster has confirmed the list of pods in this boot.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tracing::{info, warn};

use super::Round;
use super::watch::Seen;
use crate::pods::desired::DesiredPod;
use crate::pods::resources::{self, Qos};
use crate::pods::spec;
use crate::pods::worker::Order;

impl Round {
    /// Gives what runs for no wanted pod to a worker that ends it.
    pub(super) fn end_orphans(&mut self) {
        if !self.source.pods_synced() {
            return;
        }
        let wanted = self.wanted();
        let orphan = |uid: &&String| !wanted.contains(*uid) && !self.roster.knows(uid);
        let orphans: Vec<String> = self.seen.keys().filter(orphan).cloned().collect();
        for uid in orphans {
            info!(uid, "nobody wants this pod any more; it is ended");
            self.roster.employ(order_to_end(&uid, &self.seen[&uid]));
        }
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

    /// Takes down directories and logs of pods that are neither wanted nor running.
    pub(super) async fn clean(&self) {
        if !self.source.pods_synced() {
            return;
        }
        let wanted = self.wanted();
        let needed =
            |uid: &str| wanted.contains(uid) || self.roster.knows(uid) || self.seen.contains_key(uid);
        for uid in self.kit.volumes.on_disk().await {
            if needed(&uid) {
                continue;
            }
            if let Err(error) = self.kit.volumes.unmount(&uid).await {
                warn!(uid, %error, "an orphaned pod directory resists");
            }
        }
        self.clean_cgroups(&needed).await;
        clean_logs(&self.kit.facts.log_dir, &needed);
        clean_links(&self.kit.link_dir);
    }

    async fn clean_cgroups(&self, needed: &(dyn Fn(&str) -> bool + Sync)) {
        let Some(cgroups) = &self.kit.cgroups else { return };
        let milli = burstable_milli(&self.source.pods());
        if let Err(error) = cgroups.aside(move |cgroups| cgroups.weigh_burstable(milli)).await {
            warn!(error = error.whole(), "the Burstable class cannot be weighed");
        }
        for (_, uid) in cgroups.pods().into_iter().filter(|(_, uid)| !needed(uid)) {
            let orphan = uid.clone();
            if let Err(error) = cgroups.aside(move |cgroups| cgroups.remove_pod(&orphan)).await {
                warn!(uid, error = error.whole(), "an orphaned cgroup resists");
            }
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
fn order_to_end(uid: &str, seen: &Seen) -> Order {
    let metadata = ObjectMeta {
        uid: Some(uid.to_owned()),
        name: Some(seen.name.clone()),
        namespace: Some(seen.namespace.clone()),
        ..ObjectMeta::default()
    };
    let pod = Pod {
        metadata,
        ..Pod::default()
    };
    Order {
        desired: Arc::new(DesiredPod { pod, refused: None }),
        removed: true,
        followed: false,
        objects: 0,
    }
}

/// `<namespace>_<name>_<uid>`: neither names nor UIDs have an underscore.
fn clean_logs(dir: &Path, needed: &dyn Fn(&str) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let parts: Vec<&str> = name.split('_').collect();
        let [_, _, uid] = parts.as_slice() else { continue };
        if needed(uid) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            warn!(%error, name, "an orphaned log directory resists");
        }
    }
}

/// Links whose log is gone.
fn clean_links(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let dangling = path.is_symlink() && !path.exists();
        if dangling && fs::remove_file(&path).is_err() {
            warn!(path = %path.display(), "a dangling log link resists");
        }
    }
}
