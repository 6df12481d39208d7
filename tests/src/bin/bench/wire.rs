//! Bytes on the wire and on flash, extrapolated from a span of rest to a day.
//!
//! The wire is counted by the kernel of the edge machine's network namespace, at the IP layer and in both
//! directions, without what programs on the machine say to each other and without what goes to a whole segment:
//! kernels look for routers on every bridge and every pod's interface, whatever runs on them; flash by the kernel's counter of what the process had written.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::Value;
use tests::{
    EdgeMachine,
    machine::Machine,
    pods,
    wait::{Look, until},
};
use tokio::time::{Instant, sleep};

use crate::{
    burst,
    figures::{Figure, Unit},
    memory::{rest, service_file},
    show::{note, step},
    stage::{EDGE, PATIENCE, Stage},
    starts::pod,
};

/// The label of the pods whose tokens are counted.
const APP: &str = "bench-tokens";
/// Before the IP header of a packet, also on the loopback device.
const LINK_HEADER: f64 = 14.0;
/// How many of them there are.
const PODS: u16 = 10;
/// What still travels when the last pod is gone has arrived after this.
const GONE: Duration = Duration::from_secs(5);
/// What a start or a join still has to say is said after this.
pub(crate) const CALM: Duration = Duration::from_mins(1);
/// A session over a WebSocket tries QUIC again after one and a half minutes at the earliest; after these
/// eight it has done so twice and waits for six at least. A day has about a dozen tries.
const FIRST_PROBE: Duration = Duration::from_secs(80);
const PROBED: Duration = Duration::from_mins(8);
/// A pod's default token is renewed once in so many hours: edgecore goes by the token's own end, which the
/// API server sets to a year, and renews once a day.
const DAY: Duration = Duration::from_hours(24);

/// A counter and when it was read.
pub(crate) struct Reading {
    count: f64,
    at: Instant,
}

impl Reading {
    /// What the IP layer of the machine has received from others and sent to them.
    pub(crate) async fn of_wire(machine: &Machine) -> Result<Self> {
        let counters = machine
            .shell("cat /proc/net/netstat /proc/net/snmp6 /proc/net/dev")
            .await?;
        Ok(Self::now(octets(&counters)? - loopback(&counters)?))
    }

    /// What a service has had written to the disk.
    pub(crate) async fn of_flash(machine: &Machine, service: &str) -> Result<Self> {
        let counters = service_file(machine, service, "io").await?;
        let line = counters
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes:"));
        let written = line.context("no write_bytes in its /proc/.../io")?;
        Ok(Self::now(written.trim().parse()?))
    }

    fn now(count: f64) -> Self {
        Self {
            count,
            at: Instant::now(),
        }
    }

    /// What a day would count at the rate since `before`.
    pub(crate) fn a_day_since(&self, before: &Self) -> f64 {
        (self.count - before.count) / (self.at - before.at).as_secs_f64() * DAY.as_secs_f64()
    }
}

/// In and out, IPv4 and IPv6, from and to one machine.
fn octets(counters: &str) -> Result<f64> {
    let mut lines = counters.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = lines
        .next()
        .zip(lines.next())
        .context("no IpExt in /proc/net/netstat")?;
    let four = names.split_whitespace().zip(values.split_whitespace());
    let six = counters
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace));
    let all = ["InOctets", "OutOctets"];
    let segment = [
        "InMcastOctets",
        "OutMcastOctets",
        "InBcastOctets",
        "OutBcastOctets",
    ];
    four.chain(six)
        .map(|(name, value)| (name.trim_start_matches("Ip6"), value))
        .filter_map(|(name, value)| match name {
            name if all.contains(&name) => Some((1.0, value)),
            name if segment.contains(&name) => Some((-1.0, value)),
            _ => None,
        })
        .map(|(sign, value)| Ok(sign * value.trim().parse::<f64>()?))
        .sum()
}

/// What went over the loopback device, in and out, at the IP layer.
fn loopback(counters: &str) -> Result<f64> {
    let line = counters.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let numbers: Vec<f64> = line
        .context("no lo in /proc/net/dev")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let of = |bytes: usize, packets: usize| {
        let numbers = numbers.get(bytes).zip(numbers.get(packets));
        numbers.map(|(bytes, packets)| bytes - LINK_HEADER * packets)
    };
    let (received, sent) = of(0, 1).zip(of(8, 9)).context("no counters of lo")?;
    Ok(received + sent)
}

/// What an idle node costs over a WebSocket. Leaves it on one: call it last.
pub(crate) async fn websocket(stage: &Stage<'_>, settle: Duration) -> Result<Figure> {
    let edge = &stage.edge;
    edge.let_udp_through(false).await?;
    step("the link moved to a WebSocket", over(edge, "websocket")).await?;
    let calm = if settle < FIRST_PROBE { CALM } else { PROBED };
    rest("until QUIC is not tried for a while", calm).await?;
    let before = Reading::of_wire(&edge.machine).await?;
    rest("without pods, over a WebSocket", settle).await?;
    let after = Reading::of_wire(&edge.machine).await?;
    Ok(Figure::ours(
        "idle_bytes_day.websocket",
        Unit::Bytes,
        after.a_day_since(&before),
    ))
}

/// Waits until the link is up and carried by `wanted`.
async fn over(edge: &EdgeMachine, wanted: &str) -> Result<()> {
    until(&format!("a link over {wanted}"), PATIENCE, || async {
        let said = edge.edgecore(&["status", "-o", "json"]).await?;
        let status: Value = serde_json::from_str(&said).context("edgecore status")?;
        let link = &status["link"];
        let there = link["state"] == "connected" && link["transport"] == wanted;
        Ok(Look::when(there, || link.to_string()))
    })
    .await
}

