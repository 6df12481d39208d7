//! The twins over a cut, a kill, a power cut, and a flash that refuses.

mod catalog;
mod flash;
mod held;
mod model;
mod outlive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use futures::future::BoxFuture;
use protocol::devices::{DeviceIdentity, DeviceStatusStatus};
use protocol::object::{Body, Digest, Kind, Object, ObjectKey, Revision, Version};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::devices::seam::{Clue, Observation, Origin, Seen};

/// A directory that is gone after the test.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("twins-{}-{number}", std::process::id()));
        let dir = Self(path);
        std::fs::create_dir_all(dir.path().join("proc/sys/kernel/random")).unwrap();
        dir.boot("one");
        dir.uptime(10_000.0);
        dir
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The machine was started again; tmpfs is empty then.
    pub(super) fn boot(&self, id: &str) {
        std::fs::write(
            self.path().join("proc/sys/kernel/random/boot_id"),
            format!("{id}\n"),
        )
        .unwrap();
    }

    pub(super) fn uptime(&self, seconds: f64) {
        std::fs::write(self.path().join("proc/uptime"), format!("{seconds} 0.0\n")).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[derive(Default)]
pub(super) struct Cloud {
    pub(super) away: AtomicBool,
    /// How long it takes until the outbox is on flash, in ms.
    pub(super) slow: AtomicU64,
    pub(super) told: Mutex<Vec<DeviceStatusStatus>>,
    pub(super) kept: Mutex<Vec<Option<usize>>>,
    pub(super) forgotten: Mutex<Vec<DeviceIdentity>>,
}

impl Cluster for Cloud {
    fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    fn tell(&self, _: &DeviceIdentity, status: &DeviceStatusStatus) {
        self.told.lock().push(status.clone());
    }

    fn keep(&self, devices: Option<Vec<DeviceIdentity>>) -> BoxFuture<'_, Result<(), String>> {
        self.kept.lock().push(devices.map(|devices| devices.len()));
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(self.slow.load(Ordering::Relaxed))).await;
            Ok(())
        })
    }

    fn forget(&self, device: &DeviceIdentity) {
        self.forgotten.lock().push(device.clone());
    }
}

pub(super) struct Objects {
    pub(super) held: Mutex<Vec<Arc<Object>>>,
    pub(super) confirmed: AtomicBool,
    /// What is held, and confirmed, once the list was read.
    pub(super) late: Mutex<Option<Vec<Arc<Object>>>>,
    changed: watch::Sender<u64>,
}

impl Source for Objects {
    fn objects(&self) -> Vec<Arc<Object>> {
        let mut held = self.held.lock();
        let before = held.clone();
        if let Some(late) = self.late.lock().take() {
            *held = late;
            self.confirmed.store(true, Ordering::Relaxed);
        }
        before
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }
}

impl Objects {
    pub(super) fn set(&self, objects: Vec<Value>) {
        let object = |(index, json): (usize, Value)| {
            let kind = if json["spec"]["nodeName"].is_string() {
                Kind::Device
            } else {
                Kind::DeviceModel
            };
            let name = json["metadata"]["name"].as_str().unwrap();
            let bytes = serde_json::to_vec(&json).unwrap();
            Arc::new(Object {
                key: ObjectKey::new(kind, "hall", name),
                version: Version {
                    uid: index.to_string(),
                    revision: Revision(1),
                    digest: Digest::of(&bytes),
                },
                body: Body::compress(&bytes),
                seed_status: None,
            })
        };
        *self.held.lock() = objects.into_iter().enumerate().map(object).collect();
        self.rings();
    }

