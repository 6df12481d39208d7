//! The node with the devices: its broker, its load, and what its programs use.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    EdgeMachine, Testbed, cloudcore,
    command::run_within,
    machine::Machine,
    mosquitto,
    testbed::node_ready,
    wait::{Look, until},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::Instant,
};

use super::{
    DEVICES, LOAD, PROPERTIES, STUB,
    load::{Outcome, Pace, Plan, WATCHER, device},
    payload::Value,
    stub::READY,
};
use crate::{memory::service_file, stage::PATIENCE};

/// The node's name.
const NODE: &str = "d1";
/// A program that hears everything.
const RULES: &str = "user watcher\ntopic read $hw/events/#";
/// So many updates a second are one of each property in a second.
const EACH_ONCE: f64 = 1000.0;
/// The kernel counts a program's time in these.
const TICKS: f64 = 100.0;

/// A node whose broker knows the devices.
pub(super) async fn join(testbed: &Testbed) -> Result<EdgeMachine> {
    let edge = EdgeMachine::start(testbed, NODE).await?;
    edge.enrol(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    let users: Vec<String> = (0..DEVICES)
        .map(|index| format!("default/{}", device(index)))
        .collect();
    let mut users: Vec<&str> = users.iter().map(String::as_str).collect();
    users.push(WATCHER);
    mosquitto::start(&edge, &users, (RULES, "10.86.0.1")).await?;
    edge.install_service()?;
    node_ready(&testbed.client(), NODE, PATIENCE).await?;
    Ok(edge)
}

/// The devices and their model, until the node answers for each of them.
pub(super) async fn devices(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    let properties = |of: fn(u64) -> serde_json::Value| (0..PROPERTIES).map(of).collect::<Vec<_>>();
    let model = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": { "name": "bench", "namespace": "default" },
        "spec": { "properties": properties(|index| {
            json!({ "name": format!("p{index}"), "type": "STRING", "accessMode": "ReadOnly" })
        }) },
    });
    let devices = (0..DEVICES).map(|index| {
        json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": { "name": device(index), "namespace": "default" },
            "spec": {
                "deviceModelRef": { "name": "bench" }, "nodeName": NODE,
                "properties": properties(|index| json!({ "name": format!("p{index}") })),
            },
        })
    });
    let items: Vec<_> = std::iter::once(model).chain(devices).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let file = testbed.ground.dir().join("devices.json");
    std::fs::write(&file, list.to_string())?;
    testbed.apply(&file).await?;
    let once = Plan {
        devices: DEVICES,
        properties: PROPERTIES,
        value: Value::Count,
        pace: Pace::Rate(EACH_ONCE),
        span: Duration::from_secs(1),
        documents: false,
    };
    until("the node serves all devices", PATIENCE, || async {
        let outcome = load(edge, once).await?;
        let all = outcome.refused == 0 && outcome.accepted + outcome.late >= u64::from(DEVICES) * PROPERTIES;
        Ok(Look::when(all, || format!("{outcome:?}")))
    })
    .await
}

/// Runs load on the device itself.
pub(super) async fn load(edge: &EdgeMachine, plan: Plan) -> Result<Outcome> {
    let mut command = edge.machine.command(std::env::current_exe()?)?;
    command.arg(LOAD).arg(serde_json::to_string(&plan)?);
    let said = run_within(plan.span + PATIENCE, command).await?;
    serde_json::from_str(&said).with_context(|| format!("the load says {said}"))
}

/// The stub in edgecore's place, until it is dropped.
pub(super) async fn stub(edge: &EdgeMachine) -> Result<Child> {
    let mut command = edge.machine.command(std::env::current_exe()?)?;
    command
        .arg(STUB)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut stub = command.spawn()?;
    let mut line = String::new();
    let output = stub.stdout.take().context("the stub has no output")?;
    BufReader::new(output).read_line(&mut line).await?;
    ensure!(line == READY, "the stub says {line:?}");
    Ok(stub)
}

/// What a service of the device has used of the processor.
pub(super) struct Used {
    ticks: f64,
    at: Instant,
}

impl Used {
    pub(super) async fn by(machine: &Machine, service: &str) -> Result<Self> {
        let stat = service_file(machine, service, "stat").await?;
        // The name, in parentheses, may be anything.
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
        let fields: Vec<&str> = rest.context("an odd stat")?.split_whitespace().collect();
        let of = |field: usize| {
            fields
                .get(field)
                .context("a short stat")?
                .parse::<f64>()
                .context("ticks")
        };
        Ok(Self {
            ticks: of(11)? + of(12)?,
            at: Instant::now(),
        })
    }

    /// Of one core, since `before`.
    pub(super) fn since(&self, before: &Self) -> f64 {
        (self.ticks - before.ticks) / TICKS / (self.at - before.at).as_secs_f64()
    }
}
