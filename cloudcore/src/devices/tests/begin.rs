//! What a session asks for when it begins at a replica that did not write last.

use std::time::Duration;

use futures::future::join_all;
use http::StatusCode;
use protocol::devices::DeviceIdentity;
use protocol::object::{Kind, ObjectKey};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::*;
use crate::cluster::WriteError;
use crate::devices::DeviceWriter;
use crate::reported::Shown;

const MANY: u64 = 10;

fn device(number: u64) -> DeviceIdentity {
    DeviceIdentity {
        namespace: "n".into(),
        name: format!("d{number}"),
        uid: format!("u{number}"),
    }
}

fn path(plural: &str, number: u64) -> String {
    format!("/apis/devices.kubeedge.io/v1beta1/namespaces/n/{plural}/d{number}")
}

/// What the watches tell of all devices and their statuses.
fn watch(world: &World) {
    let objects = |plural| (0..MANY).filter_map(move |number| world.server.object(&path(plural, number)));
    world
        .cluster
        .told(Kind::Device, &objects("devices").collect::<Vec<_>>());
    for status in objects("devicestatuses") {
        let name = status["metadata"]["name"].as_str().unwrap();
        world
            .cluster
            .told_status(&ObjectKey::new(Kind::Device, "n", name), &status);
    }
}

/// A replica that wrote a report of each device, and another that has the newer session.
async fn failed_over() -> (World, World) {
    let world = World::new();
    for number in 0..MANY {
        let device = json!({
            "metadata": { "name": format!("d{number}"), "namespace": "n", "uid": format!("u{number}") },
            "spec": { "nodeName": "e1", "deviceModelRef": { "name": "m" }, "properties": [{ "name": "t" }] },
        });
        world.server.put(&path("devices", number), device);
    }
    watch(&world);
    let writer = world.writer("e1");
    world
        .run(async {
            let reports = (0..MANY).map(|number| async move { (device(number), report(number)) });
            for (device, report) in join_all(reports).await {
                writer.write(&device, &report).await.unwrap();
            }
        })
        .await;
    let other = World::at(world.server.clone());
    watch(&other);
    world.lease("e1", "two");
    world.server.take_requests();
    (world, other)
}

/// Reports of all devices, one of which says something new; as many errors as there were.
async fn report_all(writer: &DeviceWriter) -> Vec<WriteError> {
    let one = |number: u64| async move {
        let said = if number == 3 { 33 } else { number };
        writer.write(&device(number), &report(said)).await.err()
    };
    join_all((0..MANY).map(one)).await.into_iter().flatten().collect()
}