    pub(super) fn rings(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

pub(super) fn model() -> Value {
    json!({
        "metadata": {"name": "pump", "namespace": "hall"},
        "spec": {"properties": [
            {"name": "count", "type": "INT"}, {"name": "alarm", "type": "INT"}, {"name": "target", "type": "INT"}
        ]}
    })
}

pub(super) fn device(uid: &str, wanted: Option<&str>) -> Value {
    let mut target = json!({"name": "target"});
    if let Some(wanted) = wanted {
        target["desired"] = json!({"value": wanted});
    }
    json!({
        "metadata": {"name": "pump", "namespace": "hall", "uid": uid},
        "spec": {
            "nodeName": "n", "deviceModelRef": {"name": "pump"},
            "properties": [{"name": "count"}, {"name": "alarm", "durable": true}, target]
        }
    })
}

/// A node with one pump, over any number of starts.
pub(super) struct Node {
    pub(super) dir: Dir,
    pub(super) db: Db,
    pub(super) cloud: Arc<Cloud>,
    pub(super) objects: Arc<Objects>,
    pub(super) clock: Clock,
}

impl Node {
    pub(super) fn new() -> Self {
        let objects = Objects {
            held: Mutex::default(),
            confirmed: AtomicBool::new(false),
            late: Mutex::default(),
            changed: watch::channel(0).0,
        };
        objects.set(vec![model(), device("u1", None)]);
        Self {
            dir: Dir::new(),
            db: Db::in_memory(),
            cloud: Arc::default(),
            objects: Arc::new(objects),
            clock: Clock::system(),
        }
    }

    /// The twins, without anything that goes on by itself.
    pub(super) async fn open(&self) -> Arc<Core> {
        let core = Core::open(Ground {
            journal_dir: self.dir.path().join("journal"),
            root: self.dir.path().to_owned(),
            db: self.db.clone(),
            clock: self.clock.clone(),
            cluster: Arc::clone(&self.cloud) as _,
            source: Arc::clone(&self.objects) as _,
        });
        core.await.unwrap()
    }

    pub(super) async fn start(&self) -> Run {
        let core = self.open().await;
        let stop = CancellationToken::new();
        let (running, stopped) = (Arc::clone(&core), stop.clone());
        #[expect(clippy::disallowed_methods, reason = "the test owns it")]
        let task = tokio::spawn(async move { running.run(&stopped).await });
        Run { core, stop, task }
    }

    pub(super) async fn rows(&self) -> BTreeMap<String, Value> {
        let rows = self.db.scan(Table::Device).await.unwrap();
        rows.into_iter()
            .map(|(key, row)| (key, serde_json::from_slice(&row).unwrap()))
            .collect()
    }

    /// The value of a property on flash.
    pub(super) async fn flashed(&self, property: &str) -> Option<String> {
        let rows = self.rows().await;
        let row = rows.get(&format!("p/u1/{property}"))?;
        Some(row["r"]["v"].as_str()?.to_owned())
    }

    /// What the cluster has heard last of a property.
    pub(super) fn heard(&self, property: &str) -> Option<String> {
        let told = self.cloud.told.lock();
        let twins = &told.last()?.twins;
        let twin = twins.iter().find(|twin| twin.property_name == property)?;
        Some(twin.reported.as_ref()?.value.clone())
    }

    pub(super) fn cut(&self) {
        self.cloud.away.store(true, Ordering::Relaxed);
    }
}

/// One run of edgecore.
pub(super) struct Run {
    pub(super) core: Arc<Core>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Run {
    pub(super) async fn says(&self, property: &str, value: &str) -> Result<Arc<Told>, Refused> {
        self.core
            .report(said(property, Observation::Value(value.to_owned())))
            .await
    }

    pub(super) fn actual(&self, property: &str) -> Option<(String, String)> {
        let actual = self.core.twin(&pump())?.remove(property)?.actual?;
        Some((actual.value, actual.metadata["quality"].clone()))
    }

    /// As by kill -9: nothing is said to anybody.
    pub(super) fn kill(self) {
        self.task.abort();
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(super) fn pump() -> DeviceName {
    DeviceName::new("hall", "pump")
}

pub(super) fn said(property: &str, observation: Observation) -> Report {
    Report {
        device: pump(),
        seen: vec![Seen {
            property: property.to_owned(),
            observation,
            clue: Clue::default(),
        }],
        event_id: String::new(),
        origin: Origin::Mqtt,
    }
}

pub(super) async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
