//! Whose a device and its node are: who is refused, for good or for now.

use std::sync::Arc;
use std::time::Duration;

use protocol::clock::Clock;
use protocol::devices::DeviceIdentity;
use serde_json::json;
use tokio::time::sleep;

use super::world::*;
use crate::cluster::{Cluster, Settings, WriteError};
use crate::devices::Devices;

#[tokio::test(start_paused = true)]
async fn a_node_that_has_not_the_device_is_refused_for_good_and_the_device_says_how_often() {
    let world = World::new();
    let writer = world.writer("e2");
    world
        .run(async {
            for value in 0..5 {
                let error = writer.write(&pump(), &report(value)).await.unwrap_err();
                assert!(
                    matches!(error, WriteError::AnotherNode { .. }) && error.is_permanent(),
                    "{error}"
                );
            }
            assert!(world.server.object(STATUS).is_none());
            sleep(Duration::from_secs(61)).await;
            let state = world.server.state.lock();
            let event = state.events.first().unwrap();
            assert_eq!(
                (&event["reason"], &event["involvedObject"]["kind"]),
                (&json!("ReportRefused"), &json!("Device"))
            );
            assert_eq!(state.events.len(), 2, "it is said again once a minute");
            assert_eq!(state.events[1]["count"], 5);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_lets_no_former_node_write_over_what_the_new_one_said() {
    let world = World::new();
    let (former, new) = (world.writer("e1"), world.writer("e2"));
    world
        .run(async {
            former.write(&pump(), &report(1)).await.unwrap();
            // The device has moved; only the API server and the new node's replica know.
            let mut device = world.server.object(DEVICE).unwrap();
            device["spec"]["nodeName"] = json!("e2");
            world.server.put(DEVICE, device);
            new.write(&pump(), &report(2)).await.unwrap();
            let error = former.write(&pump(), &report(3)).await.unwrap_err();
            assert!(matches!(error, WriteError::AnotherNode { .. }), "{error}");
            assert_eq!(world.twins(), json!([twin(2)]));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_superseded_at_the_same_replica_writes_over_nothing_of_the_newer_one() {
    let world = World::new();
    let (older, newer) = (session("e1", "one"), session("e1", "two"));
    world.cluster.fence(&older.node, &older.session).await.unwrap();
    let (former, new) = (world.devices.writer(older), world.devices.writer(newer.clone()));
    world
        .run(async {
            former.write(&pump(), &report(1)).await.unwrap();
            world.cluster.fence(&newer.node, &newer.session).await.unwrap();
            new.write(&pump(), &report(2)).await.unwrap();
            let error = former.write(&pump(), &report(1)).await.unwrap_err();
            assert!(matches!(error, WriteError::Superseded { .. }), "{error}");
            assert_eq!(world.twins(), json!([twin(2)]));
            new.write(&pump(), &report(3)).await.unwrap();
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn of_a_node_that_is_deleted_no_session_is_remembered_unless_it_is_here() {
    let world = World::new();
    world.cluster.fence(&node(), "one").await.unwrap();
    let session = world.cluster.subscribe(&node());
    world.cluster.told_node_gone(&node());
    assert!(world.cluster.knows_session(&node()));
    drop(session);
    world.cluster.told_node_gone(&node());
    assert!(!world.cluster.knows_session(&node()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_refuses_nothing() {
    let world = World::new();
    world.device("e2", &["t"]);
    let writer = world.writer("e1");
    world
        .run(async {
            // The device has moved back; only the API server knows.
            let mut device = world.server.object(DEVICE).unwrap();
            device["spec"]["nodeName"] = json!("e1");
            world.server.put(DEVICE, device);
            writer.write(&pump(), &report(1)).await.unwrap();
            assert_eq!(world.twins(), json!([twin(1)]));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_gone_or_another_one_is_refused_and_one_that_is_not_known_yet_waits() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            let other = DeviceIdentity {
                uid: "v".into(),
                ..pump()
            };
            let error = writer.write(&other, &report(1)).await.unwrap_err();
            assert!(matches!(error, WriteError::AnotherUid { .. }), "{error}");
            for name in ["missing", "../secrets/x"] {
                let gone = DeviceIdentity {
                    name: name.into(),
                    ..pump()
                };
                let error = writer.write(&gone, &report(1)).await.unwrap_err();
                assert!(matches!(error, WriteError::Gone { .. }), "{error}");
            }
            let asked = world.server.take_requests();
            assert!(
                !asked.iter().any(|request| request.contains("secrets")),
                "{asked:?}"
            );
            let error = writer.write(&pump(), b"[").await.unwrap_err();
            assert!(
                matches!(error, WriteError::Unreadable { .. }) && error.is_permanent(),
                "{error}"
            );
        })
        .await;
    let empty = World::new();
    let cluster = Cluster::new(Settings {
        api: empty.server.api(),
        clock: Clock::system(),
        enrolment: Arc::new(Everyone),
        bindings: Arc::new(Everyone),
        advertise: None,
    });
    let devices = Devices::new(cluster);
    let writer = devices.writer(session("e1", "one"));
    let (pump, report) = (pump(), report(1));
    tokio::select! {
        error = writer.write(&pump, &report) => assert!(!error.unwrap_err().is_permanent()),
        () = devices.run() => {}
    }
}
