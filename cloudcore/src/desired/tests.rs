//! The shell against a real edge half, over a stream in memory and in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::desired::{AbsentReason, Fences, Found, Replica, View};
use protocol::object::{Digest, Kind, Object, ObjectKey, Revision, canonical};
use protocol::transport::Stream;
use protocol::wire::{DesiredDown, DesiredUp, FrameReader, FrameWriter, Have, desired_down, desired_up};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{DesiredError, Source, serve};
use crate::cluster::BoxError;

/// A cluster of services, and of pods that are not sent, whose first lists fail.
#[derive(Default)]
struct Services {
    objects: Mutex<BTreeMap<ObjectKey, Arc<Object>>>,
    dirty: Mutex<BTreeSet<ObjectKey>>,
    bell: Notify,
    failures: Mutex<u32>,
    lists: Mutex<u32>,
    withheld: Mutex<BTreeSet<ObjectKey>>,
    unheld: Mutex<Vec<ObjectKey>>,
}

impl Services {
    fn put(&self, name: &str, revision: u64) {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"u-{name}","resourceVersion":"{revision}"}},"spec":{{"clusterIP":"{revision}"}}}}"#
        );
        let object = canonical(Kind::Service, json.as_bytes()).unwrap();
        self.dirty.lock().insert(object.key.clone());
        self.objects.lock().insert(object.key.clone(), Arc::new(object));
        self.bell.notify_one();
    }
}

impl View for Services {
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let (objects, withheld) = (self.objects.lock(), self.withheld.lock());
        let keys = objects.keys().chain(&*withheld);
        keys.filter(|key| key.kind == kind).cloned().collect()
    }

    fn find(&self, key: &ObjectKey) -> Found {
        if self.withheld.lock().contains(key) {
            return Found::Absent(AbsentReason::TooLarge);
        }
        self.objects
            .lock()
            .get(key)
            .map_or(Found::Nothing, |object| Found::Object(Arc::clone(object)))
    }

    fn closure(&self, _: &ObjectKey) -> Vec<ObjectKey> {
        Vec::new()
    }

    fn revision(&self, _: Kind) -> Revision {
        Revision(1_000)
    }
}

impl Source for Services {
    fn view(&self) -> &(dyn View + Sync) {
        self
    }

    fn changed(&self) -> BoxFuture<'_, BTreeSet<ObjectKey>> {
        async move {
            loop {
                let keys = std::mem::take(&mut *self.dirty.lock());
                if !keys.is_empty() {
                    return keys;
                }
                self.bell.notified().await;
            }
        }
        .boxed()
    }

    fn too_large(&self, _: &ObjectKey) {}

    fn not_held(&self, pod: &ObjectKey) {
        self.unheld.lock().push(pod.clone());
    }

    fn consistent(&self, _: Kind) -> BoxFuture<'_, Result<Revision, BoxError>> {
        async move {
            *self.lists.lock() += 1;
            sleep(Duration::from_millis(200)).await;
            let mut failures = self.failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err("the API server is away".into());
            }
            Ok(Revision(1_000))
        }
        .boxed()
    }
}

/// The edge: a replica whose commits always work.
struct Edge {
    replica: Replica,
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: FrameWriter<WriteHalf<DuplexStream>>,
}

impl Edge {
    fn connect(capacity: usize) -> (Self, Stream) {
        let (near, far) = duplex(capacity);
        let (recv, send) = split(far);
        let stream = Stream {
            recv: Box::new(recv),
            send: Box::new(send),
        };
        let (recv, send) = split(near);
        let mut replica = Replica::load(Vec::new(), Fences::default());
        replica.connected("c", 0).unwrap();
        (
            Self {
                replica,
                reader: FrameReader::new(recv),
                writer: FrameWriter::new(send),
            },
            stream,
        )
    }

    async fn until(&mut self, done: impl Fn(&Replica) -> bool) {
        while !done(&self.replica) {
            while let Some(commit) = self.replica.poll_commit() {
                self.replica.committed(commit.id).unwrap();
            }
            while let Some(frame) = self.replica.poll_transmit() {
                self.writer.write(&frame).await.unwrap();
            }
            if done(&self.replica) {
                return;
            }
            let frame: DesiredDown = self.reader.read().await.unwrap().unwrap();
            self.replica.handle_frame(frame).unwrap();
        }
    }
}

fn all_synced(replica: &Replica) -> bool {
    Kind::ALL.into_iter().all(|kind| replica.synced(kind))
}

