//! Reading and writing pods for a node: consistent lists, status, the last delete.
//!
//! **Invariant:** every write names the UID that was meant, so a pod that merely bears the same
//! name is never touched.

use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, Revision};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::Cluster;
use super::api::{Actor, ApiError, Call, Content};
use super::attempt::{Ask, Attempt};
use super::document::{DocumentError, pod_as_cached, pod_status_patch};
use super::index::PodEntry;
use super::kinds::source;
use super::lease::Holder;
use super::lists::{PODS, SHARED};
use super::thin::ThinMeta;
use super::watch::{Sink, Source, list_whole};
use super::write::WriteError;

/// One pod of one node, in one incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// The node it is bound to.
    pub node: NodeName,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which pod of that name is meant.
    pub uid: String,
}

impl PodRef {
    fn path(&self) -> Result<String, WriteError> {
        for part in [&self.namespace, &self.name] {
            if !is_path_segment(part) {
                return Err(self.refused(DocumentError::Name(part.escape_default().to_string())));
            }
        }
        Ok(format!(
            "/api/v1/namespaces/{}/pods/{}",
            self.namespace, self.name
        ))
    }

    /// Lists this pod alone, if it is bound to the node.
    fn query(&self) -> Result<String, WriteError> {
        self.path()?;
        let Self {
            node,
            namespace,
            name,
            ..
        } = self;
        Ok(format!(
            "/api/v1/namespaces/{namespace}/pods?fieldSelector=metadata.name%3D{name}%2Cspec.nodeName%3D{node}"
        ))
    }

    fn key(&self) -> ObjectKey {
        ObjectKey::new(Kind::Pod, self.namespace.as_str(), self.name.as_str())
    }

    fn refused(&self, source: DocumentError) -> WriteError {
        WriteError::Document {
            node: self.node.clone(),
            source,
        }
    }
}

/// Whether a name from the edge can stand in a path as it is (a DNS-1123 subdomain).
pub(crate) fn is_path_segment(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 253 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|byte| allowed(*byte))
}

impl Cluster {
    /// Lists the node's pods consistently and folds the list into its view; or waits for another's list that
    /// began after this was asked. Watch events up to the list's revision are dropped from then on.
    pub async fn consistent_pods(&self, node: &NodeName) -> Result<Revision, ApiError> {
        let list = || self.list_pods(node);
        self.inner.lists.share((node, Kind::Pod), PODS, list).await
    }

    async fn list_pods(&self, node: &NodeName) -> Result<Revision, ApiError> {
        self.inner.index.write().fold_begins(node);
        // Undone also when this is cancelled half-way.
        let mut undo = Undo {
            cluster: self,
            node,
            armed: true,
        };
        let shared = source(Kind::Pod);
        let source = Source {
            path: shared.path,
            selector: format!("fieldSelector=spec.nodeName%3D{node}"),
            only_metadata: false,
        };
        let mut gathered = Gathered {
            cluster: self,
            node,
            pods: Vec::new(),
            revision: Revision(0),
        };
        list_whole(self.api(), Actor::Cloudcore, &source, &mut gathered).await?;
        let Gathered {
            mut pods, revision, ..
        } = gathered;
        // Where there is no room for all of them, those that the device has had come before others, then older ones.
        pods.sort_by(|(one, _), (other, _)| one.cmp(other));
        let pods: Vec<PodEntry> = pods.into_iter().map(|(_, pod)| pod).collect();
        let listed: Vec<ObjectKey> = pods.iter().map(|pod| pod.object.key.clone()).collect();
        undo.armed = false;
        self.inner.index.write().fold(node, pods, revision);
        self.inner.wants.notify_one();
        for pod in &listed {
            self.say_if_no_room(node, pod);
        }
        Ok(revision)
    }

