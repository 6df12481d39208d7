//! From a report to DeviceStatus, as a client of the API server sees it.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, pin_mut};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent, WatchParams},
};
use tests::{EdgeMachine, Testbed};
use tokio::time::{Instant, timeout_at};

use super::{
    load::{Pace, Plan},
    payload::Value,
    site,
};
use crate::{figures, show::note};

/// So many devices report once a second.
const REPORTING: u16 = 10;
/// For how long.
const SPAN: Duration = Duration::from_secs(30);

/// The median in milliseconds; each value says when it was sent.
pub(super) async fn measure(testbed: &Testbed, edge: &EdgeMachine) -> Result<f64> {
    let kind = GroupVersionKind::gvk("devices.kubeedge.io", "v1beta1", "DeviceStatus");
    let kind = ApiResource::from_gvk_with_plural(&kind, "devicestatuses");
    let api: Api<DynamicObject> = Api::namespaced_with(testbed.client(), "default", &kind);
    let plan = Plan {
        devices: REPORTING,
        properties: 1,
        value: Value::Time,
        pace: Pace::Rate(f64::from(REPORTING)),
        span: SPAN,
        documents: false,
    };
    let (outcome, took) = tokio::try_join!(site::load(edge, plan), follow(&api))?;
    let rank = |rank| figures::percentile(&took, rank).map(figures::milliseconds);
    let (half, most) = rank(50).zip(rank(90)).context("no DeviceStatus has changed")?;
    note(&format!(
        "{} reports sent, {} shown; after {half:.0} ms, nine of ten after {most:.0} ms",
        outcome.sent,
        took.len()
    ));
    Ok(half)
}

/// How old each value was when the API server told of it.
async fn follow(api: &Api<DynamicObject>) -> Result<Vec<Duration>> {
    let until = Instant::now() + SPAN + Duration::from_secs(3);
    let began = micros()?;
    let events = api.watch(&WatchParams::default(), "0").await?;
    pin_mut!(events);
    let (mut took, mut seen) = (Vec::new(), BTreeSet::new());
    while let Ok(event) = timeout_at(until, events.next()).await {
        let status = match event.context("the watch of DeviceStatus ended")?? {
            WatchEvent::Added(status) | WatchEvent::Modified(status) => status,
            WatchEvent::Error(status) => bail!("the watch broke: {}", status.message),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => continue,
        };
        let now = micros()?;
        let value = status.data["status"]["twins"][0]["reported"]["value"].as_str();
        let sent: u64 = value.and_then(|value| value.parse().ok()).unwrap_or_default();
        // What was reported before is not a time, or an old one.
        if sent > began && seen.insert((status.metadata.name, sent)) {
            took.push(Duration::from_micros(now.saturating_sub(sent)));
        }
    }
    Ok(took)
}

fn micros() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_micros())?)
}
