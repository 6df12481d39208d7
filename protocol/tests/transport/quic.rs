//! What only QUIC does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use protocol::{
    clock::Clock,
    name::ServiceName,
    tls::{self, ClientTls},
    transport::{Connection, ReceiveBudget, TransportError, quic::connect},
    wire::{FrameWriter, Open},
};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    carriers::{Carrier, Quic, plenty},
    pki::{Authority, edge, valid},
};

#[tokio::test]
async fn a_stream_that_never_says_what_it_is_delays_no_other() {
    let authority = Authority::new();
    let (listener, address) = Quic::listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());
    let mut quic = rustls_client(&tls);
    let client = quinn_client(&mut quic, address);
    let (raw, cloud) = tokio::join!(client, listener.accept());
    let (cloud, raw) = (cloud.unwrap(), raw);

    let (mut garbage, _recv) = raw.open_bi().await.unwrap();
    garbage.write_all(&[0, 0]).await.unwrap();
    let (good, _recv) = raw.open_bi().await.unwrap();
    FrameWriter::new(good).write(&Open::desired()).await.unwrap();

    let (open, _stream) = tokio::time::timeout(Duration::from_secs(5), cloud.accept())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(open, Open::desired());
}

#[tokio::test]
async fn a_replica_that_was_killed_tells_its_edges_when_it_is_back() {
    let authority = Arc::new(Authority::new());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());

    // Dropping a runtime is what a kill is: no task says goodbye.
    let first = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let signed = Arc::clone(&authority);
    let (listener, address) = first
        .spawn(async move { Quic::listen(&signed, valid()) })
        .await
        .unwrap();
    let serving = Quic(listener.0.clone());
    let (cloud, edge) = tokio::join!(
        first.spawn(async move { serving.accept().await.unwrap() }),
        connect(address, &tls)
    );
    let edge = edge.unwrap();
    tokio::task::spawn_blocking(move || first.shutdown_timeout(Duration::from_secs(1)))
        .await
        .unwrap();
    drop((cloud, listener));

    let second = Quic::at(&authority, valid(), address, &plenty()).unwrap();
    let _ = edge.open(Open::session()).await;
    let told = tokio::time::timeout(Duration::from_secs(5), edge.closed())
        .await
        .unwrap();
    assert!(matches!(told, TransportError::Reset), "{told}");
    drop(second);
}

fn rustls_client(tls: &ClientTls) -> quinn::ClientConfig {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(Arc::clone(&tls.config)).unwrap();
    quinn::ClientConfig::new(Arc::new(crypto))
}

async fn quinn_client(config: &mut quinn::ClientConfig, address: SocketAddr) -> quinn::Connection {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint
        .connect_with(config.clone(), address, tls::SERVER_NAME)
        .unwrap()
        .await
        .unwrap()
}

/// So long nothing is taken of one who may send no more.
const SECOND: Duration = Duration::from_secs(1);

/// What an edge can send to a cloud that accepts streams and reads nothing.
async fn flood(edge: &dyn Connection, cloud: &dyn Connection) -> u64 {
    let mut accepted = Vec::new();
    let accepts = async {
        while let Ok(stream) = cloud.accept().await {
            accepted.push(stream);
        }
    };
    let (mut opened, mut sent) = (Vec::new(), 0);
    let sends = async {
        // The session's own stream is always read.
        let opens = [Open::desired(), Open::reported()];
        let tunnels = std::iter::repeat_n(Open::dial(ServiceName::KubeApiTcp, ""), 5);
        for open in opens.into_iter().chain(tunnels) {
            let Ok(near) = timeout(2 * SECOND, edge.open(open)).await else {
                return;
            };
            let mut near = near.unwrap();
            // Ends when nothing more is taken; the stream may have been refused.
            while let Ok(Ok(bytes)) = timeout(SECOND, near.send.write(&[7; 4096])).await {
                sent += bytes as u64;
            }
            opened.push(near);
        }
    };
    tokio::select! {
        () = sends => {}
        () = accepts => panic!("the connection ended"),
    }
    // What a refused stream had sent was thrown away.
    let refused = opened.len().saturating_sub(accepted.len()) as u64;
    sent.saturating_sub(refused * (12 << 10))
}

/// As many as a replica of cloudcore is made for.
const SESSIONS: usize = 1000;

#[tokio::test]
async fn a_thousand_sessions_that_nobody_reads_stay_within_the_budget() {
    let budget = ReceiveBudget::new(32 << 20);
    let authority = Authority::new();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Quic::at(&authority, valid(), address, &budget).unwrap();
    let address = listener.0.local_addr().unwrap();
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());
    let mut ends = Vec::new();
    for _ in 0..SESSIONS {
        let (edge, cloud) = tokio::join!(connect(address, &tls), listener.accept());
        ends.push((edge.unwrap(), cloud.unwrap()));
    }
    let floods = ends.iter().map(|(edge, cloud)| flood(&**edge, &**cloud));
    let sent = futures::future::join_all(floods).await;
    let all: u64 = sent.iter().sum();
    println!(
        "{SESSIONS} sessions hold {} KiB, {} to {} each; {} of {} KiB are promised",
        all >> 10,
        sent.iter().min().unwrap() >> 10,
        sent.iter().max().unwrap() >> 10,
        budget.promised() >> 10,
        budget.total() >> 10,
    );
    assert!(all <= budget.promised() && budget.promised() <= budget.total());
    drop(ends);
}