    /// Makes the view of a kind consistent and returns its revision.
    pub async fn consistent(&self, node: &NodeName, kind: Kind) -> Result<Revision, ApiError> {
        match kind {
            Kind::Pod | Kind::ConfigMap | Kind::Secret => self.consistent_pods(node).await,
            Kind::Service | Kind::RuntimeClass | Kind::DeviceModel | Kind::Device | Kind::Node => {
                // A kind that the cluster lacks is waited for; which models a node needs follows from its devices.
                if kind == Kind::DeviceModel {
                    self.listed(Kind::Device, 1).await;
                }
                let list = || async { Ok(self.list_shared(node, kind).await) };
                self.inner.lists.share((node, kind), SHARED, list).await
            }
        }
    }

    async fn list_shared(&self, node: &NodeName, kind: Kind) -> Revision {
        // A list under way may have begun before whatever the caller wants to see.
        let times = self.inner.synced.borrow().lists_after_a_new_one(kind);
        self.inner.relists.of(kind).notify_one();
        self.listed(kind, times).await;
        self.inner.index.read().view_revision(node, kind)
    }

    /// Writes a pod's status as the node, merged into what others own of it.
    pub async fn patch_pod_status(&self, by: &Holder, pod: &PodRef, status: &[u8]) -> Result<(), WriteError> {
        let malformed = |error| pod.refused(DocumentError::Malformed(error));
        let reported: Map<String, Value> = serde_json::from_slice(status).map_err(malformed)?;
        let mut current = self.cached_pod(pod);
        let mut attempt = Attempt::default();
        let covered = |state: &Value| self.covers(by, state);
        let mut ask = Attempt::first(current.as_ref().map(covered));
        loop {
            ask = match (ask, &current) {
                (Ask::Lease, _) => {
                    self.still_ours(by).await?;
                    Attempt::after_lease()
                }
                (Ask::Read, _) | (Ask::Write, None) => {
                    let found = self.read_pod(pod).await?;
                    let ask = attempt.after_read(covered(&found));
                    current = Some(found);
                    ask
                }
                (Ask::Write, Some(over)) => match self.patch_pod_once(by, pod, over, &reported).await {
                    Err(WriteError::Api(error)) if error.is_conflict() => match attempt.after_conflict() {
                        Some(ask) => ask,
                        None => return Err(error.into()),
                    },
                    other => return other,
                },
            };
        }
    }

    async fn patch_pod_once(
        &self,
        by: &Holder,
        pod: &PodRef,
        current: &Value,
        reported: &Map<String, Value>,
    ) -> Result<(), WriteError> {
        let found = current["metadata"]["uid"].as_str().unwrap_or_default();
        if found != pod.uid {
            let what = format!("pod {}/{}", pod.namespace, pod.name);
            return Err(WriteError::AnotherUid {
                what,
                found: found.to_owned(),
            });
        }
        let patch = pod_status_patch(current, reported).to_string().into_bytes();
        let call = Call::patch(format!("{}/status", pod.path()?), Content::MergePatch, patch);
        let answer = self.request_as_node(&pod.node, call).await?;
        self.wrote_own(by, &answer);
        self.wrote_pod(pod, &answer);
        Ok(())
    }

