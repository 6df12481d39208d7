//! Mappers against a mapper in Go that dials and decodes as existing ones do.
//!
//! Needs `go`; the mapper of `tests/mapper` is built once into the target directory. Without `go` the tests
//! say so and pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mapper;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edgecore::devices::dmi::{self, DmiConfig};
use edgecore::store::Db;
use protocol::devices::DeviceState;
use serde_json::json;
use testing::{FakeTwins, device, hall, model};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use mapper::{Mapper, program};

/// The twins of the unit tests, under the names that they use.
mod devices {
    pub(crate) use edgecore::devices::{
        Refused, Report, Served, Standing, Told, TwinView, Twins, Wish, merge,
    };
}
#[path = "../../src/devices/dmi/testing.rs"]
mod testing;

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for sockets, gone with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tombolo-dmi-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The service for mappers, which can end and begin again.
struct Edge {
    twins: Arc<FakeTwins>,
    db: Db,
    socket: PathBuf,
    running: JoinSet<()>,
}

impl Edge {
    async fn new(place: &Place) -> Self {
        let mut edge = Self {
            twins: Arc::default(),
            db: Db::in_memory(),
            // In a directory of its own, so that the path has more than one part.
            socket: place.0.join("kubeedge/dmi.sock"),
            running: JoinSet::new(),
        };
        edge.start().await;
        edge
    }

    async fn start(&mut self) {
        let config = DmiConfig {
            socket: self.socket.clone(),
            group: "tombolo-no-such-group".to_owned(),
        };
        let (twins, db) = (Arc::clone(&self.twins), Arc::new(self.db.clone()));
        self.running.spawn(async move {
            dmi::run(config, twins, db, CancellationToken::new())
                .await
                .unwrap();
        });
        until("the socket is there", || self.socket.exists()).await;
    }

