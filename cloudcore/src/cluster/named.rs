//! The watches of single ConfigMaps and Secrets, each as a node whose pod names the object.
//!
//! What it is: a reconciler between what pods name (the index says) and the watches that run.
//! What it is not: a right of cloudcore's own; the Node authorizer judges each watch.
//!
//! **Invariants:** a watch is as a node that has a bound pod naming the object *now*; when that
//! pod goes the watch is begun again as another, or ends. What was read once is taken back by what
//! the API server says of the object, or with the pods that name it, and never by a refusal to tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::desired::AbsentReason;
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, Revision, canonical};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Cluster;
use super::api::{Actor, ApiError};
use super::index::{Lookup, Wanted};
use super::thin::ThinMeta;
use super::watch::{Sink, Source, follow};

/// The authorizer's graph lags behind a binding: a refusal is told only after this long.
const LAG: Duration = Duration::from_secs(30);

struct Running {
    wanted: Wanted,
    task: AbortHandle,
}

impl Cluster {
    /// Keeps one watch for each object that pods of connected nodes name, for ever.
    pub(super) async fn watch_named(&self) {
        let mut tasks = JoinSet::new();
        let mut running: HashMap<ObjectKey, Running> = HashMap::new();
        // What the watches that run are right for: most changes of pods are of their status.
        let mut right_for = None;
        loop {
            let namings = self.inner.index.read().namings();
            if right_for.replace(namings) != Some(namings) {
                self.adjust(&mut running, &mut tasks);
            }
            tokio::select! {
                () = self.inner.wants.notified() => {}
                Some(_) = tasks.join_next() => {
                    running.retain(|_, run| !run.task.is_finished());
                    right_for = None;
                }
            }
        }
    }

    /// Ends watches that are not wanted any more, and begins those that are.
    fn adjust(&self, running: &mut HashMap<ObjectKey, Running>, tasks: &mut JoinSet<()>) {
        let current = running
            .iter()
            .map(|(key, run)| (key.clone(), run.wanted.clone()))
            .collect();
        let wanted = self.inner.index.read().wanted(&current);
        running.retain(|key, run| keep(key, run, &wanted));
        for (key, wanted) in wanted {
            running.entry(key.clone()).or_insert_with(|| {
                let task = tasks.spawn(self.clone().watch_one(key, wanted.node.clone()));
                Running { wanted, task }
            });
        }
    }

    async fn watch_one(self, key: ObjectKey, node: NodeName) {
        let selector = format!("fieldSelector=metadata.name%3D{}", key.name);
        let source = Source {
            path: path(&key),
            selector,
            only_metadata: false,
        };
        let mut sink = NamedSink::new(self.clone(), key);
        follow(self.api(), Actor::Node(&node), &source, &mut sink, &Notify::new()).await;
    }
}

/// Keeps a watch that is still wanted as the same node and for the same entry, and ends every other.
fn keep(key: &ObjectKey, run: &Running, wanted: &HashMap<ObjectKey, Wanted>) -> bool {
    let wanted = wanted.get(key) == Some(&run.wanted);
    if !wanted {
        run.task.abort();
    }
    wanted
}

fn path(key: &ObjectKey) -> String {
    let collection = if key.kind == Kind::Secret {
        "secrets"
    } else {
        "configmaps"
    };
    format!("/api/v1/namespaces/{}/{collection}", key.namespace)
}

struct NamedSink {
    cluster: Cluster,
    key: ObjectKey,
    /// Whether the list under way has shown the object.
    present: bool,
    refused: Refused,
}

/// Whether the API server refuses to tell of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    No,
    /// Since then, without an answer in between.
    Since(Instant),
    /// For so long that it was told.
    Told,
}

impl NamedSink {
    fn new(cluster: Cluster, key: ObjectKey) -> Self {
        Self {
            cluster,
            key,
            present: false,
            refused: Refused::No,
        }
    }

    fn resolve(&self, state: Lookup) {
        self.cluster.inner.index.write().resolve(&self.key, state);
    }

    /// The API server has told of the object, up to a revision.
    fn saw(&mut self, revision: Revision) {
        self.refused = Refused::No;
        self.cluster.inner.index.write().saw_named(&self.key, revision);
    }

    fn refused(&mut self) {
        match self.refused {
            Refused::No => self.refused = Refused::Since(Instant::now()),
            Refused::Since(since) if since.elapsed() >= LAG => {
                self.refused = Refused::Told;
                self.tell_refusal();
            }
            Refused::Since(_) | Refused::Told => {}
        }
    }

    /// Pods that wait for the object hear that nothing can be said of it. What was said before stays: the rights
    /// may be wrong for a while (a `ClusterRole` that was edited, an authorizer that is away), and what a device
    /// has on disk is all that its pods can start from.
    fn tell_refusal(&self) {
        let key = &self.key;
        if self.cluster.inner.index.write().refused(key) {
            warn!(%key, "may not be read any more: edges keep what they have, and hear of no change until it may");
        } else {
            debug!(%key, "may not be read");
        }
    }
}

impl Sink for NamedSink {
    fn listing(&mut self) {
        self.present = false;
    }

    fn put(&mut self, meta: &ThinMeta<'_>, object: &[u8]) {
        self.present = true;
        self.saw(meta.revision());
        match canonical(self.key.kind, object) {
            Ok(object) => self.resolve(Lookup::Present(Arc::new(object))),
            Err(error) => {
                warn!(key = %self.key, error = &error as &dyn std::error::Error, "cannot be delivered");
                self.resolve(Lookup::Absent(AbsentReason::TooLarge));
            }
        }
    }

    fn gone(&mut self, meta: &ThinMeta<'_>, _: &[u8]) {
        self.saw(meta.revision());
        self.resolve(Lookup::Absent(AbsentReason::Missing));
    }

    fn listed(&mut self, revision: Revision) {
        self.saw(revision);
        if !self.present {
            self.resolve(Lookup::Absent(AbsentReason::Missing));
        }
    }

    fn at(&mut self, revision: Revision) {
        self.saw(revision);
    }

    fn failed(&mut self, error: &ApiError) -> bool {
        self.cluster.inner.metrics.watch_failed(self.key.kind);
        debug!(key = %self.key, error = error as &dyn std::error::Error, "watch failed, will be tried again");
        if error.is_forbidden() {
            self.refused();
        }
        true
    }
}

#[cfg(test)]
mod tests;
