//! Devices: what they say reaches the cluster, what the cluster wants reaches them, and neither is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, cloudcore,
    machine::Cable,
    mosquitto,
    testbed::{node_back, node_ready},
    wait::{Look, until},
};

use crate::{
    told::mentions,
    world::{PATIENCE, World, apply, delete},
};

crate::tests![
    a_device_is_heard_by_the_cluster_and_hears_what_it_should_be,
    what_a_device_says_while_the_link_is_cut_survives_the_power_and_arrives,
    a_device_of_another_node_is_nobodys_to_speak_for,
];

/// A node of the test's own with a broker, whose users are these devices.
pub(crate) async fn site(world: &World, users: &[&str]) -> Result<EdgeMachine> {
    let testbed = world.with_cloudcore().await?;
    let device = world.device().await?;
    device.enrol(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    mosquitto::start(&device, users, ("", "10.86.0.1")).await?;
    device.install_service()?;
    node_ready(&testbed.client(), device.machine.name(), PATIENCE).await?;
    Ok(device)
}

/// A model of pumps, and a pump on a node.
fn pump(name: &str, node: &str) -> Value {
    let model = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": { "name": format!("{name}-model"), "namespace": "default" },
        "spec": { "properties": [
            { "name": "pressure", "type": "FLOAT", "accessMode": "ReadOnly" },
            { "name": "speed", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "3000" },
        ] },
    });
    let device = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "deviceModelRef": { "name": format!("{name}-model") },
            "nodeName": node,
            "properties": [{ "name": "pressure", "durable": true }, { "name": "speed", "desired": { "value": "100" } }],
        },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [model, device] })
}

fn topic(device: &str, rest: &str) -> String {
    format!("$hw/events/device/default/{device}/{rest}")
}

async fn report(site: &EdgeMachine, device: &str, property: &str, value: &str) -> Result<()> {
    let payload =
        json!({ "event_id": value, "timestamp": 0, "twin": { property: { "actual": { "value": value } } } });
    let user = format!("default/{device}");
    let message = (&*topic(device, "twin/update"), &*payload.to_string());
    mosquitto::publish(site, &user, message).await
}

async fn status(testbed: &Testbed, device: &str) -> Result<Value> {
    let words = [
        "get",
        "devicestatuses",
        device,
        "--ignore-not-found",
        "-o",
        "json",
    ];
    let found = testbed.kubectl(words).await?;
    Ok(serde_json::from_str(&found).unwrap_or_default())
}

/// Waits until the cluster shows this value of a property.
async fn until_shown(testbed: &Testbed, device: &str, property: &str, value: &str) -> Result<Value> {
    until(
        &format!("{property} of {device} to be {value}"),
        PATIENCE,
        || async {
            let status = status(testbed, device).await?;
            let twins = status["status"]["twins"].as_array().cloned().unwrap_or_default();
            let twin = twins.into_iter().find(|twin| twin["propertyName"] == property);
            let twin = twin.filter(|twin| twin["reported"]["value"] == value);
            Ok(Look::from_option(twin, || status["status"].to_string()))
        },
    )
    .await
}

async fn set(testbed: &Testbed, device: &str, speed: &str) -> Result<()> {
    let patch = json!([{ "op": "replace", "path": "/spec/properties/1/desired/value", "value": speed }]);
    let words = [
        "patch",
        "device",
        device,
        "--type",
        "json",
        "--patch",
        &patch.to_string(),
    ];
    testbed.kubectl(words).await.map(drop)
}

async fn forget(testbed: &Testbed, device: &str) -> Result<()> {
    delete(testbed, &["device", device]).await?;
    delete(testbed, &["devicemodel", &format!("{device}-model")]).await
}

async fn a_device_is_heard_by_the_cluster_and_hears_what_it_should_be(world: &World) -> Result<()> {
    let site = site(world, &["default/pump", "default/other"]).await?;
    let testbed = world.testbed().await?;
    let node = site.machine.name();
    let nobodys = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
        "metadata": { "name": "pump", "namespace": "default" },
    });
    apply(testbed, &nobodys).await?;
    apply(testbed, &pump("pump", node)).await?;
    served(&site, "pump").await?;

    report(&site, "pump", "pressure", "2.5").await?;
    let pressure = until_shown(testbed, "pump", "pressure", "2.5").await?;
    ensure!(
        pressure["reported"]["metadata"]["quality"] == "good",
        "{pressure}"
    );

    is_adopted(testbed, "pump").await?;

    let delta = topic("pump", "twin/update/delta");
    let hears = mosquitto::next(&site, "default/pump", &delta);
    let (delta, changed) = tokio::join!(hears, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        set(testbed, "pump", "1500").await
    });
    changed?;
    let delta: Value = serde_json::from_str(&delta?)?;
    ensure!(delta["delta"]["speed"] == "1500", "{delta}");

    // The model allows no more than 3000: not delivered, and said.
    set(testbed, "pump", "9000").await?;
    until("an event that says why", PATIENCE, || async {
        let events = testbed.kubectl(["get", "events", "-o", "wide"]).await?;
        let told = events
            .lines()
            .find(|line| line.contains("DesiredRefused"))
            .map(str::to_owned);
        Ok(Look::from_option(told, || events))
    })
    .await
    .and_then(|told| mentions(&told, &["speed", "9000"]))?;

    let shown = testbed.kubectl(["get", "devices"]).await?;
    mentions(&shown, &["pump", node, "pump-model"])?;

    // Another device's user may not speak for it: the broker drops what it says.
    let payload = r#"{"event_id":"x","twin":{"pressure":{"actual":{"value":"9"}}}}"#;
    mosquitto::publish(&site, "default/other", (&topic("pump", "twin/update"), payload)).await?;
    report(&site, "pump", "pressure", "2.6").await?;
    until_shown(testbed, "pump", "pressure", "2.6").await?;

    forget(testbed, "pump").await?;
    until("the status gone with its device", PATIENCE, || async {
        let status = status(testbed, "pump").await?;
        Ok(Look::when(status.is_null(), || status.to_string()))
    })
    .await?;
    world.retire(site).await
}