    async fn stop(&mut self) {
        self.running.shutdown().await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: not in time");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Ends the test early where there is no Go.
macro_rules! mapper_or_return {
    () => {
        match program().await {
            Some(program) => program,
            None => return,
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapper_that_dials_by_path_registers_and_hears_of_every_change() {
    let program = mapper_or_return!();
    let place = Place::new("changes");
    let edge = Edge::new(&place).await;
    edge.twins.put(&device("s1", 502), Some(&model(90)));
    edge.twins.wish("s1", "temperature", "21");
    let mut mapper = Mapper::start(program, &edge.socket, &place.0.join("m.sock"), &[]);

    let registered = mapper.heard("registered").await;
    let sent = &registered["message"]["deviceList"][0];
    assert_eq!(sent["name"], "s1");
    assert_eq!(sent["spec"]["properties"][0]["desired"]["value"], "21");
    assert_eq!(
        registered["message"]["modelList"][0]["spec"]["properties"][0]["type"],
        "int"
    );

    // What it was given with the answer is not told again: the next thing it hears is the next change.
    edge.twins.put(&device("s2", 503), Some(&model(90)));
    let told = mapper.heard("RegisterDevice").await;
    let protocol = &told["message"]["device"]["spec"]["protocol"];
    assert_eq!(protocol["configData"]["data"]["port"]["value"], "503");
    edge.twins.wish("s2", "temperature", "30");
    let told = mapper.heard("UpdateDevice").await;
    assert_eq!(
        told["message"]["device"]["spec"]["properties"][0]["desired"]["value"],
        "30"
    );

    edge.twins.drop_device("s1");
    assert_eq!(mapper.heard("RemoveDevice").await["message"]["deviceName"], "s1");
    edge.twins.drop_device("s2");
    mapper.heard("RemoveDevice").await;
    assert_eq!(
        mapper.heard("RemoveDeviceModel").await["message"]["modelName"],
        "sensor"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_are_taken_one_after_the_other_and_without_a_limit() {
    let program = mapper_or_return!();
    let place = Place::new("reports");
    let edge = Edge::new(&place).await;
    edge.twins.put(&device("s1", 502), Some(&model(90)));
    let mut mapper = Mapper::start(program, &edge.socket, &place.0.join("m.sock"), &[]);
    mapper.heard("registered").await;

    let report = json!({"name": "s1", "property": "temperature", "value": "21", "count": 50});
    assert_eq!(mapper.obeys(&report).await, None);
    assert_eq!(edge.twins.reports.lock().len(), 50);
    // On one connection with headers that push the authority out of the client's table and in again.
    let burst = json!({"name": "s1", "property": "temperature", "value": "22", "burst": 500});
    assert_eq!(mapper.obeys(&burst).await, None);
    assert_eq!(edge.twins.reports.lock().len(), 550);

    let state = json!({"name": "s1", "state": "disconnected"});
    assert_eq!(mapper.obeys(&state).await, None);
    assert_eq!(*edge.twins.states.lock(), [(hall("s1"), DeviceState::Offline)]);

    let unknown = json!({"name": "s9", "property": "temperature", "value": "1", "count": 1});
    assert!(mapper.obeys(&unknown).await.unwrap().contains("NotFound"));
    edge.twins.stuck.store(true, std::sync::atomic::Ordering::SeqCst);
    let report = json!({"name": "s1", "property": "temperature", "value": "1", "count": 1});
    assert!(mapper.obeys(&report).await.unwrap().contains("Unavailable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_outlives_edgecore_and_one_elsewhere_waits_for_the_old_mapper_to_end() {
    let program = mapper_or_return!();
    let place = Place::new("again");
    let mut edge = Edge::new(&place).await;
    edge.twins.put(&device("s1", 502), Some(&model(90)));
    let mut first = Mapper::start(program, &edge.socket, &place.0.join("1.sock"), &[]);
    first.heard("registered").await;

    edge.stop().await;
    edge.twins.put(&device("s2", 502), Some(&model(90)));
    edge.start().await;
    // It registers no second time, and hears of what is new and of nothing else.
    assert_eq!(
        first.heard("RegisterDevice").await["message"]["device"]["name"],
        "s2"
    );

    let mut second = Mapper::start(program, &edge.socket, &place.0.join("2.sock"), &[]);
    let refused = second.heard("refused").await;
    assert!(
        refused["error"].as_str().unwrap().contains("AlreadyExists"),
        "{refused}"
    );
    first.kill().await;
    let mut third = Mapper::start(
        program,
        &edge.socket,
        &place.0.join("3.sock"),
        &["-with-data=false"],
    );
    third.heard("registered").await;
    assert_eq!(
        third.heard("CreateDeviceModel").await["message"]["model"]["name"],
        "sensor"
    );
    assert_eq!(
        third.heard("RegisterDevice").await["message"]["device"]["name"],
        "s1"
    );
    assert_eq!(
        third.heard("RegisterDevice").await["message"]["device"]["name"],
        "s2"
    );

    third.kill().await;
    until("their state is unknown", || edge.twins.states.lock().len() == 2).await;
    assert!(
        edge.twins
            .states
            .lock()
            .iter()
            .all(|(_, state)| *state == DeviceState::Unknown)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapper_that_hangs_holds_up_no_other_and_one_refused_device_no_other_device() {
    let program = mapper_or_return!();
    let place = Place::new("hangs");
    let edge = Edge::new(&place).await;
    let mut hanging = Mapper::start(
        program,
        &edge.socket,
        &place.0.join("h.sock"),
        &["-protocol=opcua"],
    );
    hanging.heard("registered").await;
    assert_eq!(hanging.obeys(&json!({"hang": true})).await, None);
    let mut of_opcua = device("h1", 502);
    of_opcua["spec"]["protocol"]["protocolName"] = "opcua".into();
    edge.twins.put(&of_opcua, Some(&model(90)));
    hanging.heard("CreateDeviceModel").await;

    let mut mapper = Mapper::start(program, &edge.socket, &place.0.join("m.sock"), &[]);
    mapper.heard("registered").await;
    assert_eq!(mapper.obeys(&json!({"refuse": "s1"})).await, None);
    let started = Instant::now();
    edge.twins.put(&device("s1", 502), Some(&model(90)));
    edge.twins.put(&device("s2", 502), Some(&model(90)));
    mapper.heard("CreateDeviceModel").await;
    let mut registered = vec![];
    while !registered.contains(&json!("s2")) {
        registered.push(mapper.heard("RegisterDevice").await["message"]["device"]["name"].clone());
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(mapper.obeys(&json!({"refuse": ""})).await, None);
    edge.twins.drop_device("s2");
    mapper.heard("RemoveDevice").await;
}
