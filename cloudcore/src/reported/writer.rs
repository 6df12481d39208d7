//! What the reported flow needs of the cluster: the seam that tests replace.

use std::collections::BTreeSet;
use std::error::Error;

use futures::FutureExt;
use futures::future::BoxFuture;
use protocol::name::NodeName;
use protocol::object::{Digest, ObjectKey};
use protocol::reported::{Carries, OutboxKey, PodIdentity, RefusalCode};
use tracing::warn;

use crate::cluster::{ApiError, Cluster, Holder, NodeFeed, PodRef, WriteError, persist};
use crate::devices::{DeviceWriter, Devices};

/// What the API server shows of something that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Just that.
    Same,
    /// Something else; this is its digest.
    Other(Digest),
    /// There is no such object, or it is not known here.
    Nothing,
}

/// Why a report was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the edge.
    pub code: RefusalCode,
    /// For people.
    pub text: String,
}

/// Writes reports of one node.
pub trait Writer: Send + Sync {
    /// Waits until it is known what the API server shows.
    fn ready(&self) -> BoxFuture<'_, ()>;

    /// What the API server shows of a key, compared with a payload.
    fn shown(&self, key: &OutboxKey, payload: &[u8]) -> Shown;

    /// Writes a report.
    fn write<'a>(&'a self, key: &'a OutboxKey, payload: &'a [u8]) -> BoxFuture<'a, Result<(), Refusal>>;

    /// What may be on its stream.
    fn carries(&self) -> Carries {
        Carries::Everything
    }

    /// Waits until objects of the node changed, and returns which. Loses nothing when dropped.
    fn changed(&self) -> BoxFuture<'_, BTreeSet<ObjectKey>>;
}

/// The real one: writes through the cluster, impersonating the node.
pub struct NodeWriter {
    cluster: Cluster,
    by: Holder,
    feed: NodeFeed,
    devices: DeviceWriter,
}

impl NodeWriter {
    /// A writer for a session of a node, which listens for its changes from now on.
    pub fn new(cluster: Cluster, devices: &Devices, by: Holder) -> Self {
        let feed = cluster.subscribe(&by.node);
        let devices = devices.writer(by.clone());
        Self {
            cluster,
            by,
            feed,
            devices,
        }
    }

    fn pod(&self, pod: &PodIdentity) -> PodRef {
        PodRef {
            node: self.by.node.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }
    }

    async fn write_now(&self, key: &OutboxKey, payload: &[u8]) -> Result<(), WriteError> {
        match key {
            OutboxKey::Node => self.cluster.write_node(&self.by, payload).await,
            OutboxKey::Pod(pod) => {
                let pod = self.pod(pod);
                self.cluster.patch_pod_status(&self.by, &pod, payload).await
            }
            OutboxKey::Gone(pod) => self.cluster.delete_pod(&self.pod(pod)).await,
            OutboxKey::Device(device) => self.devices.write(device, payload).await,
            OutboxKey::Event { .. } => self.cluster.create_event(&self.by.node, payload).await,
        }
    }
}

impl Writer for NodeWriter {
    fn ready(&self) -> BoxFuture<'_, ()> {
        pods_known(&self.cluster, &self.by.node).boxed()
    }

    fn shown(&self, key: &OutboxKey, payload: &[u8]) -> Shown {
        match key {
            OutboxKey::Node => self.cluster.node_shown(&self.by.node, payload),
            OutboxKey::Pod(pod) => self.cluster.pod_shown(&self.pod(pod), payload),
            OutboxKey::Device(device) => self.devices.shown(device, payload),
            OutboxKey::Gone(_) | OutboxKey::Event { .. } => Shown::Nothing,
        }
    }

    fn write<'a>(&'a self, key: &'a OutboxKey, payload: &'a [u8]) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            self.write_now(key, payload)
                .await
                .map_err(|error| refusal(key, &error))
        }
        .boxed()
    }

    fn changed(&self) -> BoxFuture<'_, BTreeSet<ObjectKey>> {
        self.feed.changed().boxed()
    }
}

/// Waits until all pods of the node are known. While the node is listened for they stay so.
async fn pods_known(cluster: &Cluster, node: &NodeName) {
    cluster.synced().await;
    let failed = |error: &ApiError| {
        warn!(%node, error = error as &dyn Error, "its pods cannot be listed yet");
    };
    persist(|| cluster.consistent_pods(node), failed).await;
}

/// Writes a node's events, and nothing else: one stream more must not be a second way to a pod.
pub struct EventWriter {
    cluster: Cluster,
    node: NodeName,
    feed: NodeFeed,
}

