//! How often a node's pods may be connected to the API server.

use http::StatusCode;
use protocol::wire::FrameReader;
use serde_json::Value;
use tokio::{
    io::{duplex, split},
    net::TcpListener,
};

use super::*;
use crate::cluster::testing::cluster;

/// Tunnels to an address where nobody listens, so that each dial that is made ends at once.
async fn tunnels() -> Tunnels {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    Tunnels::new(cluster(|_| (StatusCode::NOT_FOUND, Value::Null)), address)
}

/// What a dial of a node's pod is answered with.
async fn dial(tunnels: &Tunnels, node: &NodeName) -> String {
    let (edge, cloud) = duplex(1024);
    let (recv, send) = split(cloud);
    let dial = Dial {
        service: ServiceName::KubeApiTcp.as_str().to_owned(),
        ..Dial::default()
    };
    let stream = Stream {
        recv: Box::new(recv),
        send: Box::new(send),
    };
    tunnels.clone().serve(node.clone(), dial, stream).await;
    let reply: DialReply = FrameReader::new(edge).read().await.unwrap().unwrap();
    format!("{reply:?}")
}

#[tokio::test]
async fn a_burst_is_let_through_and_then_so_many_a_second_of_each_node() {
    let (tunnels, now) = (tunnels().await, Instant::now());
    let [e1, e2]: [NodeName; 2] = ["e1", "e2"].map(|name| name.parse().unwrap());
    for _ in 0..PODS_DIALS.burst {
        tunnels.may_dial(&e1, now).unwrap();
    }
    let refused = tunnels.may_dial(&e1, now).unwrap_err();
    assert_eq!(
        refused,
        "the pods of node e1 connect to the API server too often: again in 200 ms"
    );
    tunnels.may_dial(&e2, now).unwrap();
    tunnels.may_dial(&e1, now + PODS_DIALS.every).unwrap();
}

#[tokio::test]
async fn a_node_whose_pods_dial_without_end_uses_up_no_ports() {
    let tunnels = tunnels().await;
    let [e1, e2]: [NodeName; 2] = ["e1", "e2"].map(|name| name.parse().unwrap());
    // However slow this test is, e1 has used up more than it is given until then.
    tunnels
        .may_dial(&e1, Instant::now() + Duration::from_hours(1))
        .unwrap();
    let refused = dial(&tunnels, &e1).await;
    assert!(
        refused.contains("node e1 connect to the API server too often"),
        "{refused}"
    );
    assert!(dial(&tunnels, &e2).await.contains("could not be reached"));
}
