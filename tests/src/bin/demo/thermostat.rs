//! The steps of the demo that are about a device: examples/thermostat.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    EdgeMachine, Testbed, containerd,
    machine::Service,
    mosquitto::{self, PASSWORD},
    programs::workspace,
    wait::{Look, until},
};

use crate::show::{output, step};

/// The broker's user that the thermostat is.
const THERMOSTAT: &str = "thermostat";
/// The broker's user of the node's driver.
const DRIVER: &str = "edgecore-drivers";
/// The device, as its `$hw` topics name it, and the broker's user of the pod that reads and sets it.
const HALL: &str = "default/hall";
/// The topics of the thermostat.
const RULES: &str = "\
user thermostat
topic readwrite thermostat/#";
/// The pods' gateway, where the broker listens for them.
const GATEWAY: &str = "10.86.0.1";
/// What a healthy machine is given for anything.
const PATIENCE: Duration = Duration::from_mins(2);

fn example(file: &str) -> PathBuf {
    workspace().join("examples/thermostat").join(file)
}

/// Gives the device a broker and a thermostat, and edgecore the settings that the example's README names.
async fn wire(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    mosquitto::start(edge, &[HALL, THERMOSTAT, DRIVER], (RULES, GATEWAY)).await?;
    let credentials = edge.machine.file("/etc/tombolo/device-credentials/hall");
    fs::write(
        &credentials,
        format!("namespaces: [default]\nusername: {DRIVER}\npassword: {PASSWORD}\n"),
    )?;
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600))?;
    let path = edge.machine.file("/etc/tombolo/edgecore.yaml");
    let config = fs::read_to_string(&path)?;
    fs::write(
        &path,
        config + "devices: {topics: {default: [\"thermostat/#\"]}}\n",
    )?;
    edge.machine.stop("edgecore")?;
    edge.machine.start("edgecore")?;
    let script = example("thermostat.sh").display().to_string();
    let words = [script.as_str(), "hall", "-u", THERMOSTAT, "-P", PASSWORD].map(str::to_owned);
    edge.machine.install(
        Service::new("thermostat", Path::new("/bin/sh"), words).with_env("PATH", "/usr/bin:/bin".to_owned()),
    )?;
    containerd::import(&edge.machine, &testbed.cache, &testbed.cache.image("mosquitto")?).await
}

pub(crate) async fn shown(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    step("a broker and a thermostat on the device", wire(testbed, edge)).await?;
    let files = ["model.yaml", "device.yaml"].map(|file| example(file).display().to_string());
    let applied = testbed
        .kubectl(["apply", "-f", &files[0], "-f", &files[1]])
        .await?;
    output(
        "kubectl apply -f examples/thermostat/{model,device}.yaml",
        &applied,
    );
    let settled = until_set(testbed, "20", "cluster");
    step("it is set to 20, and says so", settled).await?;
    show(testbed).await?;
    set(testbed, "22").await?;
    step(
        "kubectl sets it to 22, and it says so",
        until_set(testbed, "22", "cluster"),
    )
    .await?;
    plan(testbed).await?;
    show(testbed).await
}

/// A pod on the device reads and sets it, without the cluster.
async fn plan(testbed: &Testbed) -> Result<()> {
    let text = fs::read_to_string(example("plan.yaml"))?.replace("hall-password", PASSWORD);
    let file = testbed.ground.dir().join("plan.yaml");
    fs::write(&file, text)?;
    output(
        "kubectl apply -f examples/thermostat/plan.yaml",
        &testbed.apply(&file).await?,
    );
    step("a pod sets it to 18 over MQTT", until_set(testbed, "18", "local")).await
}

/// While the link is cut: the cluster changes its mind, and the thermostat hears of it afterwards.
pub(crate) async fn change_its_mind(testbed: &Testbed) -> Result<()> {
    set(testbed, "24").await
}

pub(crate) async fn after_the_cut(testbed: &Testbed) -> Result<()> {
    step(
        "the thermostat is set to what the cluster wanted meanwhile, 24",
        until_set(testbed, "24", "cluster"),
    )
    .await
}

pub(crate) async fn after_the_power_cut(testbed: &Testbed) -> Result<()> {
    let again = until("a good value of the thermostat", PATIENCE, || async {
        let status = status(testbed).await?;
        let reported = twin(&status, "temperature")["reported"].clone();
        let good = reported["metadata"]["quality"] == "good" && status["status"]["state"] == "online";
        Ok(Look::when(good, || status["status"].to_string()))
    });
    step("the thermostat is there again", again).await?;
    show(testbed).await
}

async fn show(testbed: &Testbed) -> Result<()> {
    let devices = testbed.kubectl(["get", "devices,devicestatuses"]).await?;
    output("kubectl get devices,devicestatuses", &devices);
    ensure!(devices.contains("online"), "the thermostat is not online");
    Ok(())
}

async fn set(testbed: &Testbed, degrees: &str) -> Result<()> {
    let patch =
        format!(r#"[{{"op":"replace","path":"/spec/properties/1/desired/value","value":"{degrees}"}}]"#);
    testbed
        .kubectl(["patch", "device", "hall", "--type", "json", "--patch", &patch])
        .await
        .map(drop)
}

/// Waits until the thermostat says that it is set so, by the one who wanted it.
async fn until_set(testbed: &Testbed, degrees: &str, source: &str) -> Result<()> {
    let wanted: f64 = degrees.parse().context("degrees")?;
    until(&format!("setpoint {degrees}"), PATIENCE, || async {
        let status = status(testbed).await?;
        let twin = twin(&status, "setpoint");
        let is = |value: &Value| value["value"].as_str().and_then(|text| text.parse().ok()) == Some(wanted);
        let local = twin["observedDesired"]["metadata"]["source"] == "local";
        let set = is(&twin["reported"]) && is(&twin["observedDesired"]) && local == (source == "local");
        Ok(Look::when(set, || status["status"].to_string()))
    })
    .await
}

async fn status(testbed: &Testbed) -> Result<Value> {
    let found = testbed
        .kubectl([
            "get",
            "devicestatuses",
            "hall",
            "--ignore-not-found",
            "-o",
            "json",
        ])
        .await?;
    Ok(serde_json::from_str(&found).unwrap_or_default())
}

fn twin(status: &Value, property: &str) -> Value {
    let twins = status["status"]["twins"].as_array();
    let found = twins.and_then(|twins| twins.iter().find(|twin| twin["propertyName"] == property));
    found.cloned().unwrap_or_default()
}