impl EventWriter {
    /// A writer of events for a session of a node. It listens too: whose a pod is, is known of nodes that are
    /// listened for, and no other stream of the session may be there yet.
    pub fn new(cluster: Cluster, node: NodeName) -> Self {
        let feed = cluster.subscribe(&node);
        Self { cluster, node, feed }
    }
}

impl Writer for EventWriter {
    fn ready(&self) -> BoxFuture<'_, ()> {
        pods_known(&self.cluster, &self.node).boxed()
    }

    fn shown(&self, _key: &OutboxKey, _payload: &[u8]) -> Shown {
        Shown::Nothing
    }

    fn carries(&self) -> Carries {
        Carries::Events
    }

    fn write<'a>(&'a self, key: &'a OutboxKey, payload: &'a [u8]) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            let written = self.cluster.create_event(&self.node, payload).await;
            written.map_err(|error| refusal(key, &error))
        }
        .boxed()
    }

    fn changed(&self) -> BoxFuture<'_, BTreeSet<ObjectKey>> {
        self.feed.changed().boxed()
    }
}

/// What a failed write means for the outbox. Of an object only the API server's own word that it is
/// gone, or another one, is final; and a Node that is gone is made again. An event never changes, so what is wrong
/// with it once, or with its place, stays wrong; a kubelet does not try it again either.
fn refusal(key: &OutboxKey, error: &WriteError) -> Refusal {
    let code = if matches!(error, WriteError::Unreadable { .. }) {
        RefusalCode::Unreadable
    } else {
        refused(key, error.is_permanent(), error.code())
    };
    Refusal {
        code,
        text: chain(error),
    }
}

/// What the edge is told of a write that failed, given whether it failed for good, and its code in
/// HTTP's terms.
pub fn refused(key: &OutboxKey, permanent: bool, http: u16) -> RefusalCode {
    match key {
        OutboxKey::Event { .. } if matches!(http, 400 | 413 | 415 | 422) => RefusalCode::Unreadable,
        OutboxKey::Event { .. } if http == 404 => RefusalCode::Gone,
        OutboxKey::Pod(_) | OutboxKey::Gone(_) | OutboxKey::Device(_) if permanent => RefusalCode::Gone,
        OutboxKey::Node
        | OutboxKey::Event { .. }
        | OutboxKey::Pod(_)
        | OutboxKey::Gone(_)
        | OutboxKey::Device(_) => code(http),
    }
}

const fn code(http: u16) -> RefusalCode {
    match http {
        401 | 403 => RefusalCode::Forbidden,
        400 | 413 | 415 | 422 => RefusalCode::Invalid,
        409 => RefusalCode::Conflict,
        429 => RefusalCode::Throttled,
        _ => RefusalCode::Unavailable,
    }
}

/// An error with its causes, for a reader at the edge.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> OutboxKey {
        OutboxKey::Pod(PodIdentity {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
        })
    }

    #[test]
    fn only_another_uid_or_a_missing_object_is_final() {
        let another = WriteError::AnotherUid {
            what: "pod n/p".into(),
            found: "v".into(),
        };
        assert_eq!(refusal(&pod(), &another).code, RefusalCode::Gone);
        let node: NodeName = "e1".parse().unwrap();
        let foreign = WriteError::NotEnrolled { node: node.clone() };
        assert_eq!(refusal(&pod(), &foreign).code, RefusalCode::Forbidden);
        assert_eq!(
            refusal(&pod(), &WriteError::Superseded { node }).code,
            RefusalCode::Conflict
        );
    }

    #[test]
    fn an_event_that_is_wrong_once_is_given_up_and_one_that_came_at_a_bad_time_is_not() {
        let (namespace, name) = ("n".into(), "x".into());
        let event = OutboxKey::Event { namespace, name };
        for (http, final_) in [(404, true), (422, true), (403, false), (429, false), (503, false)] {
            let code = refused(&event, false, http);
            assert_eq!(code.is_permanent(), final_, "{http}");
        }
        assert!(!refused(&OutboxKey::Node, true, 422).is_permanent());
    }

    #[test]
    fn what_the_api_server_may_take_later_stays_in_the_outbox() {
        for (http, expected) in [
            (403, RefusalCode::Forbidden),
            (422, RefusalCode::Invalid),
            (429, RefusalCode::Throttled),
            (503, RefusalCode::Unavailable),
            (404, RefusalCode::Unavailable),
        ] {
            assert_eq!(code(http), expected);
            assert!(!code(http).is_permanent());
        }
    }
}