/// What one fetch of a default token moves: pods with it beside the same pods without it.
pub(crate) async fn token(stage: &Stage<'_>) -> Result<f64> {
    // The first pods of a namespace bring its root certificate, once for all.
    let (with, without) = (
        pod_with_token as fn(u16) -> Value,
        pod_without_token as fn(u16) -> Value,
    );
    let moved = async {
        moved(stage, with).await?;
        Ok((moved(stage, without).await?, moved(stage, with).await?))
    };
    let (bare, whole) = step(&format!("{PODS} pods with and without tokens"), moved).await?;
    Ok((whole - bare).max(0.0) / f64::from(PODS))
}

fn pod_with_token(index: u16) -> Value {
    pod(&format!("{APP}-{index}"), EDGE, APP)
}

fn pod_without_token(index: u16) -> Value {
    let mut pod = pod_with_token(index);
    pod["spec"]["automountServiceAccountToken"] = Value::Bool(false);
    pod
}

/// The bytes on the wire from before the pods are made until they are gone.
async fn moved(stage: &Stage<'_>, pod: fn(u16) -> Value) -> Result<f64> {
    let client = stage.testbed.client();
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let machine = &stage.edge.machine;
    let before = Reading::of_wire(machine).await?;
    for index in 1..=PODS {
        let pod = serde_json::from_value(pod(index))?;
        api.create(&PostParams::default(), &pod).await?;
    }
    let selector = format!("app={APP}");
    pods::until_ready(&client, &selector, usize::from(PODS), PATIENCE).await?;
    let all = ListParams::default().labels(&selector);
    api.delete_collection(&DeleteParams::default(), &all).await?;
    pods::until_gone(&client, &selector, PATIENCE).await?;
    sleep(GONE).await;
    Ok(Reading::of_wire(machine).await?.count - before.count)
}

/// What ten quiet pods cost: bytes on the wire a day for each, and what is written to flash.
pub(crate) async fn ten_pods(stage: &Stage<'_>, (settle, idle): (Duration, f64)) -> Result<Vec<Figure>> {
    let a_token = token(stage).await?;
    let api: Api<Pod> = Api::namespaced(stage.testbed.client(), "default");
    let (edge, node) = (&stage.edge.machine, &stage.testbed.node.machine);
    step(&format!("{PODS} pods on each node"), async {
        for node in [EDGE, node.name()] {
            burst::create(&api, node, APP, PODS).await?;
        }
        let count = 2 * usize::from(PODS);
        pods::until_ready(&stage.testbed.client(), &format!("app={APP}"), count, PATIENCE).await
    })
    .await?;
    rest("after the start of pods", CALM).await?;
    let wire = Reading::of_wire(edge).await?;
    let flash = (
        Reading::of_flash(edge, "edgecore").await?,
        Reading::of_flash(node, "kubelet").await?,
    );
    rest(&format!("{PODS} pods on each node"), settle).await?;
    let ours = Reading::of_flash(edge, "edgecore").await?.a_day_since(&flash.0);
    let kubelet = Reading::of_flash(node, "kubelet").await?.a_day_since(&flash.1);
    let a_day = Reading::of_wire(edge).await?.a_day_since(&wire);
    burst::delete(&api, APP).await?;
    pods::until_gone(&stage.testbed.client(), &format!("app={APP}"), PATIENCE).await?;
    let steady = (a_day - idle).max(0.0) / f64::from(PODS);
    note(&format!(
        "a token is {a_token:.0} bytes, once a day; a pod at rest adds {steady:.0} a day"
    ));
    Ok(vec![
        Figure::ours("token_bytes_day_pod", Unit::Bytes, steady + a_token),
        Figure {
            kubelet: Some(kubelet),
            ..Figure::ours("flash_bytes_day.pods10", Unit::Bytes, ours)
        },
    ])
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn both_directions_and_both_families_are_counted() {
        let counters = "TcpExt: InOctets\nTcpExt: 7\n\
            IpExt: InNoRoutes InOctets OutOctets\nIpExt: 5 100 20\n\
            Ip6InReceives    \t9\nIp6InOctets   \t3000\nIp6OutOctets\t 4000\n";
        assert!((octets(counters).unwrap() - 7120.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_goes_to_a_whole_segment_is_not_the_links() {
        let counters = "IpExt: InOctets OutOctets InMcastOctets OutMcastOctets InBcastOctets OutBcastOctets\n\
            IpExt: 100 20 30 4 5 6\n\
            Ip6InOctets\t3000\nIp6OutOctets\t4000\nIp6InMcastOctets\t1000\nIp6OutMcastOctets\t2000\n";
        assert!((octets(counters).unwrap() - 4075.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_programs_say_to_each_other_is_not_the_links() {
        let counters = "Inter-|   Receive  |  Transmit\n eth0: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n    \
            lo: 1140 10 0 0 0 0 0 0 740 10 0 0 0 0 0 0\n";
        assert!((loopback(counters).unwrap() - 1600.0).abs() < f64::EPSILON);
        assert!(loopback("eth0: 1").is_err());
    }

    #[test]
    fn a_day_is_extrapolated_from_what_was_counted() {
        let at = Instant::now();
        let reading = |count, seconds| Reading {
            count,
            at: at + Duration::from_secs(seconds),
        };
        let a_day = reading(1_500.0, 60).a_day_since(&reading(500.0, 0));
        assert!((a_day - 1_440_000.0).abs() < 1e-3, "{a_day}");
    }
}
