//! What is urgent on a link that is full, beside the same on that link when it is idle.
//!
//! All times are printed. That half of them at most double is asserted, in one of [`TRIES`]: a machine
//! that is busy with something else is slow in its own way. The slowest of 50 is its to decide.

use std::time::Duration;

use protocol::{
    name::ServiceName,
    transport::{ByteReader, ByteWriter, Connection, Stream, Transport},
    wire::Open,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    carriers::{Carrier, linked_over},
    narrow::MEGABIT,
};

const ROUNDS: usize = 50;
const TRIES: usize = 3;
/// What a full link may make of a time.
const MOST: f64 = 2.0;
const BEAT: usize = 16;
const UPSERT: usize = 4 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// The times of rounds of something.
struct Times(Vec<Duration>);

impl Times {
    fn p50(&self) -> f64 {
        self.0[self.0.len() / 2].as_secs_f64() * 1000.0
    }

    fn max(&self) -> f64 {
        self.0[self.0.len() - 1].as_secs_f64() * 1000.0
    }
}

/// Writes a message of so many bytes, whose reader answers with a few.
async fn rounds(asks: &mut Stream, answers: &mut Stream, bytes: usize, pause: Duration) -> Times {
    let mut times = Vec::new();
    let (question, mut there, mut back) = (vec![1; bytes], vec![0; bytes], [0; BEAT]);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let ask = async {
            asks.send.write_all(&question).await.unwrap();
            asks.recv.read_exact(&mut back).await.unwrap();
        };
        let answer = async {
            answers.recv.read_exact(&mut there).await.unwrap();
            answers.send.write_all(&[2; BEAT]).await.unwrap();
        };
        timeout(PATIENCE, async { tokio::join!(ask, answer) })
            .await
            .unwrap();
        times.push(began.elapsed());
        sleep(pause).await;
    }
    times.sort();
    Times(times)
}

async fn write_for_ever(mut send: ByteWriter) {
    while send.write_all(&[3; 4096]).await.is_ok() {}
}

async fn read_for_ever(mut recv: ByteReader) {
    let mut out = vec![0; 16 << 10];
    while recv.read(&mut out).await.is_ok_and(|bytes| bytes > 0) {}
}

async fn tunnel(edge: &dyn Connection, cloud: &dyn Connection) -> (Stream, Stream) {
    let open = Open::dial(ServiceName::KubeApiTcp, "");
    let (near, far) = tokio::join!(edge.open(open), cloud.accept());
    (near.unwrap(), far.unwrap().1)
}

/// Four tunnels that nobody reads, and one whose both directions are full.
async fn load(edge: &dyn Connection, cloud: &dyn Connection) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (near, far) = tunnel(edge, cloud).await;
        let (near_unread, far_unread) = (near.recv, far.recv);
        let (up, down) = (near.send, far.send);
        tasks.spawn(async move {
            tokio::join!(write_for_ever(up), write_for_ever(down));
            drop((near_unread, far_unread));
        });
    }
    let (near, far) = tunnel(edge, cloud).await;
    tasks.spawn(write_for_ever(near.send));
    tasks.spawn(write_for_ever(far.send));
    tasks.spawn(read_for_ever(near.recv));
    tasks.spawn(read_for_ever(far.recv));
    tasks
}

async fn flow(edge: &dyn Connection, cloud: &dyn Connection, open: Open) -> (Stream, Stream) {
    let (near, far) = tokio::join!(edge.open(open), cloud.accept());
    (near.unwrap(), far.unwrap().1)
}

pub(crate) async fn beats_and_upserts_overtake_what_fills_the_link<C: Carrier>() {
    for _ in 0..TRIES {
        if measure::<C>().await < MOST {
            return;
        }
    }
    panic!("what is urgent takes more than {MOST} times as long on a full link");
}

/// How many times as long half of the beats, or of the upserts, take at most.
async fn measure<C: Carrier>() -> f64 {
    let linked = linked_over::<C>(Some(MEGABIT)).await;
    let (near, far, link) = (&*linked.edge, &*linked.cloud, linked.narrow.as_ref().unwrap());
    let (mut beats, mut acks) = flow(near, far, Open::session()).await;
    let (mut replica, mut publisher) = flow(near, far, Open::desired()).await;

    let pause = Duration::from_millis(10);
    let mut measured = Vec::new();
    for loaded in [false, true] {
        let tasks = if loaded {
            load(near, far).await
        } else {
            JoinSet::new()
        };
        // The link fills, and what learns its rate has learnt it.
        sleep(Duration::from_secs(2)).await;
        link.waited();
        let beat = rounds(&mut beats, &mut acks, BEAT, pause).await;
        let upsert = rounds(&mut publisher, &mut replica, UPSERT, pause).await;
        if near.transport() == Transport::Quic {
            let waited = link.waited().as_millis();
            println!("QUIC, full: {loaded}; a datagram waited {waited} ms before the link, one way");
        }
        measured.push((beat, upsert));
        drop(tasks);
    }
    let show = |what: &str, idle: &Times, full: &Times| {
        println!(
            "{} {what}: idle p50 {:.0} max {:.0} ms, full p50 {:.0} max {:.0} ms: {:.2} x and {:.2} x",
            near.transport(),
            idle.p50(),
            idle.max(),
            full.p50(),
            full.max(),
            full.p50() / idle.p50(),
            full.max() / idle.max(),
        );
        full.p50() / idle.p50()
    };
    let beats = show("beat", &measured[0].0, &measured[1].0);
    beats.max(show("upsert", &measured[0].1, &measured[1].1))
}
