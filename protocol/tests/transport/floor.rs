//! What waits behind more urgent things that fill the link for long.

use std::time::Duration;

use protocol::{
    name::ServiceName,
    transport::{ByteReader, ByteWriter},
    wire::Open,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};

use crate::{
    carriers::{Carrier, linked_over},
    narrow::MEGABIT,
};

const LASTS: Duration = Duration::from_secs(8);

async fn write_for_ever(mut send: ByteWriter) {
    while send.write_all(&[3; 4096]).await.is_ok() {}
}

/// The bytes that come until the others have had their time.
async fn count(mut recv: ByteReader) -> f64 {
    let (mut out, mut all) = (vec![0; 16 << 10], 0.0);
    let enough = sleep(LASTS);
    tokio::pin!(enough);
    loop {
        tokio::select! {
            read = recv.read(&mut out) => all += f64::from(u32::try_from(read.unwrap()).unwrap()),
            () = &mut enough => return all,
        }
    }
}

/// Objects, reports and a tunnel that all have more to send than the link carries: what each gets.
pub(crate) async fn each_class_that_waits_gets_its_floor<C: Carrier>() {
    let linked = linked_over::<C>(Some(MEGABIT)).await;
    let (near, far) = (&linked.edge, &linked.cloud);
    let (mut writers, mut kept, mut readers) = (JoinSet::new(), Vec::new(), Vec::new());
    for open in [
        Open::desired(),
        Open::reported(),
        Open::dial(ServiceName::KubeApiTcp, ""),
    ] {
        let (opened, accepted) = tokio::join!(near.open(open), far.accept());
        let (opened, (_, accepted)) = (opened.unwrap(), accepted.unwrap());
        writers.spawn(write_for_ever(accepted.send));
        readers.push(opened.recv);
        kept.push((opened.send, accepted.recv));
    }
    let tunnel = readers.pop().unwrap();
    let reported = readers.pop().unwrap();
    let desired = readers.pop().unwrap();
    let got = tokio::join!(count(desired), count(reported), count(tunnel));
    let all = got.0 + got.1 + got.2;
    let shares = [got.0, got.1, got.2].map(|bytes| bytes / all * 100.0);
    println!("{}: {shares:.1?} % of {all} bytes", near.transport());
    assert!(shares[1] > 1.5 && shares[2] > 1.5, "{shares:?}");
    assert!(shares[0] > 60.0, "{shares:?}");
}
