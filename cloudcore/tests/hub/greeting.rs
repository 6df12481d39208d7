//! What may go wrong between Hello and Welcome.

use std::{net::Ipv4Addr, sync::Arc};

use protocol::{
    transport::CloseCode,
    wire::{FrameWriter, Open, RejectCode, SessionUp, session_down},
};
use quinn::{ClientConfig, ConnectionError, Endpoint, TransportConfig, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;

use super::{
    ending, eventually,
    world::{PATIENCE, World, hello},
};

#[tokio::test]
async fn a_ban_that_comes_while_the_lease_is_taken_ends_the_session() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    world.leases.hold(true);
    let banned = async {
        eventually(|| world.leases.asked() == 1).await;
        world.authority.ban(&device.name).await.unwrap();
        eventually(|| !world.authority.is_enrolled(&device.name)).await;
        world.leases.hold(false);
    };
    // Whether the Welcome is read before the end is a race.
    let ((edge, _), ()) = tokio::join!(device.dial(world.address, ""), banned);
    let (code, reason) = ending(&edge).await;
    assert_eq!(code, CloseCode::Forbidden);
    assert!(reason.contains("banned"), "{reason}");
}

#[tokio::test]
async fn an_edge_that_gives_no_credit_for_its_welcome_is_sent_away() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    let tls = QuicClientConfig::try_from(Arc::clone(&device.tls().config)).unwrap();
    let mut no_credit = TransportConfig::default();
    no_credit.stream_receive_window(0_u32.into());
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(no_credit));
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let dialing = endpoint.connect_with(config, world.address, protocol::tls::SERVER_NAME);
    let connection = dialing.unwrap().await.unwrap();
    let (send, _recv) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    writer.write(&Open::session()).await.unwrap();
    let kind = Some(hello(""));
    writer.write(&SessionUp { kind }).await.unwrap();

    let told = timeout(PATIENCE, connection.closed()).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = told else {
        panic!("{told}")
    };
    assert_eq!(close.error_code.into_inner(), CloseCode::Silent as u64);
    eventually(|| world.view.half_open() == 0 && world.view.sessions() == 0).await;
}

#[tokio::test]
async fn a_device_that_asks_again_and_again_is_told_to_wait_and_costs_the_cluster_nothing() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    let mut welcomed = 0;
    let reject = loop {
        match device.dial(world.address, "").await.1 {
            Some(session_down::Kind::Welcome(_)) => welcomed += 1,
            Some(session_down::Kind::Reject(reject)) => break reject,
            other => panic!("{other:?}"),
        }
        assert!(welcomed < 100, "nobody told it to wait");
    };
    assert_eq!(RejectCode::from(reject.code), RejectCode::Busy);
    assert!(reject.retry_after_ms > 0);
    assert_eq!(world.leases.asked(), welcomed);
    // Another's turns are its own.
    world.device("edge-2").await.connect(world.address).await;
}
