//! The state that the Device itself shows, and in whose name it is written.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::*;
use crate::reported::Shown;

#[tokio::test(start_paused = true)]
async fn a_state_on_the_device_is_written_until_it_is_there_and_again_when_somebody_took_it_away() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            world.server.state.lock().busy = Some(("devices", 1));
            let error = writer.write(&pump(), &report(1)).await.unwrap_err();
            assert!(!error.is_permanent(), "{error}");
            world.server.take_requests();
            writer.write(&pump(), &report(1)).await.unwrap();
            assert_eq!(
                world.server.take_requests(),
                ["PATCH devicestatuses", "PATCH devices"],
                "what was written is known"
            );
            let state = || world.server.object(DEVICE).unwrap()["status"]["state"].clone();
            assert_eq!(state(), "online");

            // The watch sees it, and then that somebody replaced the Device by a manifest without a status.
            world.device("e1", &["t"]);
            world.watch();
            assert_eq!(writer.shown(&pump(), &report(1)), Shown::Same);
            let mut device = world.server.object(DEVICE).unwrap();
            device["status"] = Value::Null;
            world.server.put(DEVICE, device);
            world.device("e1", &["t"]);
            assert!(matches!(writer.shown(&pump(), &report(1)), Shown::Other(_)));
            writer.write(&pump(), &report(1)).await.unwrap();
            assert_eq!(state(), "online");
            assert_eq!(
                writer.shown(&pump(), &report(1)),
                Shown::Same,
                "a CRD may drop it in silence"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_state_undoes_nothing_that_came_to_the_device_meanwhile() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            // A newer session wrote another one a moment ago; the watch here lags.
            let mut device = world.server.object(DEVICE).unwrap();
            device["status"] = json!({ "state": "newer" });
            world.server.put(DEVICE, device);
            let error = writer.write(&pump(), &report(1)).await.unwrap_err();
            assert_eq!((error.code(), error.is_permanent()), (409, false), "{error}");
            let state = || world.server.object(DEVICE).unwrap()["status"]["state"].clone();
            assert_eq!(state(), "newer");
            world.watch_device();
            writer.write(&pump(), &report(1)).await.unwrap();
            assert_eq!(state(), "online");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_edited_while_its_status_is_written_shows_its_state_at_once() {
    let world = World::new();
    let writer = world.writer("e1");
    world
        .run(async {
            // All turns but one are taken: the state waits for the next.
            for _ in 1..100 {
                world.devices.inner.turns.turn(&node()).await;
            }
            let edit = async {
                sleep(Duration::from_millis(25)).await;
                assert_eq!(world.twins(), json!([twin(1)]));
                world.device("e1", &["t", "other"]);
            };
            let (pump, report) = (pump(), report(1));
            let (written, ()) = tokio::join!(writer.write(&pump, &report), edit);
            written.unwrap();
            assert_eq!(world.server.object(DEVICE).unwrap()["status"]["state"], "online");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn statuses_states_and_events_name_cloudcore_as_the_manager_of_their_fields() {
    let world = World::new();
    world
        .run(async {
            world.writer("e1").write(&pump(), &report(1)).await.unwrap();
            world.writer("e1").write(&pump(), b"[").await.unwrap_err();
            sleep(Duration::from_secs(1)).await;
            let requests = world.server.take_requests();
            let writes = requests.iter().filter(|request| !request.starts_with("GET"));
            assert!(writes.eq(&["POST n", "PATCH devices", "POST n"]), "{requests:?}");
            let state = world.server.state.lock();
            assert!(state.written_with.iter().eq(["fieldManager=cloudcore"]));
        })
        .await;
}