fn revisions(replica: &Replica) -> Vec<u64> {
    replica.entries().map(|(_, version)| version.revision.0).collect()
}

#[tokio::test(start_paused = true)]
async fn an_edge_is_brought_up_to_date_and_kept_so_although_lists_fail_at_first() {
    let cluster = Services::default();
    *cluster.failures.lock() = 3;
    for (name, revision) in [("a", 1), ("b", 2)] {
        cluster.put(name, revision);
    }
    let (mut edge, stream) = Edge::connect(1024);
    let story = async {
        edge.until(all_synced).await;
        assert_eq!(revisions(&edge.replica), [1, 2]);
        cluster.put("b", 7);
        edge.until(|replica| revisions(replica) == [1, 7]).await;
    };
    tokio::select! {
        () = async { timeout(Duration::from_mins(1), story).await.unwrap() } => {}
        ended = serve(stream, &cluster) => panic!("the stream ended: {ended:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_not_sent_and_not_held_are_named_when_the_edge_is_known_and_when_they_change() {
    let cluster = Services::default();
    let [a, b] = ["a", "b"].map(|name| ObjectKey::new(Kind::Pod, "n", name));
    cluster.put("a", 1);
    cluster.withheld.lock().insert(a.clone());
    let (mut edge, stream) = Edge::connect(1024);
    let story = async {
        edge.until(all_synced).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(*cluster.unheld.lock(), *std::slice::from_ref(&a));
        cluster.withheld.lock().insert(b.clone());
        cluster.dirty.lock().insert(b.clone());
        cluster.put("a", 2);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(*cluster.unheld.lock(), [a, b]);
    };
    tokio::select! {
        () = async { timeout(Duration::from_mins(1), story).await.unwrap() } => {}
        ended = serve(stream, &cluster) => panic!("the stream ended: {ended:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_reads_slowly_gets_the_newest_version_and_none_between() {
    let cluster = Services::default();
    cluster.put("a", 1);
    let (mut edge, stream) = Edge::connect(512);
    let story = async {
        edge.until(all_synced).await;
        for revision in 2..200 {
            cluster.put("a", revision);
            tokio::task::yield_now().await;
        }
        let mut seen = 0;
        while revisions(&edge.replica) != [199] {
            let before = revisions(&edge.replica);
            edge.until(|replica| revisions(replica) != before).await;
            seen += 1;
        }
        seen
    };
    let seen = tokio::select! {
        seen = async { timeout(Duration::from_mins(1), story).await.unwrap() } => seen,
        ended = serve(stream, &cluster) => panic!("the stream ended: {ended:?}"),
    };
    assert!(seen < 100, "{seen} versions were sent of one key");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_breaks_the_rules_loses_its_stream() {
    let cluster = Services::default();
    let (mut edge, stream) = Edge::connect(1024);
    let wrong = protocol::wire::DesiredUp { kind: None };
    let (written, ended) = tokio::join!(edge.writer.write(&wrong), serve(stream, &cluster));
    written.unwrap();
    assert!(matches!(ended, Err(DesiredError::Violation(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn however_often_an_edge_begins_anew_one_list_of_a_kind_is_made_at_a_time() {
    let cluster = Services::default();
    let (mut edge, stream) = Edge::connect(1024);
    let story = async {
        let have = Have {
            kind: Kind::Service.wire(),
            digest: Digest::of(b"").0.to_vec().into(),
            // Newer than the view, which must be brought up first.
            view_revision: 1 << 60,
            ..Have::default()
        };
        for _ in 0..1_000 {
            let kind = Some(desired_up::Kind::Have(have.clone()));
            edge.writer.write(&DesiredUp { kind }).await.unwrap();
        }
        sleep(Duration::from_secs(5)).await;
        // One of the pods, one of the first claim, one of all that came meanwhile.
        assert_eq!(*cluster.lists.lock(), 3);
        // What is newer than even that list comes from a cluster that was restored.
        let frame: DesiredDown = edge.reader.read().await.unwrap().unwrap();
        assert!(
            matches!(frame.kind, Some(desired_down::Kind::Behind(_))),
            "{frame:?}"
        );
    };
    tokio::select! {
        () = async { timeout(Duration::from_mins(1), story).await.unwrap() } => {}
        ended = serve(stream, &cluster) => panic!("the stream ended: {ended:?}"),
    }
}
