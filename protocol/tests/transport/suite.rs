//! What every transport must do: who may connect, and what streams carry.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use prost::Message as _;
use protocol::{
    class::Class,
    clock::Clock,
    name::ServiceName,
    tls::TlsFault,
    transport::{Carried, CloseCode, Connection, Stream, Traffic, TransportError, counted},
    wire::{DialReply, FrameReader, FrameWriter, Open, open},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    carriers::{Carrier, linked, pair},
    pki::{Authority, DAY, edge, valid},
};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn a_nodes_name_key_and_expiry_come_from_its_certificate<C: Carrier>() {
    let authority = Authority::new();
    let (listener, address) = C::listen(&authority, valid());
    let (credentials, key) = authority.node("system:node:edge-1", valid());
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    let (edge, cloud) = (edge.unwrap(), cloud.unwrap());

    let peer = cloud.peer().unwrap();
    assert_eq!((peer.node.as_str(), peer.key), ("edge-1", key));
    assert!(peer.expires > Clock::system().now() + DAY * 89);
    assert!(edge.peer().is_none());
}

pub(crate) async fn a_half_closed_tunnel_still_carries_the_answer<C: Carrier>() {
    let authority = Authority::new();
    let (listener, address) = C::listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    let (edge, cloud) = (edge.unwrap(), cloud.unwrap());

    let service = async {
        let (open, mut stream) = cloud.accept().await.unwrap();
        let Some(open::Kind::Dial(dial)) = open.kind else {
            panic!("not a dial")
        };
        assert_eq!(dial.service_name(), Ok(ServiceName::KubeApiTcp));
        let mut writer = FrameWriter::new(stream.send);
        writer.write(&DialReply::dialed()).await.unwrap();
        let mut asked = Vec::new();
        stream.recv.read_to_end(&mut asked).await.unwrap();
        let mut send = writer.into_inner();
        send.write_all(&asked.repeat(2)).await.unwrap();
        send.shutdown().await.unwrap();
    };
    let client = async {
        let mut stream = protocol::transport::dial(&*edge, ServiceName::KubeApiTcp, "")
            .await
            .unwrap();
        stream.send.write_all(b"ping").await.unwrap();
        stream.send.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.recv.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"pingping");
    };
    tokio::join!(service, client);
}

pub(crate) async fn another_ca_is_refused_by_either_side_and_named<C: Carrier>() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (listener, address) = C::listen(&theirs, valid());
    let (credentials, _) = ours.node("system:node:edge-1", valid());

    let (refused, _) = pair(&listener, address, &edge(&ours, &credentials, &Clock::system())).await;
    let refused = refused.err().unwrap();
    assert!(
        matches!(refused, TransportError::Tls(TlsFault::OtherAuthority)),
        "{refused}"
    );

    // An edge that trusts the server, but shows a certificate of another CA.
    let (edge, cloud) = pair(&listener, address, &edge(&theirs, &credentials, &Clock::system())).await;
    assert!(cloud.is_err());
    let told = match edge {
        Ok(edge) => edge.closed().await,
        Err(error) => error,
    };
    assert!(matches!(told, TransportError::CertificateRefused(_)), "{told}");
}

pub(crate) async fn a_clock_ahead_past_the_certificates_end_is_named_with_its_offset<C: Carrier>() {
    let authority = Authority::new();
    let (listener, address) = C::listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let ahead = Clock::with_offset(366 * 86_400);

    let (refused, cloud) = pair(&listener, address, &edge(&authority, &credentials, &ahead)).await;
    let text = refused.err().unwrap().to_string();
    assert!(
        text.contains("ended 276d") || text.contains("ended 275d"),
        "{text}"
    );
    assert!(cloud.is_err());
}

pub(crate) async fn an_expired_node_is_told_so<C: Carrier>() {
    let authority = Authority::new();
    let (listener, address) = C::listen(&authority, valid());
    let past = (UNIX_EPOCH + DAY, Clock::system().now() - DAY);
    let (credentials, _) = authority.node("system:node:edge-1", past);
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    let seen = cloud.err().unwrap().to_string();
    assert!(seen.contains("expired"), "{seen}");
    let told = match edge {
        Ok(edge) => edge.closed().await,
        Err(error) => error,
    };
    assert!(told.to_string().contains("expired by the peer's clock"), "{told}");
}

