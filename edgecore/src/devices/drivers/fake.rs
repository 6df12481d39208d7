//! Twins that remember what they were told: for the tests of drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::devices::{Device, DeviceName, DeviceState};
use tokio::sync::{broadcast, watch};

use crate::devices::{
    Observation, Origin, Refused, Report, Served, Standing, Told, TwinView, Twins, Wish, merge,
};

/// Twins that remember what they were told.
pub(super) struct FakeTwins {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    told: broadcast::Sender<Arc<Told>>,
    delay: Duration,
}

#[derive(Default)]
struct Inner {
    devices: Arc<BTreeMap<DeviceName, Arc<Served>>>,
    wishes: BTreeMap<DeviceName, BTreeMap<String, Wish>>,
    observed: Vec<(DeviceName, String, Observation)>,
    /// What was said beside values, each once.
    notes: BTreeSet<String>,
    states: Vec<(DeviceName, DeviceState)>,
    refuse: usize,
    refuse_states: usize,
}

impl FakeTwins {
    pub(super) fn new() -> Arc<Self> {
        Self::slow(Duration::ZERO)
    }

    /// Each report takes so long to be stored.
    pub(super) fn slow(delay: Duration) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
            told: broadcast::Sender::new(16),
            delay,
        })
    }

    /// Serves these manifests, and no others.
    pub(super) fn serve(&self, manifests: impl IntoIterator<Item = serde_json::Value>) {
        let devices = manifests.into_iter().map(|manifest| {
            let device: Device = serde_json::from_value(manifest).unwrap();
            let served = merge(&device, None);
            (served.name(), Arc::new(served))
        });
        self.inner.lock().devices = Arc::new(devices.collect());
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn wish(&self, device: &DeviceName, property: &str, value: &str, version: u64) {
        let mut inner = self.inner.lock();
        let last = inner.observed.iter().rfind(|(of, name, seen)| {
            of == device && name == property && matches!(seen, Observation::Value(_))
        });
        let met = last.is_some_and(|(.., seen)| *seen == Observation::Value(value.to_owned()));
        let wish = Wish {
            value: value.to_owned(),
            version,
            met,
            done: met,
            in_doubt: false,
        };
        let of_device = inner.wishes.entry(device.clone()).or_default();
        of_device.insert(property.to_owned(), wish);
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
    }

    /// The device may have been set to something else before this wish.
    #[allow(
        dead_code,
        reason = "the tests against real devices have no process before them"
    )]
    pub(super) fn doubt(&self, device: &DeviceName, property: &str) {
        let mut inner = self.inner.lock();
        let of_device = inner.wishes.get_mut(device);
        if let Some(wish) = of_device.and_then(|wishes| wishes.get_mut(property)) {
            wish.in_doubt = true;
        }
    }

    /// Waits until this wish of a property was given up.
    #[allow(dead_code, reason = "the unit tests give nothing up")]
    pub(super) async fn until_given_up(&self, device: &DeviceName, property: &str, version: u64, why: &str) {
        let why = why.to_owned();
        let given_up = Observation::GivenUp { version, why };
        self.until(device, property, &given_up).await;
    }

    /// The next reports cannot be stored.
    pub(super) fn refuse_next(&self, count: usize) {
        self.inner.lock().refuse = count;
    }

    /// The next states cannot be stored.
    #[allow(dead_code, reason = "the tests against real devices do without it")]
    pub(super) fn refuse_next_states(&self, count: usize) {
        self.inner.lock().refuse_states = count;
    }

    pub(super) fn observed(&self, device: &DeviceName) -> Vec<(String, Observation)> {
        let inner = self.inner.lock();
        let of_device = inner.observed.iter().filter(|(name, ..)| name == device);
        of_device
            .map(|(_, property, seen)| (property.clone(), seen.clone()))
            .collect()
    }

    /// Whether anything was said beside a value that begins so.
    pub(super) fn is_noted(&self, start: &str) -> bool {
        self.inner.lock().notes.iter().any(|note| note.starts_with(start))
    }

    pub(super) fn states(&self, device: &DeviceName) -> Vec<DeviceState> {
        let inner = self.inner.lock();
        let of_device = inner.states.iter().filter(|(name, _)| name == device);
        of_device.map(|(_, state)| *state).collect()
    }

    /// Waits until a property of a device was seen so.
    pub(super) async fn until(&self, device: &DeviceName, property: &str, wanted: &Observation) {
        let seen = || {
            let observed = self.observed(device);
            observed
                .iter()
                .any(|(name, seen)| name == property && seen == wanted)
        };
        for _ in 0..2000 {
            if seen() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{property} never was {wanted:?}: {:?}", self.observed(device));
    }

    fn take(&self, report: &Report) -> Result<Arc<Told>, Refused> {
        let mut inner = self.inner.lock();
        if inner.refuse > 0 {
            inner.refuse -= 1;
            return Err(Refused::Unavailable("the disk is full".into()));
        }
        for seen in &report.seen {
            let of_device = inner.wishes.entry(report.device.clone()).or_default();
            if let (Observation::Value(value), Some(wish)) =
                (&seen.observation, of_device.get_mut(&seen.property))
            {
                wish.met = *value == wish.value;
                wish.done |= wish.met;
            }
            if let (Observation::GivenUp { version, .. }, Some(wish)) =
                (&seen.observation, of_device.get_mut(&seen.property))
            {
                wish.done |= *version == wish.version;
            }
            let entry = (
                report.device.clone(),
                seen.property.clone(),
                seen.observation.clone(),
            );
            inner.observed.push(entry);
            inner.notes.insert(seen.clue.note.clone());
        }
        Ok(Arc::new(Told {
            device: report.device.clone(),
            event_id: String::new(),
            origin: Origin::Driver,
            timestamp: 0,
            changes: BTreeMap::new(),
            wished: BTreeMap::new(),
            delta: BTreeMap::new(),
        }))
    }
}

impl Twins for FakeTwins {
    fn devices(&self) -> Arc<BTreeMap<DeviceName, Arc<Served>>> {
        Arc::clone(&self.inner.lock().devices)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn wishes(&self, device: &DeviceName) -> BTreeMap<String, Wish> {
        self.inner.lock().wishes.get(device).cloned().unwrap_or_default()
    }

    fn twin(&self, _device: &DeviceName) -> Option<BTreeMap<String, TwinView>> {
        None
    }

    fn standing(&self, _device: &DeviceName) -> Option<Standing> {
        None
    }

    fn told(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Arc<Told>, Refused>> {
        async move {
            tokio::time::sleep(self.delay).await;
            self.take(&report)
        }
        .boxed()
    }

    fn state(&self, device: DeviceName, state: DeviceState) -> BoxFuture<'_, Result<Standing, Refused>> {
        let mut inner = self.inner.lock();
        let last_online = None;
        let told = if inner.refuse_states > 0 {
            inner.refuse_states -= 1;
            Err(Refused::Unavailable("the disk is full".into()))
        } else {
            inner.states.push((device, state));
            Ok(Standing { state, last_online })
        };
        async move { told }.boxed()
    }
}
