//! The shell against a real outbox, over a stream in memory and in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::object::{Digest, Kind, ObjectKey};
use protocol::reported::{Carries, Class, Outbox, OutboxKey, PodIdentity, RefusalCode};
use protocol::transport::Stream;
use protocol::wire::{FrameReader, FrameWriter, Report, ReportedDown, ReportedUp, reported_up};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::pace::{EVENTS, STATE};
use super::{NodePace, Paces, Refusal, Shown, Writer, serve};

/// An API server that keeps payloads, refuses some, and takes its time.
#[derive(Default)]
struct Server {
    shows: Mutex<BTreeMap<OutboxKey, Vec<u8>>>,
    writes: Mutex<Vec<OutboxKey>>,
    refusing: Mutex<BTreeMap<OutboxKey, u32>>,
    changed: Mutex<BTreeSet<ObjectKey>>,
    bell: Notify,
}

impl Server {
    /// Somebody else writes.
    fn overwrite(&self, key: &OutboxKey, payload: &[u8]) {
        self.shows.lock().insert(key.clone(), payload.to_vec());
        self.notify(key);
    }

    fn notify(&self, key: &OutboxKey) {
        if let OutboxKey::Pod(pod) = key {
            self.changed
                .lock()
                .insert(ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name));
            self.bell.notify_one();
        }
    }

    fn shows(&self, key: &OutboxKey) -> Option<Vec<u8>> {
        self.shows.lock().get(key).cloned()
    }
}

impl Writer for Server {
    fn ready(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn shown(&self, key: &OutboxKey, payload: &[u8]) -> Shown {
        match self.shows.lock().get(key) {
            Some(shown) if shown == payload => Shown::Same,
            Some(shown) => Shown::Other(Digest::of(shown)),
            None => Shown::Nothing,
        }
    }

    fn write<'a>(&'a self, key: &'a OutboxKey, payload: &'a [u8]) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            self.writes.lock().push(key.clone());
            let is_slow = key.class() == Class::Device;
            sleep(Duration::from_millis(if is_slow { 5_000 } else { 10 })).await;
            if let Some(left) = self.refusing.lock().get_mut(key).filter(|left| **left > 0) {
                *left -= 1;
                return Err(Refusal {
                    code: RefusalCode::Forbidden,
                    text: "not yet".into(),
                });
            }
            self.overwrite(key, payload);
            Ok(())
        }
        .boxed()
    }

    fn changed(&self) -> BoxFuture<'_, BTreeSet<ObjectKey>> {
        async move {
            loop {
                let keys = std::mem::take(&mut *self.changed.lock());
                if !keys.is_empty() {
                    return keys;
                }
                self.bell.notified().await;
            }
        }
        .boxed()
    }
}

struct Edge {
    outbox: Outbox,
    origin: Instant,
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: FrameWriter<WriteHalf<DuplexStream>>,
}

impl Edge {
    fn connect() -> (Self, Stream) {
        let (near, far) = duplex(4096);
        let (recv, send) = split(far);
        let stream = Stream {
            recv: Box::new(recv),
            send: Box::new(send),
        };
        let (recv, send) = split(near);
        let mut outbox = Outbox::load(Vec::new(), 0).0;
        outbox.connected(Carries::Everything);
        let (reader, writer) = (FrameReader::new(recv), FrameWriter::new(send));
        (
            Self {
                outbox,
                origin: Instant::now(),
                reader,
                writer,
            },
            stream,
        )
    }

    /// Works until the API server has everything.
    async fn drain(&mut self) {
        while self.outbox.pending() > 0 {
            let now = self.origin.elapsed();
            while let Some(frame) = self.outbox.poll_transmit(Carries::Everything, now) {
                self.writer.write(&frame).await.unwrap();
            }
            let due = self
                .outbox
                .poll_timeout(Carries::Everything, now)
                .unwrap_or(now + Duration::from_hours(1));
            tokio::select! {
                frame = self.reader.read::<ReportedDown>() => {
                    let frame = frame.unwrap().unwrap();
                    self.outbox.handle_frame(frame, self.origin.elapsed(), 1.0).unwrap();
                }
                () = sleep_until(self.origin + due) => {}
            }
        }
    }
}

