//! Twins that keep in memory what they were told: what the tests of mappers stand on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::devices::{Device, DeviceModel, DeviceName, DeviceState};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use crate::devices::{Refused, Report, Served, Standing, Told, TwinView, Twins, Wish, merge};

/// Twins without a journal.
pub(crate) struct FakeTwins {
    devices: Mutex<Arc<BTreeMap<DeviceName, Arc<Served>>>>,
    wishes: Mutex<BTreeMap<DeviceName, BTreeMap<String, Wish>>>,
    changed: watch::Sender<u64>,
    told: broadcast::Sender<Arc<Told>>,
    /// Every report that was taken.
    pub(crate) reports: Mutex<Vec<Report>>,
    /// Every state that was taken.
    pub(crate) states: Mutex<Vec<(DeviceName, DeviceState)>>,
    /// While set, nothing becomes durable.
    pub(crate) stuck: AtomicBool,
}

impl Default for FakeTwins {
    fn default() -> Self {
        Self {
            devices: Mutex::default(),
            wishes: Mutex::default(),
            changed: watch::Sender::new(0),
            told: broadcast::Sender::new(16),
            reports: Mutex::default(),
            states: Mutex::default(),
            stuck: AtomicBool::new(false),
        }
    }
}

impl FakeTwins {
    /// Puts a device there, with its model unless there is none.
    pub(crate) fn put(&self, device: &Value, model: Option<&Value>) {
        let device: Device = serde_json::from_value(device.clone()).unwrap();
        let model = model.map(|model| serde_json::from_value::<DeviceModel>(model.clone()).unwrap());
        let served = merge(&device, model.as_ref());
        Arc::make_mut(&mut self.devices.lock()).insert(served.name(), Arc::new(served));
        self.changed.send_modify(|version| *version += 1);
    }

    /// Takes a device away.
    pub(crate) fn drop_device(&self, name: &str) {
        Arc::make_mut(&mut self.devices.lock()).remove(&hall(name));
        self.changed.send_modify(|version| *version += 1);
    }

    /// Wishes for a value.
    pub(crate) fn wish(&self, name: &str, property: &str, value: &str) {
        let wish = Wish {
            value: value.to_owned(),
            version: 1,
            met: false,
            done: false,
            in_doubt: false,
        };
        let mut wishes = self.wishes.lock();
        wishes
            .entry(hall(name))
            .or_default()
            .insert(property.to_owned(), wish);
        drop(wishes);
        self.changed.send_modify(|version| *version += 1);
    }
}

/// A device of the namespace that all these tests use.
pub(crate) fn hall(name: &str) -> DeviceName {
    DeviceName::new("hall", name)
}

/// A device of the protocol `modbus`.
pub(crate) fn device(name: &str, port: u16) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "hall", "uid": "u"},
        "spec": {"deviceModelRef": {"name": "sensor"},
                 "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.9", "port": port}},
                 "properties": [{"name": "temperature"}]}
    })
}

/// Its model.
pub(crate) fn model(maximum: u16) -> Value {
    json!({
        "metadata": {"name": "sensor", "namespace": "hall"},
        "spec": {"properties": [{"name": "temperature", "type": "INT", "maximum": maximum.to_string()}]}
    })
}

impl Twins for FakeTwins {
    fn devices(&self) -> Arc<BTreeMap<DeviceName, Arc<Served>>> {
        self.devices.lock().clone()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn wishes(&self, device: &DeviceName) -> BTreeMap<String, Wish> {
        self.wishes.lock().get(device).cloned().unwrap_or_default()
    }

    fn twin(&self, _: &DeviceName) -> Option<BTreeMap<String, TwinView>> {
        None
    }

    fn standing(&self, device: &DeviceName) -> Option<Standing> {
        self.devices.lock().contains_key(device).then_some(Standing {
            state: DeviceState::Unknown,
            last_online: None,
        })
    }

    fn told(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Arc<Told>, Refused>> {
        Box::pin(async move {
            if self.stuck.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.standing(&report.device).is_none() {
                return Err(Refused::UnknownDevice(report.device));
            }
            let told = Told {
                device: report.device.clone(),
                event_id: report.event_id.clone(),
                origin: report.origin,
                timestamp: 0,
                changes: BTreeMap::new(),
                wished: BTreeMap::new(),
                delta: BTreeMap::new(),
            };
            self.reports.lock().push(report);
            Ok(Arc::new(told))
        })
    }

    fn state(&self, device: DeviceName, state: DeviceState) -> BoxFuture<'_, Result<Standing, Refused>> {
        Box::pin(async move {
            let standing = self.standing(&device);
            let standing = standing.ok_or_else(|| Refused::UnknownDevice(device.clone()))?;
            self.states.lock().push((device, state));
            Ok(Standing { state, ..standing })
        })
    }
}
