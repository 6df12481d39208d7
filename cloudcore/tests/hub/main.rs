//! Devices come to a replica over real sockets: enrolment, sessions, bans, and what does not belong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod crowd;
mod enrolment;
mod greeting;
mod leases;
mod operator;
mod removal;
mod renewal;
mod world;

use std::time::Duration;

use protocol::{
    clock::Clock,
    join::{JoinToken, RefusalCode},
    name::ServiceName,
    transport::{CloseCode, Connection, Transport, TransportError, dial, websocket},
    wire::{Beat, Goodbye, Open, RejectCode, session_down, session_up},
};
use renewal::{
    a_device_renews_by_itself_for_ninety_days_after_the_end,
    a_server_certificate_is_made_anew_and_served_at_once,
    a_session_outlives_its_first_certificate_when_it_was_renewed,
    a_session_renews_its_own_name_and_key_and_nothing_else,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use world::{Device, Edge, PATIENCE, World, post};

/// Runs tests over both transports.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        mod over_quic {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Transport::Quic).await;
            })*
        }
        mod over_websocket {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Transport::WebSocket).await;
            })*
        }
    };
}

over_both!(
    a_device_joins_dials_beats_tunnels_and_leaves,
    a_second_device_takes_a_name_only_with_a_token_made_for_that,
    a_ban_ends_the_session_at_once_and_holds,
    a_removed_node_is_turned_away_and_its_name_is_free,
    the_newest_session_of_a_node_wins,
    a_device_of_another_cluster_is_rejected_with_the_way_out,
    a_replica_that_shuts_down_says_goodbye_and_when_to_come_back,
    a_peer_that_breaks_the_protocol_loses_its_session_alone,
    a_session_outlives_its_first_certificate_when_it_was_renewed,
    a_session_renews_its_own_name_and_key_and_nothing_else,
    a_device_renews_by_itself_for_ninety_days_after_the_end,
    a_server_certificate_is_made_anew_and_served_at_once,
);

/// Waits until it is so.
async fn eventually(holds: impl Fn() -> bool) {
    let reached = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
}

/// Waits until there are so many sessions.
async fn sessions(world: &World, wanted: usize) {
    eventually(|| world.view.sessions() == wanted).await;
}

/// How a connection ended, as the edge was told.
async fn ending(edge: &Edge) -> (CloseCode, String) {
    closed(edge.connection.as_ref()).await
}

async fn closed(connection: &dyn Connection) -> (CloseCode, String) {
    let told = timeout(PATIENCE, connection.closed()).await.unwrap();
    let TransportError::ClosedByPeer { code, reason } = told else {
        panic!("{told}")
    };
    (code, reason)
}

async fn refusal(world: &World, device: &Device, token: &JoinToken) -> RefusalCode {
    device
        .enrol(world.address, token)
        .await
        .unwrap()
        .unwrap_err()
        .code
}

async fn a_device_joins_dials_beats_tunnels_and_leaves(transport: Transport) {
    let world = World::over(transport).await;
    let device = world.device("edge-1").await;
    let (mut edge, answer) = device.dial(world.address, "cluster-1").await;
    let Some(session_down::Kind::Welcome(welcome)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((welcome.version, welcome.cluster_id.as_str()), (1, "cluster-1"));
    assert!(welcome.api_reachable && welcome.epoch == 1);
    let keepalive = Duration::from_millis(welcome.keepalive_ms);
    assert_eq!(keepalive, transport.keepalive());
    sessions(&world, 1).await;
    assert_eq!(world.view.connected()[0].node, device.name);

    edge.say(session_up::Kind::Beat(Beat { seq: 5, progress: 1 }))
        .await;
    let Some(session_down::Kind::BeatAck(ack)) = edge.hear().await else {
        panic!("no answer to a beat")
    };
    assert_eq!(ack.seq, 5);

    let mut tunnel = dial(&*edge.connection, ServiceName::KubeApiTcp, "")
        .await
        .unwrap();
    tunnel.send.write_all(b"echo").await.unwrap();
    tunnel.send.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    tunnel.recv.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"echo");

    edge.say(session_up::Kind::Goodbye(Goodbye {
        reason: "reset".to_owned(),
        retry_after_ms: 0,
    }))
    .await;
    assert_eq!(ending(&edge).await.0, CloseCode::Done);
    sessions(&world, 0).await;
}

async fn a_second_device_takes_a_name_only_with_a_token_made_for_that(transport: Transport) {
    let world = World::over(transport).await;
    let old = world.device("edge-1").await;
    let edge = old.connect(world.address).await;
    world.api.add_node("edge-1", true);

    let new = Device::new("edge-1");
    let plain = world.token(|_| {}).await;
    assert_eq!(refusal(&world, &new, &plain).await, RefusalCode::KeyDiffers);

    let made_for_it = world
        .token(|spec| (spec.node, spec.replace_key) = (Some("edge-1".parse().unwrap()), true))
        .await;
    let answer = new.enrol(world.address, &made_for_it).await.unwrap().unwrap();
    assert_eq!(ending(&edge).await.0, CloseCode::Forbidden);
    let (_, told) = old.dial(world.address, "").await;
    let Some(session_down::Kind::Reject(reject)) = told else {
        panic!("{told:?}")
    };
    assert_eq!(RejectCode::from(reject.code), RejectCode::KeyNotAccepted);
    new.keep(&answer).connect(world.address).await;
}

