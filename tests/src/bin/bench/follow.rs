//! Following many pods through one watch, and noting when each of them reaches a milestone.

use std::{collections::BTreeMap, future::Future, time::Duration};

use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use tests::pods;
use tokio::time::{Instant, timeout};

use crate::stage::PATIENCE;

/// What a pod is followed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Milestone {
    /// Its phase is Running.
    Running,
    /// The API server has it no more.
    Gone,
}

impl Milestone {
    fn reached(self, event: &WatchEvent<Pod>) -> Result<Option<&Pod>> {
        Ok(match (self, event) {
            (_, WatchEvent::Error(status)) => bail!("the watch broke: {}", status.message),
            (Self::Running, WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                let phase = pods::phase(pod);
                if matches!(phase, "Failed" | "Succeeded") {
                    bail!("it ended:\n{}", pods::table(std::slice::from_ref(pod)));
                }
                (phase == "Running").then_some(pod)
            }
            (Self::Gone, WatchEvent::Deleted(pod)) => Some(pod),
            (
                _,
                WatchEvent::Added(_)
                | WatchEvent::Modified(_)
                | WatchEvent::Deleted(_)
                | WatchEvent::Bookmark(_),
            ) => None,
        })
    }
}

/// How long after the beginning of `act` each of `count` pods labelled `app` was there, in that order.
///
/// The watch takes a connection for itself; another is open when the time begins, as the floor's to the runtime is.
pub(crate) async fn times(
    api: &Api<Pod>,
    (app, count): (&str, usize),
    milestone: Milestone,
    act: impl Future<Output = Result<()>>,
) -> Result<Vec<Duration>> {
    let only = WatchParams::default().labels(&format!("app={app}"));
    // From the present on: the watch is open when this returns.
    let events = Box::pin(api.watch(&only, "0")).await?;
    Box::pin(open_another(api)).await?;
    let started = Instant::now();
    let noted = Box::pin(timeout(PATIENCE, note(events, count, milestone, started)));
    let (times, ()) = tokio::try_join!(
        async {
            noted
                .await
                .with_context(|| format!("{count} pods {app} not {milestone:?} within {PATIENCE:?}"))?
        },
        Box::pin(act)
    )?;
    Ok(times)
}

/// Leaves the client a connection that nothing uses.
async fn open_another(api: &Api<Pod>) -> Result<()> {
    api.clone().into_client().apiserver_version().await?;
    Ok(())
}

async fn note(
    events: impl Stream<Item = kube::Result<WatchEvent<Pod>>>,
    count: usize,
    milestone: Milestone,
    started: Instant,
) -> Result<Vec<Duration>> {
    pin_mut!(events);
    let mut times = BTreeMap::new();
    while times.len() < count {
        let event = events.next().await.context("the watch of the pods ended")??;
        if let Some(pod) = milestone.reached(&event)? {
            times
                .entry(pods::name(pod).to_owned())
                .or_insert_with(|| started.elapsed());
        }
    }
    let mut times: Vec<Duration> = times.into_values().collect();
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod unit {
    use super::*;

    fn event(kind: &str, phase: &str) -> WatchEvent<Pod> {
        let pod = serde_json::json!({ "metadata": { "name": "one" }, "status": { "phase": phase } });
        serde_json::from_value(serde_json::json!({ "type": kind, "object": pod })).unwrap()
    }

    #[test]
    fn running_is_a_phase_and_gone_is_a_deletion() {
        let reached = |milestone: Milestone, event| milestone.reached(&event).unwrap().is_some();
        assert!(reached(Milestone::Running, event("MODIFIED", "Running")));
        assert!(!reached(Milestone::Running, event("MODIFIED", "Pending")));
        assert!(!reached(Milestone::Running, event("DELETED", "Running")));
        assert!(reached(Milestone::Gone, event("DELETED", "Running")));
        assert!(!reached(Milestone::Gone, event("MODIFIED", "Running")));
    }

    #[test]
    fn a_pod_that_ends_will_never_run() {
        assert!(Milestone::Running.reached(&event("MODIFIED", "Failed")).is_err());
    }
}
