//! Devices against an API server in memory: what is written, in which order, and what is not.

mod begin;
mod keep;
mod state;
mod whose;
mod world;

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::reported::Shown;

use world::*;

#[tokio::test(start_paused = true)]
async fn a_first_report_makes_the_status_and_later_ones_cost_one_request() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            writer.write(&pump(), &report(1)).await.unwrap();
            let status = world.server.object(STATUS).unwrap();
            assert_eq!(status["metadata"]["ownerReferences"][0]["uid"], "u");
            assert_eq!(status["metadata"]["labels"]["tombolo.dev/node"], "e1");
            assert_eq!(world.twins(), json!([twin(1)]));
            assert_eq!(world.server.object(DEVICE).unwrap()["status"]["state"], "online");
            assert_eq!(
                world.server.take_requests(),
                [
                    "GET devicestatuses",
                    "GET leases",
                    "GET devices",
                    "POST n",
                    "PATCH devices"
                ]
            );
            world.device("e1", &["t"]);
            writer.write(&pump(), &report(2)).await.unwrap();
            assert_eq!(
                world.server.take_requests(),
                ["PATCH devicestatuses"],
                "the state did not change"
            );
            assert_eq!(world.twins(), json!([twin(2)]));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_the_server_calls_invalid_costs_one_look_a_report() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            writer.write(&pump(), &report(1)).await.unwrap();
            world.watch_device();
            {
                let mut state = world.server.state.lock();
                state.busy = Some(("devicestatuses", u32::MAX));
                state.code = Some(StatusCode::UNPROCESSABLE_ENTITY);
            }
            world.server.take_requests();
            let error = writer.write(&pump(), &report(2)).await.unwrap_err();
            assert_eq!((error.code(), error.is_permanent()), (422, false), "{error}");
            assert_eq!(
                world.server.take_requests().len(),
                5,
                "a patch, a look and a patch"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_device_is_written_once_a_second() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            let start = Instant::now();
            for value in 0..10 {
                writer.write(&pump(), &report(value)).await.unwrap();
            }
            let lasted = start.elapsed();
            assert!(
                lasted >= Duration::from_millis(7_800) && lasted < Duration::from_secs(10),
                "{lasted:?}"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_already_is_not_written_again_and_what_was_only_seen_once_a_minute() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            let at = |time: &str| {
                let value = json!({ "value": "1", "metadata": { "timestamp": time } });
                json!({ "twins": [{ "propertyName": "t", "reported": value }] })
                    .to_string()
                    .into_bytes()
            };
            assert!(matches!(writer.shown(&pump(), &at("1")), Shown::Other(_)));
            writer.write(&pump(), &at("1")).await.unwrap();
            assert_eq!(writer.shown(&pump(), &at("1")), Shown::Same);
            assert_eq!(writer.shown(&pump(), &at("2")), Shown::Same);
            assert!(matches!(writer.shown(&pump(), &report(2)), Shown::Other(_)));
            sleep(Duration::from_mins(1)).await;
            assert_eq!(writer.shown(&pump(), &at("1")), Shown::Same);
            assert!(matches!(writer.shown(&pump(), &at("2")), Shown::Other(_)));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_begins_with_nothing_changed_asks_the_api_server_for_nothing() {
    let world = World::new();
    world
        .run(async {
            world.writer("e1").write(&pump(), &report(1)).await.unwrap();
            world.device("e1", &["t"]);
            world.watch();
            world.server.take_requests();
            let next = world.devices.writer(session("e1", "two"));
            assert_eq!(next.shown(&pump(), &report(1)), Shown::Same);
            assert_eq!(world.server.take_requests(), [""; 0]);
            assert!(matches!(next.shown(&pump(), &report(2)), Shown::Other(_)));

            let mut status = world.server.object(STATUS).unwrap();
            status["status"]["twins"] = json!([twin(7)]);
            world.server.put(STATUS, status);
            world.watch();
            assert!(
                matches!(next.shown(&pump(), &report(1)), Shown::Other(_)),
                "somebody changed it while the link was cut"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_moved_or_has_another_model_is_written_though_its_values_are_the_same() {
    let world = World::new();
    world
        .run(async {
            world.writer("e1").write(&pump(), &report(1)).await.unwrap();
            world.device("e2", &["t"]);
            world.watch();
            let new = world.writer("e2");
            assert!(matches!(new.shown(&pump(), &report(1)), Shown::Other(_)));
            new.write(&pump(), &report(1)).await.unwrap();
            assert_eq!(new.shown(&pump(), &report(1)), Shown::Same);
            let status = world.server.object(STATUS).unwrap();
            assert_eq!(status["metadata"]["labels"]["tombolo.dev/node"], "e2");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_deleted_is_written_anew_and_whole() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            writer.write(&pump(), &report(1)).await.unwrap();
            let uid = world.server.object(STATUS).unwrap()["metadata"]["uid"].clone();
            world.server.state.lock().objects.remove(STATUS);
            world.cluster.told_status_gone(&key(), uid.as_str().unwrap());
            assert!(matches!(writer.shown(&pump(), &report(1)), Shown::Other(_)));
            writer.write(&pump(), &report(1)).await.unwrap();
            assert_eq!(world.twins(), json!([twin(1)]));
            assert_eq!(writer.shown(&pump(), &report(1)), Shown::Same);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_property_that_leaves_the_device_leaves_the_status() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            writer.write(&pump(), &report(1)).await.unwrap();
            world.device("e1", &["other"]);
            assert!(
                matches!(writer.shown(&pump(), &report(1)), Shown::Other(_)),
                "it is written again"
            );
            writer.write(&pump(), &report(1)).await.unwrap();
            assert_eq!(world.twins(), json!([]));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_others_keep_in_the_status_stays_and_their_writes_are_looked_at_first() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            writer.write(&pump(), &report(1)).await.unwrap();
            let mut status = world.server.object(STATUS).unwrap();
            status["status"]["extensions"] = json!({ "mine": 1 });
            world.server.put(STATUS, status);
            world.server.take_requests();
            writer.write(&pump(), &report(2)).await.unwrap();
            let requests = world.server.take_requests();
            assert_eq!(
                requests[..5],
                [
                    "PATCH devicestatuses",
                    "GET devicestatuses",
                    "GET leases",
                    "GET devices",
                    "PATCH devicestatuses"
                ]
            );
            let status = world.server.object(STATUS).unwrap()["status"].clone();
            assert_eq!(
                (&status["extensions"], &status["twins"]),
                (&json!({ "mine": 1 }), &json!([twin(2)]))
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_another_writer_changed_is_set_right_at_the_pace_of_the_device() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            writer.write(&pump(), &report(1)).await.unwrap();
            world.watch();
            assert_eq!(writer.shown(&pump(), &report(1)), Shown::Same);
            let start = Instant::now();
            let mut seen = Vec::new();
            for _ in 0..10 {
                let mut status = world.server.object(STATUS).unwrap();
                status["status"] =
                    json!({ "twins": [twin(7)], "state": "broken", "extensions": { "mine": 1 } });
                world.server.put(STATUS, status);
                world.watch();
                let Shown::Other(state) = writer.shown(&pump(), &report(1)) else {
                    panic!("another writer's value counts as ours");
                };
                assert!(!seen.contains(&state), "each edit is opposed anew");
                seen.push(state);
                writer.write(&pump(), &report(1)).await.unwrap();
                let status = world.server.object(STATUS).unwrap()["status"].clone();
                assert_eq!(
                    (&status["twins"], &status["state"]),
                    (&json!([twin(1)]), &json!("online"))
                );
                assert_eq!(status["extensions"], json!({ "mine": 1 }));
                assert_eq!(writer.shown(&pump(), &report(1)), Shown::Same);
            }
            assert!(start.elapsed() > Duration::from_secs(8), "{:?}", start.elapsed());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_node_has_from_before_its_boot_makes_a_deleted_status_whole_and_costs_one_look() {
    let world = World::new();
    world.device("e1", &["t", "u"]);
    let writer = world.writer("e1");
    let said = |value: u64| {
        let before = json!({ "value": "5", "metadata": { "version": "3", "quality": "stale" } });
        let twins = json!([twin(value), { "propertyName": "u" }]);
        json!({ "twins": twins, "left": { "u": before }, "state": "online" })
            .to_string()
            .into_bytes()
    };
    let shown = |world: &World| world.twins()[1]["reported"].clone();
    world
        .run(async {
            writer.write(&pump(), &said(1)).await.unwrap();
            assert_eq!(shown(&world)["value"], "5", "there was nothing newer");
            assert_eq!(shown(&world)["metadata"]["quality"], "stale");
            world.device("e1", &["t", "u"]);
            world.server.take_requests();
            writer.write(&pump(), &said(2)).await.unwrap();
            assert_eq!(world.server.take_requests()[0], "PATCH devicestatuses");
            assert_eq!(shown(&world)["value"], "5");
            let uid = world.server.object(STATUS).unwrap()["metadata"]["uid"].clone();
            world.server.state.lock().objects.remove(STATUS);
            world.cluster.told_status_gone(&key(), uid.as_str().unwrap());
            writer.write(&pump(), &said(2)).await.unwrap();
            assert_eq!(
                (&world.twins()[0], &shown(&world)["value"]),
                (&twin(2), &json!("5"))
            );
        })
        .await;
}
