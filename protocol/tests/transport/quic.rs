//! What only QUIC does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use protocol::{
    clock::Clock,
    tls::{self, ClientTls},
    transport::{TransportError, quic::connect},
    wire::{FrameWriter, Open},
};

use crate::{
    carriers::{Carrier, Quic},
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

    let second = Quic::at(&authority, valid(), address).unwrap();
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