fn shown(world: &World, number: u64) -> Value {
    world.server.object(&path("devicestatuses", number)).unwrap()["status"]["twins"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_session_that_begins_at_another_replica_lists_once_and_writes_what_differs() {
    let (_, other) = failed_over().await;
    let writer = other.devices.writer(session("e1", "two"));
    assert!(matches!(writer.shown(&device(0), &report(0)), Shown::Other(_)));
    other
        .run(async {
            assert!(report_all(&writer).await.is_empty());
            assert_eq!(
                other.server.take_requests(),
                ["LIST devicestatuses", "GET leases", "PATCH devicestatuses"]
            );
            assert_eq!(shown(&other, 3), json!([twin(33)]));
            assert_eq!(writer.shown(&device(0), &report(0)), Shown::Same);
            // What comes later costs a write each.
            writer.write(&device(0), &report(50)).await.unwrap();
            assert_eq!(other.server.take_requests(), ["PATCH devicestatuses"]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_session_wrote_since_the_list_is_not_written_over() {
    let (world, other) = failed_over().await;
    let writer = other.devices.writer(session("e1", "two"));
    other
        .run(async {
            assert!(report_all(&writer).await.is_empty());
            other.lease("e1", "three");
        })
        .await;
    let newest = world.devices.writer(session("e1", "three"));
    world
        .run(async { newest.write(&device(5), &report(55)).await.unwrap() })
        .await;
    other
        .run(async {
            let error = writer.write(&device(5), &report(5)).await.unwrap_err();
            assert!(matches!(error, WriteError::Superseded { .. }), "{error}");
        })
        .await;
    assert_eq!(shown(&other, 5), json!([twin(55)]));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_the_lease_lists_for_nothing() {
    let (_, other) = failed_over().await;
    let writer = other.devices.writer(session("e1", "one"));
    other
        .run(async {
            let errors = report_all(&writer).await;
            assert_eq!(errors.len() as u64, MANY);
            assert!(errors.iter().all(|error| !error.is_permanent()));
            assert_eq!(
                other.server.take_requests(),
                ["LIST devicestatuses", "GET leases"]
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_edited_in_a_status_is_set_right_though_the_values_are_the_same() {
    let edits: [fn(&mut Value); 5] = [
        |status| status["status"]["twins"][0]["more"] = json!(1),
        |status| status["status"]["state"] = json!("broken"),
        |status| status["metadata"]["annotations"] = json!({}),
        |status| status["metadata"]["labels"]["tombolo.dev/model"] = json!("other"),
        |status| status["metadata"]["ownerReferences"] = json!([]),
    ];
    let (_, other) = failed_over().await;
    for (number, edit) in (4..).zip(edits) {
        let mut status = other.server.object(&path("devicestatuses", number)).unwrap();
        edit(&mut status);
        other.server.put(&path("devicestatuses", number), status);
    }
    let mut status = other.server.object(&path("devicestatuses", 1)).unwrap();
    status["status"]["extensions"] = json!({ "mine": 1 });
    other.server.put(&path("devicestatuses", 1), status);
    watch(&other);
    let writer = other.devices.writer(session("e1", "two"));
    other
        .run(async {
            assert!(report_all(&writer).await.is_empty());
            let requests = other.server.take_requests();
            let patches = requests
                .iter()
                .filter(|request| *request == "PATCH devicestatuses");
            assert_eq!(patches.count(), edits.len() + 1, "{requests:?}");
            for number in 4..MANY {
                assert_eq!(shown(&other, number), json!([twin(number)]));
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_late_says_nothing_of_what_the_watch_knows_better() {
    let (_, other) = failed_over().await;
    let old = other.server.object(&path("devicestatuses", 2)).unwrap();
    let mut new = old.clone();
    new["status"]["twins"] = json!([twin(7)]);
    other.server.put(&path("devicestatuses", 2), new.clone());
    watch(&other);
    // The list is from before.
    let now = other.server.object(&path("devicestatuses", 2)).unwrap();
    other
        .server
        .state
        .lock()
        .objects
        .insert(path("devicestatuses", 2), old);
    let writer = other.devices.writer(session("e1", "two"));
    other
        .run(async {
            writer.begin().await.unwrap();
            other
                .server
                .state
                .lock()
                .objects
                .insert(path("devicestatuses", 2), now);
            assert!(matches!(writer.shown(&device(2), &report(2)), Shown::Other(_)));
            assert_eq!(writer.shown(&device(1), &report(1)), Shown::Same);
            writer.write(&device(2), &report(2)).await.unwrap();
            assert_eq!(shown(&other, 2), json!([twin(2)]));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_refused_for_now_is_tried_again_later_and_not_once_a_report() {
    let (_, other) = failed_over().await;
    let writer = other.devices.writer(session("e1", "two"));
    other.server.state.lock().no_list = Some(StatusCode::TOO_MANY_REQUESTS);
    other
        .run(async {
            let errors = report_all(&writer).await;
            assert_eq!(errors.len() as u64, MANY);
            assert!(errors.iter().all(|error| !error.is_permanent()));
            assert_eq!(other.server.take_requests(), ["LIST devicestatuses"]);
            other.server.state.lock().no_list = None;
            sleep(Duration::from_secs(5)).await;
            assert!(report_all(&writer).await.is_empty());
            assert_eq!(other.server.take_requests().len(), 3);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_list_each_status_is_looked_at() {
    let (_, other) = failed_over().await;
    let writer = other.devices.writer(session("e1", "two"));
    other.server.state.lock().no_list = Some(StatusCode::FORBIDDEN);
    other
        .run(async {
            assert!(report_all(&writer).await.is_empty());
            assert_eq!(shown(&other, 3), json!([twin(33)]));
            let requests = other.server.take_requests();
            // Those that ask together share a look at the Lease.
            let leases = requests.iter().filter(|request| request.ends_with("leases"));
            let looks = leases.count() as u64;
            assert!((1..=MANY).contains(&looks), "{requests:?}");
            assert_eq!(requests.len() as u64 - looks, 1 + 3 * MANY, "{requests:?}");
        })
        .await;
}
