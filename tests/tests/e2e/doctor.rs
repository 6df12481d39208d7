//! `edgecore doctor`: what it finds on a node that works, and on one that does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{
    EdgeMachine, cloudcore, mosquitto,
    testbed::node_ready,
    wait::{Look, until},
};
use tokio::time::Instant;

use crate::{
    told::mentions,
    world::{PATIENCE, World},
};

crate::tests![the_doctor_finds_nothing_on_a_node_that_works_and_names_what_is_cut];

/// It may take so long when everything hangs.
const BOUND: Duration = Duration::from_secs(15);
/// What must be well on a node that works, among others.
const WELL: [&str; 10] = [
    "configuration",
    "certificate",
    "clock",
    "program",
    "runtime",
    "cloudcore quic",
    "cloudcore websocket",
    "broker",
    "broker access",
    "link",
];

/// The link and the connection to the broker, as `edgecore status` tells them, and the daemon's process.
async fn undisturbed(device: &EdgeMachine) -> Result<(Value, Value, i32)> {
    let said = device.edgecore(&["status", "-o", "json"]).await?;
    let status: Value = serde_json::from_str(&said)?;
    Ok((
        status["link"]["since"].clone(),
        status["broker"]["reconnects"].clone(),
        device.machine.service_pid("edgecore")?,
    ))
}

/// What the doctor says, who must end with 1 exactly if something has failed.
async fn doctor(device: &EdgeMachine) -> Result<String> {
    let (is_well, said) = match device.edgecore(&["doctor"]).await {
        Ok(said) => (true, said),
        Err(error) => (false, format!("{error:#}")),
    };
    ensure!(is_well || said.contains("exit status: 1:"), "{said}");
    ensure!(
        is_well != said.contains("FAILED  "),
        "the end does not fit: {said}"
    );
    Ok(said)
}

/// The checks that failed. How full the host's disk is is not the testbed's to judge.
fn ill(said: &str) -> Vec<&str> {
    let failed = said.lines().filter_map(|line| line.split_once("FAILED  "));
    let checks = failed.map(|(_, rest)| rest.trim_start());
    checks
        .filter(|rest| !rest.starts_with("disk  ") && !rest.starts_with("node DiskPressure"))
        .collect()
}

/// Holds that a check failed, and that its remedy stands in the line below.
fn failed(said: &str, check: &str, remedy: &str) -> Result<()> {
    let is_it = |line: &&str| line.contains("FAILED  ") && line.contains(&format!(" {check}  "));
    let mut lines = said.lines().skip_while(|line| !is_it(line));
    ensure!(lines.next().is_some(), "{check:?} has not failed: {said}");
    mentions(lines.next().unwrap_or_default(), &["->", remedy])
}

async fn the_doctor_finds_nothing_on_a_node_that_works_and_names_what_is_cut(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let said = doctor(&device).await?;
    mentions(&said, &["has not joined", "edgecore join ADDRESS"])?;
    ensure!(ill(&said).is_empty(), "{said}");

    device.enrol(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    mosquitto::start(&device, &[], ("", "10.86.0.1")).await?;
    device.install_service()?;
    node_ready(&testbed.client(), device.machine.name(), PATIENCE).await?;
    let first = until("a connection to the broker", PATIENCE, || async {
        let status = device.edgecore(&["status", "-o", "json"]).await?;
        let status: Value = serde_json::from_str(&status)?;
        Ok(if status["broker"]["connected"] == true {
            Look::Done(())
        } else {
            Look::NotYet(status["broker"].to_string())
        })
    });
    first.await?;
    let before = undisturbed(&device).await?;
    let said = until("a doctor who finds nothing", PATIENCE, || async {
        let said = doctor(&device).await?;
        Ok(if ill(&said).is_empty() {
            Look::Done(said)
        } else {
            Look::NotYet(said)
        })
    })
    .await?;
    for check in WELL {
        mentions(&said, &[&format!("ok       {check}  ")])?;
    }
    ensure!(undisturbed(&device).await? == before, "the node was disturbed");

    device.machine.stop("containerd")?;
    mosquitto::stop(&device)?;
    device.machine.cut()?;
    let began = Instant::now();
    let said = doctor(&device).await?;
    ensure!(began.elapsed() < BOUND, "it took {:?}", began.elapsed());
    failed(&said, "runtime", "systemctl start containerd")?;
    failed(&said, "broker", "mqtt.address")?;
    failed(&said, "cloudcore quic", "let UDP through")?;
    failed(&said, "cloudcore websocket", "let TCP through")?;
    device.machine.restore().await?;
    world.retire(device).await
}
