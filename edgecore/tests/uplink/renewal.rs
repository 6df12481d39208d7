//! A certificate that has ended by cloudcore's clock and not by the edge's: the edge learns it from the
//! handshake, and renews.

use protocol::tls::{self, authority_from_pem, certified};
use protocol::transport::Transport;

use super::*;
use crate::relay::Relay;
use crate::ways::over;

const DAY: Duration = Duration::from_hours(24);

/// A cluster ten days ahead of an edge whose certificate ends in five, and the next certificate.
async fn renews_and_connects(transport: Transport) {
    let (authority, cluster, clock) = (Authority::new(), Cluster::new(), Clock::system());
    let credentials = authority.node_until("edge-1", clock.now() + DAY * 5);
    let held = certified(&authority.certificate, &credentials.chain[0]).unwrap();
    let next = authority.again(&held, clock.now() + DAY * 50);
    let ends = tls::expiry(&authority_from_pem(next.as_bytes()).unwrap()).unwrap();
    cluster.renew_with(&authority.certificate, next);

    let ahead = Clock::with_offset(10 * 86_400);
    let here = "127.0.0.1:0".parse().unwrap();
    let replica = Replica::listen_by(ahead, &authority, &cluster, here).await;
    let relay = Relay::to(replica.address, transport == Transport::Quic).await;
    let address = relay.address.to_string().parse().unwrap();
    let edge = Edge::start_as(credentials, &authority, address, None).await;
    over(&edge, transport).await;
    assert_eq!(edge.identity.view().ends, Some(ends));
    assert_eq!(edge.identity.view().trouble, None);
}

#[tokio::test]
async fn an_ended_certificate_is_renewed_after_a_refusal_over_quic() {
    renews_and_connects(Transport::Quic).await;
}

#[tokio::test]
async fn an_ended_certificate_is_renewed_after_a_refusal_over_websocket() {
    renews_and_connects(Transport::WebSocket).await;
}
