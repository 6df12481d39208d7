//! Twins in memory, behind the seam: everything is accepted at once, unless the test holds it up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use edgecore::devices::{
    Observation, Origin, Refused, Report, Served, Standing, Told, TwinChange, TwinView, Twins, Wish, merge,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::devices::{DeviceName, DeviceState, TwinValue};
use tokio::sync::{broadcast, watch};

/// The largest value that is taken.
const LARGEST: usize = 64 << 10;

/// See above.
pub(crate) struct Fake {
    devices: Mutex<Arc<BTreeMap<DeviceName, Arc<Served>>>>,
    twins: Mutex<BTreeMap<DeviceName, BTreeMap<String, TwinView>>>,
    states: Mutex<BTreeMap<DeviceName, Standing>>,
    told: broadcast::Sender<Arc<Told>>,
    changed: watch::Sender<u64>,
    /// Every value, in the order in which it was taken.
    journal: Mutex<Vec<String>>,
    /// While true, what was taken is not answered.
    stuck: watch::Sender<bool>,
    clock: AtomicI64,
}

impl Fake {
    pub(crate) fn with(names: &[&str]) -> Arc<Self> {
        let fake = Self {
            devices: Mutex::default(),
            twins: Mutex::default(),
            states: Mutex::default(),
            told: broadcast::Sender::new(4096),
            changed: watch::Sender::new(0),
            journal: Mutex::default(),
            stuck: watch::Sender::new(false),
            clock: AtomicI64::new(1_700_000_000_000),
        };
        fake.serve(names);
        Arc::new(fake)
    }

    /// From now on there are these devices.
    pub(crate) fn serve(&self, names: &[&str]) {
        let served = names.iter().map(|name| {
            let name: DeviceName = name.parse().unwrap();
            let device = serde_json::from_value(serde_json::json!({
                "metadata": {"name": name.name, "namespace": name.namespace, "uid": name.to_string()},
                "spec": {}
            }))
            .unwrap();
            (name, Arc::new(merge(&device, None)))
        });
        *self.devices.lock() = Arc::new(served.collect());
        self.changed.send_modify(|version| *version += 1);
    }

    /// Holds up, or lets go, every answer.
    pub(crate) fn stick(&self, stuck: bool) {
        self.stuck.send_replace(stuck);
    }

    /// Every value that was taken.
    pub(crate) fn journal(&self) -> Vec<String> {
        self.journal.lock().clone()
    }

    /// As if somebody else had reported.
    pub(crate) fn say(&self, report: Report) {
        self.take(report).unwrap();
    }

    fn take(&self, report: Report) -> Result<Arc<Told>, Refused> {
        if !self.devices.lock().contains_key(&report.device) {
            return Err(Refused::UnknownDevice(report.device));
        }
        judge(&report)?;
        let timestamp = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut twins = self.twins.lock();
        let twin = twins.entry(report.device.clone()).or_default();
        let mut changes = BTreeMap::new();
        for seen in report.seen {
            let last = twin.get(&seen.property).cloned();
            let mut view = last.clone().unwrap_or_default();
            let value = |value: String| TwinValue {
                value,
                metadata: BTreeMap::from([("timestamp".to_owned(), timestamp.to_string())]),
            };
            match seen.observation {
                Observation::Value(text) => {
                    self.journal.lock().push(text.clone());
                    view.actual = Some(value(text));
                }
                Observation::Wished(text) => view.expected = Some(value(text)),
                Observation::Dropped => {
                    twin.remove(&seen.property);
                    changes.insert(seen.property, TwinChange { last, current: None });
                    continue;
                }
                Observation::Fault(_)
                | Observation::GivenUp { .. }
                | Observation::Settled { .. }
                | Observation::Retained(_) => {}
            }
            twin.insert(seen.property.clone(), view.clone());
            let current = Some(view);
            changes.insert(seen.property, TwinChange { last, current });
        }
        let told = Arc::new(Told {
            device: report.device,
            event_id: report.event_id,
            origin: report.origin,
            timestamp,
            changes,
            wished: wished(twin),
            delta: delta(twin),
        });
        let _ = self.told.send(Arc::clone(&told));
        Ok(told)
    }
}

fn wished(twin: &BTreeMap<String, TwinView>) -> BTreeMap<String, TwinView> {
    let mut wished = twin.clone();
    wished.retain(|_, view| view.expected.is_some());
    wished
}

fn delta(twin: &BTreeMap<String, TwinView>) -> BTreeMap<String, String> {
    let unmet = |(name, view): (&String, &TwinView)| {
        let expected = &view.expected.as_ref()?.value;
        let met = view
            .actual
            .as_ref()
            .is_some_and(|actual| actual.value == *expected);
        (!met).then(|| (name.clone(), expected.clone()))
    };
    twin.iter().filter_map(unmet).collect()
}

/// What these twins refuse.
fn judge(report: &Report) -> Result<(), Refused> {
    for seen in &report.seen {
        if let Observation::Value(value) = &seen.observation
            && value.len() > LARGEST
        {
            return Err(Refused::TooLarge {
                what: seen.property.clone(),
                bytes: value.len(),
                limit: LARGEST,
            });
        }
        if seen.observation == Observation::Wished("never".to_owned()) {
            return Err(Refused::BadWish {
                property: seen.property.clone(),
                value: "never".to_owned(),
                reason: "it is never".to_owned(),
            });
        }
    }
    Ok(())
}

impl Twins for Fake {
    fn devices(&self) -> Arc<BTreeMap<DeviceName, Arc<Served>>> {
        Arc::clone(&self.devices.lock())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn wishes(&self, device: &DeviceName) -> BTreeMap<String, Wish> {
        let twins = self.twins.lock();
        let Some(twin) = twins.get(device) else {
            return BTreeMap::new();
        };
        let unmet = delta(twin);
        let wish = |(name, view): (String, TwinView)| {
            let wish = Wish {
                value: view.expected.unwrap_or_default().value,
                version: 1,
                met: !unmet.contains_key(&name),
                done: false,
                in_doubt: false,
            };
            (name, wish)
        };
        wished(twin).into_iter().map(wish).collect()
    }

    fn twin(&self, device: &DeviceName) -> Option<BTreeMap<String, TwinView>> {
        let served = self.devices.lock().contains_key(device);
        served.then(|| self.twins.lock().get(device).cloned().unwrap_or_default())
    }

    fn standing(&self, device: &DeviceName) -> Option<Standing> {
        let unknown = Standing {
            state: DeviceState::Unknown,
            last_online: None,
        };
        let served = self.devices.lock().contains_key(device);
        served.then(|| self.states.lock().get(device).copied().unwrap_or(unknown))
    }

    fn told(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Arc<Told>, Refused>> {
        let mut stuck = self.stuck.subscribe();
        async move {
            assert_eq!(report.origin, Origin::Mqtt);
            let taken = self.take(report);
            let _ = stuck.wait_for(|stuck| !stuck).await;
            taken
        }
        .boxed()
    }

    fn state(&self, device: DeviceName, state: DeviceState) -> BoxFuture<'_, Result<Standing, Refused>> {
        async move {
            if !self.devices.lock().contains_key(&device) {
                return Err(Refused::UnknownDevice(device));
            }
            let mut states = self.states.lock();
            let before = states.get(&device).and_then(|standing| standing.last_online);
            let now = self.clock.fetch_add(1, Ordering::Relaxed);
            let last_online = if state.is_reachable() { Some(now) } else { before };
            let standing = Standing { state, last_online };
            states.insert(device, standing);
            Ok(standing)
        }
        .boxed()
    }
}
