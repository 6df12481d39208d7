//! How much of a link one stream gets: printed, and asserted where the link is narrow.

use std::time::Duration;

use protocol::{name::ServiceName, transport::Stream, wire::Open};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::{
    carriers::{Carrier, linked_over},
    narrow::{Link, MEGABIT},
};

/// What an ordinary wide line does: 50 Mbit/s, and 20 ms there and back.
const WIDE: Link = Link {
    byte: Duration::from_nanos(160),
    delay: Duration::from_millis(10),
    queue: 256 << 10,
    loses: 0,
};
/// What headers and acknowledgements leave of a link, at least.
const FULL: f64 = 0.85;
const TRIES: usize = 3;
const LOSSY: Link = Link { loses: 100, ..WIDE };

/// Bytes a second of a stream from the cloud to the edge, once it is under way.
async fn carries<C: Carrier>(link: Option<Link>, first: usize, then: usize) -> f64 {
    let linked = linked_over::<C>(link).await;
    let open = Open::dial(ServiceName::KubeApiTcp, "");
    let (near, far) = tokio::join!(linked.edge.open(open), linked.cloud.accept());
    let (mut near, (_, mut far)): (Stream, (Open, Stream)) = (near.unwrap(), far.unwrap());
    let write = async {
        let chunk = vec![7; 4096];
        for _ in 0..(first + then).div_ceil(chunk.len()) {
            far.send.write_all(&chunk).await.unwrap();
        }
    };
    let read = async {
        let mut chunk = vec![0; 4096];
        for _ in 0..first / chunk.len() {
            near.recv.read_exact(&mut chunk).await.unwrap();
        }
        let began = Instant::now();
        for _ in 0..then / chunk.len() {
            near.recv.read_exact(&mut chunk).await.unwrap();
        }
        f64::from(u32::try_from(then).unwrap()) / began.elapsed().as_secs_f64()
    };
    tokio::join!(write, read).1
}

pub(crate) async fn one_stream_uses_the_link<C: Carrier>() {
    let name = std::any::type_name::<C>().rsplit("::").next().unwrap();
    let narrow = fully_in_one_try::<C>(name).await;
    let wide = carries::<C>(Some(WIDE), 2 << 20, 8 << 20).await / 125_000.0;
    println!("{name}: {wide:.1} of 50 Mbit/s, 20 ms");
    let lossy = carries::<C>(Some(LOSSY), 1 << 20, 4 << 20).await / 125_000.0;
    println!("{name}: {lossy:.1} of 50 Mbit/s, 20 ms, one of a hundred datagrams lost");
    let none = carries::<C>(None, 4 << 20, 32 << 20).await / 125_000.0;
    println!("{name}: {none:.0} Mbit/s over the loopback");
    assert!(narrow > FULL, "{narrow} in each of {TRIES} tries");
}

/// The part of a narrow link that one stream uses. A machine that is busy with something else has a few tries.
async fn fully_in_one_try<C: Carrier>(name: &str) -> f64 {
    let mut narrow = 0.0;
    for _ in 0..TRIES {
        narrow = carries::<C>(Some(MEGABIT), 128 << 10, 768 << 10).await / 125_000.0;
        println!("{name}: {:.0} % of 1 Mbit/s", narrow * 100.0);
        if narrow > FULL {
            break;
        }
    }
    narrow
}
