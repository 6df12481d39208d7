//! What is done for devices that nobody reports of: their statuses, and what is wrong with them.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures::poll;
use protocol::object::Kind;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::world::*;
use crate::devices::told::Told;

#[tokio::test(start_paused = true)]
async fn each_device_of_an_edge_node_has_a_status_and_hears_what_is_wrong_with_it() {
    let world = World::new();
    let _session = world.cluster.subscribe(&node());
    world.cluster.told_no_statuses();
    world.run(sleep(Duration::from_secs(5))).await;
    assert_eq!(world.twins(), json!([]));
    assert_eq!(reasons(&world), ["ModelMissing"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_node_comes_later_is_looked_at_then() {
    let world = World::new();
    world.cluster.told_no_statuses();
    let story = async {
        sleep(Duration::from_secs(20)).await;
        assert!(
            world.server.object(STATUS).is_some(),
            "another replica was to make it"
        );
        assert!(world.server.state.lock().events.is_empty());
        let _session = world.cluster.subscribe(&node());
        sleep(Duration::from_secs(5)).await;
        assert_eq!(reasons(&world), ["ModelMissing"]);
    };
    world.run(story).await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_another_replica_has_made_is_not_made_again() {
    let world = World::new();
    world.cluster.told_no_statuses();
    let story = async {
        sleep(Duration::from_secs(5)).await;
        let made = json!({ "metadata": { "name": "pump", "namespace": "n", "uid": "s", "resourceVersion": "7",
            "ownerReferences": [{ "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "name": "pump",
                "uid": "u", "controller": true }] } });
        world.server.put(STATUS, made.clone());
        world.cluster.told_status(&key(), &made);
        sleep(Duration::from_mins(10)).await;
        assert_eq!(world.server.take_requests(), [""; 0]);
    };
    world.run(story).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_with_many_new_devices_holds_up_the_statuses_of_no_other_node() {
    let world = World::new();
    let device = |name: &str, node: &str| {
        json!({ "metadata": { "name": name, "namespace": "n", "uid": name, "resourceVersion": "1" },
            "spec": { "nodeName": node } })
    };
    let mut devices: Vec<Value> = (0..300)
        .map(|number| device(&format!("d{number}"), "e1"))
        .collect();
    devices.push(device("z", "e2"));
    world.cluster.told(Kind::Device, &devices);
    let _sessions = ["e1", "e2"].map(|name| world.cluster.subscribe(&name.parse().unwrap()));
    world.cluster.told_no_statuses();
    let made = || {
        let objects = &world.server.state.lock().objects;
        let made = objects.keys().filter(|path| path.contains("/devicestatuses/"));
        (
            made.count(),
            objects.keys().any(|path| path.ends_with("/devicestatuses/z")),
        )
    };
    let story = async {
        sleep(Duration::from_secs(1)).await;
        let (count, other) = made();
        assert!(other && count < 150, "{count}");
        sleep(Duration::from_secs(10)).await;
        assert_eq!(made().0, 301);
        let posts = world.server.take_requests();
        let posts = posts.iter().filter(|request| *request == "POST n").count();
        let events = world.server.state.lock().events.len();
        assert_eq!(posts - events, 301, "each was made once");
    };
    world.run(story).await;
}

#[tokio::test(start_paused = true)]
async fn what_stays_wrong_is_said_again_within_the_hour() {
    let world = World::new();
    let _session = world.cluster.subscribe(&node());
    world.cluster.told_no_statuses();
    world.run(sleep(Duration::from_hours(3))).await;
    let state = world.server.state.lock();
    let counts: Vec<&Value> = state.events.iter().map(|event| &event["count"]).collect();
    assert_eq!(counts, [&json!(1), &json!(2), &json!(3), &json!(4)]);
}

#[tokio::test(start_paused = true)]
async fn of_more_wrong_devices_than_are_remembered_each_has_its_event_in_turn() {
    const WRONG: usize = 4_600;
    let world = World::new();
    let device = |number: usize| {
        json!({ "metadata": { "name": format!("d{number}"), "namespace": "n", "uid": number.to_string(),
            "resourceVersion": "1" }, "spec": { "nodeName": "e1" } })
    };
    let devices: Vec<Value> = (0..WRONG).map(device).collect();
    world.cluster.told(Kind::Device, &devices);
    let _session = world.cluster.subscribe(&node());
    world.cluster.told_no_statuses();
    world.run(sleep(Duration::from_mins(10))).await;
    let state = world.server.state.lock();
    let names = state.events.iter().map(|event| &event["involvedObject"]["name"]);
    let names: BTreeSet<_> = names.filter_map(Value::as_str).collect();
    assert_eq!(names.len(), WRONG);
    assert_eq!(state.events.len(), WRONG, "and one");
}

#[tokio::test(start_paused = true)]
async fn while_many_devices_are_checked_others_go_on() {
    let world = World::new();
    let device = |number: usize| {
        json!({ "metadata": { "name": format!("d{number}"), "namespace": "n", "uid": number.to_string(),
            "resourceVersion": "1" }, "spec": { "nodeName": "e1" } })
    };
    let devices: Vec<Value> = (0..100).map(device).collect();
    world.cluster.told(Kind::Device, &devices);
    let _session = world.cluster.subscribe(&node());
    world.cluster.told_no_statuses();
    let (devices, mut told) = (world.cluster.edge_devices(), Told::default());
    let mut pauses = 0;
    {
        let mut tell = pin!(world.devices.tell(&devices, &mut told, Instant::now()));
        while poll!(&mut tell).is_pending() {
            pauses += 1;
        }
    }
    assert!((5..20).contains(&pauses), "{pauses}");
    assert!(
        devices
            .iter()
            .all(|device| told.is_settled(device, Instant::now()))
    );
}

fn reasons(world: &World) -> Vec<String> {
    let state = world.server.state.lock();
    let reasons = state.events.iter().map(|event| event["reason"].as_str().unwrap());
    reasons.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_not_taken_is_written_a_little_later() {
    let world = World::new();
    world.server.state.lock().busy = Some(("events", 2));
    let _session = world.cluster.subscribe(&node());
    world.cluster.told_no_statuses();
    let story = async {
        sleep(Duration::from_secs(30)).await;
        assert!(world.server.state.lock().events.is_empty());
        sleep(Duration::from_mins(5)).await;
        assert_eq!(reasons(&world), ["ModelMissing"]);
    };
    world.run(story).await;
}