/// The status that was there before its device belongs to it, and cloudcore may not delete it though it had to be
/// given the right.
async fn is_adopted(testbed: &Testbed, device: &str) -> Result<()> {
    let shown = status(testbed, device).await?;
    let owner = &shown["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "Device" && owner["name"] == device, "{shown}");
    let user = format!("system:serviceaccount:{}:cloudcore", cloudcore::NAMESPACE);
    let refused = testbed
        .kubectl(["delete", "devicestatus", device, "--as", &user])
        .await;
    let refused = format!("{:?}", refused.unwrap_or_else(|error| error.to_string()));
    mentions(&refused, &["cloudcore may not delete a DeviceStatus"])
}

/// Waits until the node answers for the device.
async fn served(site: &EdgeMachine, device: &str) -> Result<()> {
    until("the node serves the device", PATIENCE, || async {
        let user = format!("default/{device}");
        let words = format!(
            "mosquitto_rr -u {user} -P {} -W 3 -t '{}' -e '{}' -m '{{\"event_id\":\"get\"}}' || true",
            mosquitto::PASSWORD,
            topic(device, "twin/get"),
            topic(device, "twin/get/result"),
        );
        let said = site.machine.shell(&words).await?;
        Ok(Look::when(said.contains("\"twin\""), || said.clone()))
    })
    .await
}

async fn what_a_device_says_while_the_link_is_cut_survives_the_power_and_arrives(
    world: &World,
) -> Result<()> {
    let site = site(world, &["default/well"]).await?;
    let testbed = world.testbed().await?;
    apply(testbed, &pump("well", site.machine.name())).await?;
    served(&site, "well").await?;
    report(&site, "well", "pressure", "1").await?;
    report(&site, "well", "speed", "90").await?;
    until_shown(testbed, "well", "pressure", "1").await?;
    until_shown(testbed, "well", "speed", "90").await?;

    site.machine.cut()?;
    // Accepted is what was answered: the answer comes when it is on the disk.
    accepted(&site, "well", "2").await?;
    site.machine.kill("edgecore")?;
    served(&site, "well").await?;
    accepted(&site, "well", "3").await?;
    site.machine.power_off()?;
    site.machine.boot(Cable::Unplugged).await?;
    served(&site, "well").await?;
    // Another cable than the one that was cut.
    site.machine.plug().await?;
    node_back(&testbed.client(), site.machine.name(), PATIENCE).await?;
    until_shown(testbed, "well", "pressure", "3").await?;
    report(&site, "well", "pressure", "4").await?;
    until_shown(testbed, "well", "pressure", "4").await?;
    // What was not said again since the boot is not taken away.
    until_shown(testbed, "well", "speed", "90").await?;
    forget(testbed, "well").await?;
    world.retire(site).await
}

/// Reports a pressure, and returns when the node has answered that it has it.
async fn accepted(site: &EdgeMachine, device: &str, value: &str) -> Result<()> {
    let payload = json!({ "event_id": value, "twin": { "pressure": { "actual": { "value": value } } } });
    let words = format!(
        "mosquitto_rr -q 1 -u default/{device} -P {} -W 10 -t '{}' -e '{}' -m '{payload}'",
        mosquitto::PASSWORD,
        topic(device, "twin/update"),
        topic(device, "twin/update/result"),
    );
    let said = site.machine.shell(&words).await?;
    mentions(&said, &["\"twin\"", value])
}

async fn a_device_of_another_node_is_nobodys_to_speak_for(world: &World) -> Result<()> {
    let site = site(world, &["default/far"]).await?;
    let testbed = world.testbed().await?;
    let node = site.machine.name().to_owned();
    apply(testbed, &pump("far", &node)).await?;
    served(&site, "far").await?;
    report(&site, "far", "pressure", "1").await?;
    until_shown(testbed, "far", "pressure", "1").await?;

    // It moves to another node: this one lets go of it.
    let patch = json!({ "spec": { "nodeName": "elsewhere" } }).to_string();
    testbed
        .kubectl(["patch", "device", "far", "--type", "merge", "--patch", &patch])
        .await?;
    until("the node lets go of the device", PATIENCE, || async {
        let words = format!(
            "mosquitto_rr -u default/far -P {} -W 3 -t '{}' -e '{}' -m '{{\"event_id\":\"get\"}}' || true",
            mosquitto::PASSWORD,
            topic("far", "twin/get"),
            topic("far", "twin/get/result"),
        );
        let said = site.machine.shell(&words).await?;
        Ok(Look::when(said.contains("404"), || said.clone()))
    })
    .await?;
    report(&site, "far", "pressure", "2").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let shown = status(testbed, "far").await?;
    ensure!(!shown.to_string().contains("\"value\":\"2\""), "{shown}");
    forget(testbed, "far").await?;
    world.retire(site).await
}