async fn a_ban_ends_the_session_at_once_and_holds(transport: Transport) {
    let world = World::over(transport).await;
    let device = world.device("edge-1").await;
    let edge = device.connect(world.address).await;
    sessions(&world, 1).await;
    world.authority.ban(&device.name).await.unwrap();
    let (code, reason) = ending(&edge).await;
    assert_eq!(code, CloseCode::Forbidden);
    assert!(reason.contains("banned"), "{reason}");

    let (_, told) = device.dial(world.address, "").await;
    let Some(session_down::Kind::Reject(reject)) = told else {
        panic!("{told:?}")
    };
    assert_eq!(RejectCode::from(reject.code), RejectCode::Banned);
    let token = world.token(|_| {}).await;
    assert_eq!(refusal(&world, &device, &token).await, RefusalCode::Banned);
    assert!(world.authority.enrolled().await.unwrap()[0].banned);
    assert!(!world.authority.is_enrolled(&device.name));
}

async fn a_removed_node_is_turned_away_and_its_name_is_free(transport: Transport) {
    let world = World::over(transport).await;
    let device = world.device("edge-1").await;
    let edge = device.connect(world.address).await;
    assert!(world.authority.forget(&device.name).await.unwrap());
    assert_eq!(ending(&edge).await.0, CloseCode::Forbidden);
    world.device("edge-1").await.connect(world.address).await;
}

async fn the_newest_session_of_a_node_wins(transport: Transport) {
    let world = World::over(transport).await;
    let device = world.device("edge-1").await;
    let mut first = device.connect(world.address).await;
    let _second = device.connect(world.address).await;
    assert!(matches!(
        first.hear().await,
        Some(session_down::Kind::Superseded(_))
    ));
    assert_eq!(ending(&first).await.0, CloseCode::Superseded);
    sessions(&world, 1).await;
}

async fn a_device_of_another_cluster_is_rejected_with_the_way_out(transport: Transport) {
    let world = World::over(transport).await;
    let device = world.device("edge-1").await;
    let (_, told) = device.dial(world.address, "cluster-0").await;
    let Some(session_down::Kind::Reject(reject)) = told else {
        panic!("{told:?}")
    };
    assert_eq!(RejectCode::from(reject.code), RejectCode::OtherCluster);
    assert!(reject.text.contains("--replace-cluster") && reject.server_time_ms > 0);
    assert_eq!(world.view.sessions(), 0);
}

async fn a_replica_that_shuts_down_says_goodbye_and_when_to_come_back(transport: Transport) {
    let mut world = World::over(transport).await;
    let device = world.device("edge-1").await;
    let mut edge = device.connect(world.address).await;
    world.stop.cancel();
    let Some(session_down::Kind::Goodbye(goodbye)) = edge.hear().await else {
        panic!("no goodbye")
    };
    assert!(goodbye.retry_after_ms < 10_000);
    assert_eq!(ending(&edge).await.0, CloseCode::GoingAway);
    timeout(PATIENCE, world.tasks.join_next()).await.unwrap();
}

#[tokio::test]
async fn garbage_and_silence_on_the_port_disturb_nobody() {
    let world = World::start().await;
    let mut silent = Vec::new();
    for n in 0..50_u8 {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        if n % 2 == 0 {
            socket.write_all(&[n; 300]).await.unwrap();
        }
        silent.push(socket);
    }
    world.device("edge-1").await.connect(world.address).await;

    let pin = world.authority.pin();
    assert_eq!(post(world.address, pin, "/", b"{}").await.unwrap().0, 404);
    assert_eq!(
        post(world.address, pin, "/v1/enroll", b"null").await.unwrap().0,
        400
    );
    let large = vec![b'x'; 64 << 10];
    assert_eq!(
        post(world.address, pin, "/v1/enroll", &large).await.unwrap().0,
        413
    );
}

async fn a_peer_that_breaks_the_protocol_loses_its_session_alone(transport: Transport) {
    let world = World::over(transport).await;
    let (honest, other) = (world.device("edge-1").await, world.device("edge-2").await);
    let mut good = honest.connect(world.address).await;

    // A frame that claims 4 GiB.
    let bad = other.connect(world.address).await;
    let mut raw = bad.writer.into_inner();
    raw.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(closed(bad.connection.as_ref()).await.0, CloseCode::Protocol);

    // A connection that begins with another stream.
    let bad = other.connect_raw(world.address, Open::desired()).await;
    assert_eq!(closed(bad.as_ref()).await.0, CloseCode::Protocol);

    good.say(session_up::Kind::Beat(Beat { seq: 1, progress: 1 }))
        .await;
    assert!(matches!(good.hear().await, Some(session_down::Kind::BeatAck(_))));
}

#[tokio::test]
async fn a_session_moves_from_one_transport_to_the_other_and_back() {
    let world = World::over(Transport::Quic).await;
    let mut device = world.device("edge-1").await;
    let mut session = device.connect(world.address).await;
    for transport in [Transport::WebSocket, Transport::Quic] {
        device.transport = transport;
        let newer = device.connect(world.address).await;
        assert!(matches!(
            session.hear().await,
            Some(session_down::Kind::Superseded(_))
        ));
        assert_eq!(ending(&session).await.0, CloseCode::Superseded);
        session = newer;
    }
    sessions(&world, 1).await;
}

#[tokio::test]
async fn nobody_gets_a_link_without_a_certificate() {
    let world = World::over(Transport::WebSocket).await;
    let (tls, _) = protocol::tls::joining_client(world.authority.pin(), &Clock::system()).unwrap();
    let socket = TcpStream::connect(world.address).await.unwrap();
    let nobody = websocket::connect(socket, world.address, &tls).await.unwrap();
    let (code, reason) = closed(nobody.as_ref()).await;
    assert_eq!(code, CloseCode::Forbidden);
    assert!(reason.contains("no client certificate"), "{reason}");
    drop(nobody);
    eventually(|| world.view.half_open() == 0).await;
}
