//! The addresses that pods leave with, and those at which they find what they look for.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tests::{machine::firewall::Reach, pods};
use tokio::{net::TcpListener, time::timeout};

use crate::world::{EDGE, PATIENCE, World, apply, delete, pod, until_pod};

crate::tests![
    pods_reach_other_machines_with_the_devices_address,
    a_pod_that_publishes_the_api_servers_port_does_not_take_it_from_the_others,
];

/// A busybox that runs a script.
fn running(script: &str) -> Value {
    json!({ "image": "docker.io/library/busybox:1.35", "imagePullPolicy": "IfNotPresent",
            "command": ["busybox", "sh", "-c", script] })
}

async fn end(testbed: &tests::Testbed, name: &str) -> Result<()> {
    delete(testbed, &["pod", name, "--grace-period=0", "--force"]).await
}

async fn pods_reach_other_machines_with_the_devices_address(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    // Nothing here has a route to the device's pods.
    let listener = TcpListener::bind((testbed.network.host(), 0)).await?;
    let (host, port) = (testbed.network.host(), listener.local_addr()?.port());
    let name = world.name("calls");
    let script = format!("while true; do busybox nc -w 2 {host} {port} </dev/null; sleep 1; done");
    // Else a device of the testbed reaches cloudcore alone.
    edge.machine.restrict(Reach::Everything).await?;
    apply(testbed, &pod(&name, EDGE, running(&script))).await?;
    let call = timeout(PATIENCE, listener.accept()).await;
    edge.let_udp_through(true).await?;
    let Ok(call) = call else {
        bail!("no pod called");
    };
    let (_, from) = call?;
    ensure!(
        from.ip() == IpAddr::V4(edge.machine.address()),
        "the pod called from {from}, the device is {}",
        edge.machine.address()
    );
    end(testbed, &name).await
}

async fn a_pod_that_publishes_the_api_servers_port_does_not_take_it_from_the_others(
    world: &World,
) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let (server, client) = (world.name("publishes"), world.name("asks"));
    let mut container = running("busybox nc -ll -p 8080 -e echo published");
    container["ports"] = json!([{ "containerPort": 8080, "hostPort": 443 }]);
    apply(testbed, &pod(&server, EDGE, container)).await?;
    until_pod(testbed, &server, pods::is_ready).await?;

    // The pod is found at the device's address, and not at the API server's.
    let script = format!(
        "ask() {{ busybox nc -w 3 $1 443 </dev/null; }}; \
         until [ \"$(ask {device})\" = published ]; do sleep 1; done; \
         said=$(ask $KUBERNETES_SERVICE_HOST) && [ \"$said\" != published ]",
        device = edge.machine.address()
    );
    let mut asking = pod(&client, EDGE, running(&script));
    asking["spec"]["restartPolicy"] = json!("Never");
    apply(testbed, &asking).await?;
    let ended = until_pod(testbed, &client, |pod| {
        matches!(pods::phase(pod), "Succeeded" | "Failed")
    })
    .await?;
    ensure!(
        pods::phase(&ended) == "Succeeded",
        "the API server's address does not answer, or the pod on port 443 does there"
    );
    end(testbed, &client).await?;
    end(testbed, &server).await
}