fn pod(number: u32) -> OutboxKey {
    let uid = format!("u{number}");
    OutboxKey::Pod(PodIdentity {
        namespace: "n".into(),
        name: format!("p{number}"),
        uid,
    })
}

fn pace() -> Arc<NodePace> {
    Paces::default().of(&"e1".parse().unwrap())
}

async fn against<T>(server: &Server, stream: Stream, story: impl Future<Output = T>) -> T {
    at_pace(server, (stream, pace()), story).await
}

async fn at_pace<T>(
    server: &Server,
    (stream, pace): (Stream, Arc<NodePace>),
    story: impl Future<Output = T>,
) -> T {
    tokio::select! {
        done = timeout(Duration::from_mins(10), story) => done.unwrap(),
        ended = serve(stream, server, pace) => panic!("the stream ended: {ended:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_written_in_parallel_and_a_refused_key_holds_up_no_other() {
    let server = Server::default();
    server.refusing.lock().insert(pod(1), 3);
    let (mut edge, stream) = Edge::connect();
    let story = async {
        for number in 0..100 {
            edge.outbox.put(pod(number), b"running");
        }
        edge.drain().await;
    };
    against(&server, stream, story).await;
    assert_eq!(server.shows.lock().len(), 100);
    assert_eq!(server.writes.lock().len(), 103);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_shows_already_costs_no_write() {
    let server = Server::default();
    server.shows.lock().insert(pod(1), b"running".to_vec());
    let (mut edge, stream) = Edge::connect();
    let story = async {
        edge.outbox.put(pod(1), b"running");
        edge.drain().await;
    };
    against(&server, stream, story).await;
    assert_eq!(server.writes.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_another_writer_changes_is_put_right_again() {
    let server = Server::default();
    let (mut edge, stream) = Edge::connect();
    let story = async {
        edge.outbox.put(pod(1), b"ready");
        edge.drain().await;
        for flip in [b"flip1", b"flip2"] {
            server.overwrite(&pod(1), flip);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(server.shows(&pod(1)).unwrap(), b"ready");
        }
    };
    against(&server, stream, story).await;
    assert_eq!(server.writes.lock().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_again_is_tried_later_and_later() {
    let server = Server::default();
    let (mut edge, stream) = Edge::connect();
    let story = async {
        edge.outbox.put(pod(1), b"ready");
        edge.drain().await;
        server.refusing.lock().insert(pod(1), u32::MAX);
        server.overwrite(&pod(1), b"flip");
        sleep(Duration::from_mins(9)).await;
        let tries = server.writes.lock().len();
        assert!((10..=14).contains(&tries), "{tries}");
        server.refusing.lock().clear();
        sleep(Duration::from_secs(59)).await;
        assert_eq!(server.shows(&pod(1)).unwrap(), b"ready");
    };
    against(&server, stream, story).await;
}

fn device(number: usize) -> OutboxKey {
    OutboxKey::Device(protocol::devices::DeviceIdentity {
        namespace: "n".into(),
        name: format!("d{number}"),
        uid: format!("u{number}"),
    })
}

#[tokio::test(start_paused = true)]
async fn devices_that_wait_for_their_turn_hold_up_no_pod() {
    let server = Server::default();
    let (mut edge, stream) = Edge::connect();
    let story = async {
        for number in 0..200 {
            edge.outbox.put(device(number), b"1");
        }
        let soon = Duration::from_millis(500);
        timeout(soon, edge.drain()).await.unwrap_err();
        edge.outbox.put(pod(1), b"running");
        timeout(soon, edge.drain()).await.unwrap_err();
        assert!(server.shows(&pod(1)).is_some());
        edge.drain().await;
    };
    against(&server, stream, story).await;
    assert_eq!(server.writes.lock().len(), 201);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_pod_is_written_after_its_last_status() {
    let server = Server::default();
    let (mut edge, stream) = Edge::connect();
    let story = async {
        edge.outbox.put(pod(1), b"succeeded");
        let OutboxKey::Pod(identity) = pod(1) else {
            unreachable!()
        };
        edge.outbox.gone(identity);
        edge.drain().await;
    };
    against(&server, stream, story).await;
    let writes = server.writes.lock().clone();
    assert!(
        matches!(writes[..], [OutboxKey::Pod(_), OutboxKey::Gone(_)]),
        "{writes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_reads_no_answers_is_not_read_either() {
    let server = Server::default();
    let (mut edge, stream) = Edge::connect();
    let story = async {
        let unreadable = |seq| ReportedUp {
            kind: Some(reported_up::Kind::Report(Report {
                seq,
                ..Report::default()
            })),
        };
        let mut taken = 0;
        let flood = async {
            while taken < 20_000 {
                edge.writer.write(&unreadable(taken)).await.unwrap();
                taken += 1;
            }
        };
        timeout(Duration::from_mins(1), flood).await.unwrap_err();
        assert!(taken < 2_000, "{taken} reports were taken");
        // Reading makes room again.
        for _ in 0..taken {
            edge.reader.read::<ReportedDown>().await.unwrap().unwrap();
        }
    };
    against(&server, stream, story).await;
}

fn event(number: u32) -> OutboxKey {
    OutboxKey::Event {
        namespace: "n".into(),
        name: format!("e{number}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_too_much_is_written_at_its_pace_and_loses_nothing() {
    let (server, pace) = (Server::default(), pace());
    let (mut edge, stream) = Edge::connect();
    let story = async {
        for number in 0..1_000 {
            edge.outbox.put(pod(number), b"running");
        }
        timeout(Duration::from_secs(5), edge.drain()).await.unwrap_err();
    };
    at_pace(&server, (stream, Arc::clone(&pace)), story).await;
    let within =
        |least: u32| (least..=least + 20).contains(&u32::try_from(server.writes.lock().len()).unwrap());
    assert!(within(STATE.burst + 99), "{}", server.writes.lock().len());

    // Dialling anew is no way round it.
    let (mut edge, stream) = Edge::connect();
    let story = async {
        for number in 0..1_000 {
            edge.outbox.put(pod(number), b"running");
        }
        timeout(Duration::from_secs(5), edge.drain()).await.unwrap_err();
        assert!(within(STATE.burst + 199), "{}", server.writes.lock().len());
        edge.drain().await;
    };
    at_pace(&server, (stream, pace), story).await;
    assert_eq!(server.shows.lock().len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn events_that_wait_for_the_pace_hold_up_no_state() {
    let server = Server::default();
    let (mut edge, stream) = Edge::connect();
    let story = async {
        for number in 0..EVENTS.burst + 100 {
            edge.outbox.put(event(number), b"{}");
        }
        let soon = Duration::from_secs(1);
        timeout(soon, edge.drain()).await.unwrap_err();
        let shown = server.shows.lock().len();
        assert!((600..=620).contains(&shown), "{shown}");
        edge.outbox.put(pod(1), b"running");
        timeout(soon / 10, edge.drain()).await.unwrap_err();
        assert!(server.shows(&pod(1)).is_some());
        edge.drain().await;
    };
    against(&server, stream, story).await;
    assert_eq!(server.shows.lock().len(), 701);
}

#[tokio::test(start_paused = true)]
async fn sixty_pods_that_start_and_end_at_once_wait_for_no_pace() {
    let server = Server::default();
    let (mut edge, stream) = Edge::connect();
    let story = async {
        let (began, mut told) = (Instant::now(), 0);
        for value in [&b"creating"[..], b"created", b"running", b"ending", b"ended"] {
            for number in 0..60 {
                edge.outbox.put(pod(number), value);
                edge.outbox.put(event(told), b"{}");
                edge.outbox.put(event(told + 1), b"{}");
                told += 2;
            }
            edge.drain().await;
        }
        // As fast as sixteen at a time are written.
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    };
    against(&server, stream, story).await;
    assert_eq!(server.writes.lock().len(), 60 * 5 * 3);
}
