//! What a QUIC link says while nothing happens: a beat and its answer, and what QUIC adds.

use std::time::Duration;

use protocol::{transport::Transport, wire::Open};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    carriers::{Quic, linked_over},
    narrow::MEGABIT,
};

const TRIES: usize = 3;
const BEATS: u32 = 10;
/// With their lengths, as they are after some days.
const BEAT: usize = 11;
const ANSWER: usize = 14;
/// What asks how large a datagram may be has asked, and all is acknowledged.
const SETTLED: Duration = Duration::from_secs(4);
const DAY: Duration = Duration::from_hours(24);

/// The acknowledgement of a beat travels with the answer, that of the answer alone. Beats follow one
/// another faster here; quinn's own timers are slower than the real ones.
#[tokio::test]
async fn a_beat_costs_three_datagrams_and_a_day_of_them_less_than_a_megabyte() {
    // A busy machine answers late now and then: then its acknowledgement goes alone.
    for _ in 0..TRIES {
        let (datagrams, a_day) = beats().await;
        if datagrams <= 3.5 && a_day < 900_000.0 {
            return;
        }
    }
    panic!("a beat costs more in each of {TRIES} tries");
}

/// Datagrams of a beat, and the bytes of a day of them.
async fn beats() -> (f64, f64) {
    let linked = linked_over::<Quic>(Some(MEGABIT)).await;
    let narrow = linked.narrow.as_ref().unwrap();
    let (near, far) = tokio::join!(linked.edge.open(Open::session()), linked.cloud.accept());
    let (mut near, (_, mut far)) = (near.unwrap(), far.unwrap());
    sleep(SETTLED).await;
    narrow.went();
    for _ in 0..BEATS {
        let (mut beat, mut answer) = ([0; BEAT], [0; ANSWER]);
        near.send.write_all(&[1; BEAT]).await.unwrap();
        far.recv.read_exact(&mut beat).await.unwrap();
        far.send.write_all(&[2; ANSWER]).await.unwrap();
        near.recv.read_exact(&mut answer).await.unwrap();
        sleep(Duration::from_millis(250)).await;
    }
    let (datagrams, bytes) = narrow.went();
    let each = |all: usize| f64::from(u32::try_from(all).unwrap()) / f64::from(BEATS);
    let a_day = each(bytes) * DAY.div_duration_f64(Transport::Quic.keepalive());
    println!(
        "a beat: {} datagrams, {} bytes; a day of them {a_day:.0}",
        each(datagrams),
        each(bytes)
    );
    (each(datagrams), a_day)
}
