//! What the cluster shows of devices that count, seen by a watch from the first value to the last.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use futures::{Stream, StreamExt};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{watcher, watcher::Event},
};
use parking_lot::Mutex;
use serde_json::Value;
use tests::{
    mqtt_load::{Counter, Counters, PROPERTY},
    wait::{Look, until},
};
use tokio::task::JoinSet;

/// The newest value of every device; dropping it ends the watch.
pub(crate) struct Shown {
    counters: Arc<Counters>,
    seen: Arc<Mutex<Seen>>,
    _watch: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    values: BTreeMap<String, u64>,
    versions: u64,
    faults: Vec<String>,
}

impl Shown {
    /// Watches from now on.
    pub(crate) fn follow(client: Client, counters: &Arc<Counters>) -> Self {
        let kind = GroupVersionKind::gvk("devices.kubeedge.io", "v1beta1", "DeviceStatus");
        let kind = ApiResource::from_gvk_with_plural(&kind, "devicestatuses");
        let api = Api::<DynamicObject>::namespaced_with(client, "default", &kind);
        let (seen, counters) = (Arc::new(Mutex::new(Seen::default())), Arc::clone(counters));
        let mut watch = JoinSet::new();
        let events = watcher(api, watcher::Config::default());
        watch.spawn(take(events.boxed(), seen.clone(), counters.clone()));
        Self {
            counters,
            seen,
            _watch: watch,
        }
    }

    /// Waits until everything that is accepted now is shown, or something newer.
    pub(crate) async fn caught_up(&self, limit: Duration) -> Result<()> {
        let accepted: Vec<u64> = self.counters.all().iter().map(Counter::accepted).collect();
        self.reached(&accepted, limit).await
    }

    /// Waits until so much of each device is shown, or something newer.
    pub(crate) async fn reached(&self, values: &[u64], limit: Duration) -> Result<()> {
        let wanted = || self.counters.all().iter().zip(values);
        until("what was accepted to be shown", limit, || async {
            let seen = self.seen.lock();
            let behind: Vec<String> = wanted()
                .filter_map(|(counter, wanted)| {
                    let shown = seen.value(counter.device());
                    (shown < *wanted).then(|| format!("{} {shown} of {wanted}", counter.device()))
                })
                .collect();
            Ok(Look::when(behind.is_empty(), || {
                format!(
                    "{} behind: {}",
                    behind.len(),
                    behind[..behind.len().min(5)].join(", ")
                )
            }))
        })
        .await?;
        self.check()
    }

    /// Waits until every device's last value is shown, which must be accepted already.
    pub(crate) async fn complete(&self, limit: Duration) -> Result<()> {
        self.caught_up(limit).await?;
        let seen = self.seen.lock();
        for counter in self.counters.all() {
            let (shown, accepted, sent) = (seen.value(counter.device()), counter.accepted(), counter.sent());
            ensure!(
                shown == accepted && accepted == sent,
                "{} is shown as {shown}, accepted {accepted}, sent {sent}",
                counter.device()
            );
        }
        Ok(())
    }

    /// Nothing was shown that was not said, and nothing moved backwards, so far.
    pub(crate) fn check(&self) -> Result<()> {
        let seen = self.seen.lock();
        ensure!(
            seen.faults.is_empty(),
            "{} times something was shown that must not be:\n{}",
            seen.faults.len(),
            seen.faults[..seen.faults.len().min(20)].join("\n")
        );
        Ok(())
    }

    /// How many versions the watch has brought.
    pub(crate) fn versions(&self) -> u64 {
        self.seen.lock().versions
    }
}

async fn take(
    mut events: impl Stream<Item = watcher::Result<Event<DynamicObject>>> + Unpin,
    seen: Arc<Mutex<Seen>>,
    counters: Arc<Counters>,
) {
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(status) | Event::InitApply(status)) = event else {
            continue;
        };
        let device = format!("default/{}", status.metadata.name.unwrap_or_default());
        let Some(counter) = counters.all().iter().find(|counter| counter.device() == device) else {
            continue;
        };
        let shown = value(&status.data);
        seen.lock().judge(&device, shown, counter.sent());
    }
}

/// The value of the property that counts; none if there is none yet.
fn value(status: &Value) -> Option<u64> {
    let twins = status["status"]["twins"].as_array()?;
    let twin = twins.iter().find(|twin| twin["propertyName"] == PROPERTY)?;
    twin["reported"]["value"].as_str()?.parse().ok()
}

impl Seen {
    fn value(&self, device: &str) -> u64 {
        self.values.get(device).copied().unwrap_or_default()
    }

    /// A version of a device that has said so much.
    fn judge(&mut self, device: &str, shown: Option<u64>, sent: u64) {
        self.versions += 1;
        let before = self.value(device);
        let shown = shown.unwrap_or_default();
        if shown < before {
            self.faults
                .push(format!("{device} moved back from {before} to {shown}"));
        }
        if shown > sent {
            self.faults
                .push(format!("{device} is shown as {shown} and has said {sent}"));
        }
        self.values.insert(device.to_owned(), shown);
    }
}