    /// Removes a pod all of whose containers are gone. That it is gone already is as good.
    pub async fn delete_pod(&self, pod: &PodRef) -> Result<(), WriteError> {
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": { "uid": pod.uid },
        });
        let call = Call::delete(pod.path()?, options.to_string().into_bytes());
        match self.request_as_node(&pod.node, call).await {
            // 409: another pod has the name, so the one that was meant is gone.
            Err(WriteError::Api(error)) if error.is_not_found() || error.is_conflict() => Ok(()),
            // Another node's pod has the name: that is forbidden before anybody looks at the UID.
            Err(WriteError::Api(error)) if error.is_forbidden() && self.has_gone(pod).await => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes a pod at once, unless it has changed or is another one. That it is gone already is as good.
    pub(super) async fn delete_pod_as_seen(
        &self,
        pod: &PodRef,
        revision: Revision,
    ) -> Result<(), WriteError> {
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": { "uid": pod.uid, "resourceVersion": revision.to_string() },
        });
        let call = Call::delete(pod.path()?, options.to_string().into_bytes());
        match self.request_as_node(&pod.node, call).await {
            Err(WriteError::Api(error)) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether the API server says that the pod is not at its node any more.
    async fn has_gone(&self, pod: &PodRef) -> bool {
        match self.read_pod(pod).await {
            Ok(found) => found["metadata"]["uid"] != pod.uid.as_str(),
            Err(error) => matches!(error, WriteError::Gone { .. }),
        }
    }

    /// As much of the pod as a status patch needs, from the index.
    pub(super) fn cached_pod(&self, pod: &PodRef) -> Option<Value> {
        let object = self.inner.index.read().pod(&pod.node, &pod.key())?.object.clone();
        pod_as_cached(&object)
    }

    /// Reads a pod with cloudcore's own right: to a node the API server does not say that a pod is
    /// gone, it forbids to read it.
    async fn read_pod(&self, pod: &PodRef) -> Result<Value, WriteError> {
        self.admit(&pod.node).await?;
        let answer = self.api().call(Actor::Cloudcore, Call::get(pod.query()?)).await?;
        let found = only_pod(pod, &answer)?;
        self.wrote_pod(pod, found.to_string().as_bytes());
        Ok(found)
    }

    /// What a request returned, so that the next write needs no read. Only a pod that is held is
    /// refreshed: one whose deletion was seen stays deleted.
    fn wrote_pod(&self, pod: &PodRef, json: &[u8]) {
        if let Some(entry) = self.newer_pod(&pod.node, json) {
            self.inner.index.write().refresh_pod(&pod.node, entry);
            self.say_if_no_room(&pod.node, &pod.key());
            // It may name what nobody watches yet, and its echo is no news.
            self.inner.wants.notify_one();
        }
    }
}

/// The pod that [`PodRef::query`] found; that the list is empty means that the pod is gone.
fn only_pod(pod: &PodRef, list: &[u8]) -> Result<Value, WriteError> {
    #[derive(Deserialize)]
    struct Found {
        // Go writes an empty list as null, too; one that is missing is no list.
        #[serde(deserialize_with = "Option::deserialize")]
        items: Option<Vec<Value>>,
    }
    let malformed = |error| pod.refused(DocumentError::Malformed(error));
    let found: Found = serde_json::from_slice(list).map_err(malformed)?;
    found
        .items
        .unwrap_or_default()
        .pop()
        .ok_or_else(|| WriteError::Gone {
            what: format!("pod {}/{}", pod.namespace, pod.name),
        })
}

struct Undo<'a> {
    cluster: &'a Cluster,
    node: &'a NodeName,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.cluster.inner.index.write().fold_failed(self.node);
        }
    }
}

/// Which pods come first where there is no room for all.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Its node has said nothing of it: it may well not have it.
    unseen: bool,
    made: String,
}

impl Rank {
    fn of(meta: &ThinMeta<'_>, pod: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Thin {
            #[serde(default)]
            status: ThinStatus,
        }
        // Only the node sets it, with the first status of a pod.
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ThinStatus {
            start_time: Option<IgnoredAny>,
        }
        let seen = serde_json::from_slice(pod).is_ok_and(|Thin { status }| status.start_time.is_some());
        Self {
            unseen: !seen,
            made: meta.creation_timestamp.clone().into_owned(),
        }
    }
}

/// Gathers a node's pods from a list.
struct Gathered<'a> {
    cluster: &'a Cluster,
    node: &'a NodeName,
    pods: Vec<(Rank, PodEntry)>,
    revision: Revision,
}

impl Sink for Gathered<'_> {
    fn listing(&mut self) {
        self.pods.clear();
    }

    fn put(&mut self, meta: &ThinMeta<'_>, object: &[u8]) {
        if !meta.is_mirror() {
            let entry = self.cluster.pod_entry(self.node, object);
            self.pods
                .extend(entry.map(|entry| (Rank::of(meta, object), entry)));
        }
    }

    fn gone(&mut self, _: &ThinMeta<'_>, _: &[u8]) {}

    fn listed(&mut self, revision: Revision) {
        self.revision = revision;
    }

    fn at(&mut self, _: Revision) {}

    fn failed(&mut self, _: &ApiError) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