pub(crate) async fn a_certificate_that_names_no_node_is_refused<C: Carrier>() {
    let authority = Authority::new();
    let (listener, address) = C::listen(&authority, valid());
    let (credentials, _) = authority.node("admin", valid());
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    assert!(matches!(cloud.err().unwrap(), TransportError::Nobody { .. }));
    let told = edge.unwrap().closed().await;
    assert!(
        matches!(
            told,
            TransportError::ClosedByPeer {
                code: CloseCode::Forbidden,
                ..
            }
        ),
        "{told}"
    );
}

pub(crate) async fn a_resumed_session_still_has_its_identity<C: Carrier>() {
    let authority = Authority::new();
    let (listener, address) = C::listen(&authority, valid());
    let (credentials, key) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());
    for _ in 0..2 {
        let (edge, cloud) = pair(&listener, address, &tls).await;
        let (edge, cloud) = (edge.unwrap(), cloud.unwrap());
        // A stream each way lets the session ticket arrive.
        let opened = edge.open(Open::session()).await.unwrap();
        let (_, stream) = cloud.accept().await.unwrap();
        FrameWriter::new(stream.send)
            .write(&DialReply::dialed())
            .await
            .unwrap();
        FrameReader::new(opened.recv).read::<DialReply>().await.unwrap();
        assert_eq!(cloud.peer().unwrap().key, key);
    }
}

/// A stream of its kind from the one end to the other.
async fn stream(from: &dyn Connection, to: &dyn Connection, open: Open) -> (Stream, Stream) {
    let (near, far) = tokio::join!(from.open(open.clone()), to.accept());
    let (said, far) = far.unwrap();
    assert_eq!(said, open);
    (near.unwrap(), far)
}

fn tunnel() -> Open {
    Open::dial(ServiceName::Kubelet, "")
}

pub(crate) async fn large_streams_arrive_whole_in_both_directions_at_once<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    let (near, far) = stream(&*edge, &*cloud, Open::desired()).await;
    let text: Vec<_> = (0..3_000_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let carry = async |mut stream: Stream| {
        let send = async {
            stream.send.write_all(&text).await.unwrap();
            stream.send.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        let ((), read) = tokio::join!(send, stream.recv.read_to_end(&mut came));
        read.unwrap();
        assert!(came == text);
    };
    timeout(PATIENCE, async { tokio::join!(carry(near), carry(far)) })
        .await
        .unwrap();
}

pub(crate) async fn streams_that_nobody_reads_stop_no_other<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let (unread, mut writes) = stream(&*edge, &*cloud, tunnel()).await;
        let full = async { while writes.send.write_all(&[0; 4096]).await.is_ok() {} };
        assert!(timeout(Duration::from_millis(300), full).await.is_err());
        stalled.push((unread, writes));
    }
    for open in [Open::session(), Open::desired(), tunnel()] {
        let (mut near, mut far) = stream(&*edge, &*cloud, open).await;
        let mut back = vec![0; 400_000];
        let carried = async {
            let send = async { far.send.write_all(&vec![7; 400_000]).await.unwrap() };
            let ((), read) = tokio::join!(send, near.recv.read_exact(&mut back));
            read.unwrap();
        };
        timeout(PATIENCE, carried).await.unwrap();
        assert!(back.iter().all(|byte| *byte == 7));
    }
}

pub(crate) async fn many_tunnels_are_open_at_once_and_their_places_come_back<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    for _ in 0..2 {
        let mut open = Vec::new();
        for n in 0..256_u32 {
            let (mut near, far) = stream(&*cloud, &*edge, tunnel()).await;
            near.send.write_all(&n.to_be_bytes()).await.unwrap();
            open.push((near, far));
        }
        for (n, (_, far)) in open.iter_mut().enumerate() {
            let came = timeout(PATIENCE, far.recv.read_u32()).await.unwrap().unwrap();
            assert_eq!(came as usize, n);
        }
    }
}

