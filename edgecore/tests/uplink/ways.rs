//! The ways to the cloud: QUIC, WebSocket, a proxy, and from one to the other.

use protocol::transport::Transport;

use super::*;
use crate::relay::{ConnectProxy, Relay};

/// `user:p@ss word`, as a proxy wants it.
const BASIC: &str = "dXNlcjpwQHNzIHdvcmQ=";

pub(crate) async fn over(edge: &Edge, wanted: Transport) {
    until(
        edge.link.watch(),
        |state| matches!(state, LinkState::Connected { transport, .. } if *transport == wanted),
    )
    .await;
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

#[tokio::test]
async fn quic_carries_the_link_where_it_can() {
    let world = World::new().await;
    over(&world.edge, Transport::Quic).await;
}

#[tokio::test]
async fn without_udp_the_link_is_a_websocket() {
    let mut world = World::new().await;
    let relay = Relay::to(world.address, false).await;
    world.edge = Edge::start(&world.authority, relay.address.to_string().parse().unwrap(), None).await;
    over(&world.edge, Transport::WebSocket).await;
    world.cluster.add_pod("a");
    world.pods(1).await;
    world.report("over the websocket").await;
    world.reported("over the websocket").await;
}

/// A welcome to a session that beats often.
fn quick() -> session_down::Kind {
    session_down::Kind::Welcome(Welcome {
        keepalive_ms: 1_000,
        ..welcome(CLUSTER)
    })
}

#[tokio::test]
async fn udp_that_is_blocked_in_mid_session_moves_the_link_to_a_websocket() {
    let mut world = World::new().await;
    world.hellos(1).await;
    let relay = Relay::to(world.address, true).await;
    world.cluster.answer_next_with(quick());
    world.edge = Edge::start(&world.authority, relay.address.to_string().parse().unwrap(), None).await;
    over(&world.edge, Transport::Quic).await;
    relay.udp.send_replace(false);
    over(&world.edge, Transport::WebSocket).await;
    world.cluster.add_pod("a");
    world.pods(1).await;
}

/// Each flow carries a handshake, Hello and a few beats, and then nothing.
#[tokio::test]
async fn udp_that_only_shakes_hands_leaves_the_link_to_a_websocket() {
    const OF_A_FLOW: usize = 40;
    let mut world = World::new().await;
    world.hellos(1).await;
    let relay = Relay::that_tires(world.address, OF_A_FLOW).await;
    for _ in 0..4 {
        world.cluster.answer_next_with(quick());
    }
    world.edge = Edge::start(&world.authority, relay.address.to_string().parse().unwrap(), None).await;
    over(&world.edge, Transport::Quic).await;
    // The second of its kind.
    world.hellos(3).await;
    over(&world.edge, Transport::WebSocket).await;
    world.cluster.add_pod("a");
    world.pods(1).await;
}

#[tokio::test]
async fn a_proxy_leads_there_with_its_password_and_resolves_the_name() {
    let mut world = World::new().await;
    let proxy = ConnectProxy::to(world.address, BASIC).await;
    let known = format!("http://user:p%40ss%20word@{}", proxy.address);
    let far = address("cloud.invalid:10000");
    world.edge = Edge::start(&world.authority, far, Some(known.parse().unwrap())).await;
    over(&world.edge, Transport::WebSocket).await;
    assert_eq!(proxy.asked.lock()[0], "CONNECT cloud.invalid:10000 HTTP/1.1");
    world.cluster.add_pod("a");
    world.pods(1).await;
}

#[tokio::test]
async fn a_wrong_password_is_named_and_not_shown() {
    let mut world = World::new().await;
    let proxy = ConnectProxy::to(world.address, BASIC).await;
    let wrong = format!("http://user:geheim@{}", proxy.address);
    let far = address("cloud.invalid:10000");
    world.edge = Edge::start(&world.authority, far, Some(wrong.parse().unwrap())).await;
    until(world.edge.link.watch(), |state| {
        reason(state).contains("wants a user and password")
    })
    .await;
    assert!(!reason(&world.edge.link.watch().borrow()).contains("geheim"));
    assert!(proxy.asked.lock().is_empty());
}

/// `localhost` has an IPv6 address too, where nobody listens.
#[tokio::test]
async fn an_address_family_that_leads_nowhere_is_passed_over() {
    let mut world = World::new().await;
    let relay = Relay::to(world.address, true).await;
    let name = format!("localhost:{}", relay.address.port());
    world.edge = Edge::start(&world.authority, address(&name), None).await;
    over(&world.edge, Transport::Quic).await;
    let relay = Relay::to(world.address, false).await;
    let name = format!("localhost:{}", relay.address.port());
    world.edge = Edge::start(&world.authority, address(&name), None).await;
    over(&world.edge, Transport::WebSocket).await;
}