pub(crate) async fn each_class_is_counted_at_both_ends<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    let (up, down) = (Arc::<Traffic>::default(), Arc::<Traffic>::default());
    let (edge, cloud) = (counted(edge, &up), counted(cloud, &down));
    for (open, bytes) in [(Open::desired(), 70_000), (tunnel(), 5)] {
        let said = 4 + open.encoded_len() as u64;
        let (mut near, mut far) = stream(&*edge, &*cloud, open.clone()).await;
        let mut came = Vec::new();
        let carried = async {
            far.send.write_all(&vec![1; bytes]).await.unwrap();
            far.send.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(carried, near.recv.read_to_end(&mut came));
        assert_eq!(read.unwrap(), bytes);
        let (class, bytes) = (Class::of(&open), bytes as u64);
        let (sent, received) = (said, bytes);
        assert_eq!(up.of(class), Carried { sent, received });
        let (sent, received) = (bytes, said);
        assert_eq!(down.of(class), Carried { sent, received });
    }
    assert_eq!(up.of(Class::Control), Carried::default());
}

pub(crate) async fn a_class_that_is_held_to_a_rate_waits_and_no_other_does<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    let limited = Arc::new(Traffic::limited([(Class::Interactive, 16 << 10)]));
    let edge = counted(edge, &limited);
    let began = tokio::time::Instant::now();
    let (mut near, mut far) = stream(&*edge, &*cloud, tunnel()).await;
    let send = async {
        near.send.write_all(&vec![1; 20 << 10]).await.unwrap();
        near.send.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    let ((), read) = tokio::join!(send, far.recv.read_to_end(&mut came));
    assert_eq!(read.unwrap(), 20 << 10);
    // What was written last is owed, and the class waits until it is paid.
    far.send.write_all(&[2]).await.unwrap();
    let (mut flow, mut reads) = stream(&*edge, &*cloud, Open::desired()).await;
    let free = async {
        flow.send.write_all(&vec![3; 64 << 10]).await.unwrap();
        flow.send.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    let ((), read) = tokio::join!(free, reads.recv.read_to_end(&mut came));
    assert_eq!(read.unwrap(), 64 << 10);
    assert_eq!(near.recv.read_u8().await.unwrap(), 2);
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

pub(crate) async fn who_closes_says_why<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    let (mut near, _far) = stream(&*edge, &*cloud, Open::session()).await;
    cloud.close(CloseCode::Superseded, "a newer session");
    let told = timeout(PATIENCE, edge.closed()).await.unwrap();
    let TransportError::ClosedByPeer { code, reason } = told else {
        panic!("{told}")
    };
    assert_eq!(
        (code, reason.as_str()),
        (CloseCode::Superseded, "a newer session")
    );
    assert!(matches!(cloud.closed().await, TransportError::ClosedHere));
    assert!(near.send.write_all(b"more").await.is_err() && near.recv.read_u8().await.is_err());
    assert!(edge.open(tunnel()).await.is_err() && edge.accept().await.is_err());
}

pub(crate) async fn dropping_the_last_handle_closes_the_connection<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    drop(edge);
    let told = timeout(PATIENCE, cloud.closed()).await.unwrap();
    assert!(
        matches!(
            told,
            TransportError::ClosedByPeer {
                code: CloseCode::Done,
                ..
            }
        ),
        "{told}"
    );
}

pub(crate) async fn a_reader_that_goes_away_stops_the_writer<C: Carrier>() {
    let (edge, cloud) = linked::<C>().await;
    let (near, mut far) = stream(&*edge, &*cloud, tunnel()).await;
    drop(near);
    let stopped = async { while far.send.write_all(&[0; 4096]).await.is_ok() {} };
    timeout(PATIENCE, stopped).await.unwrap();
    assert_eq!(far.recv.read(&mut [0]).await.unwrap(), 0);
}
