//! What a worker is told, and what that changes at once.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Worker;
use super::ground::Ahead;
use super::holds::Holds;
use crate::pods::desired::DesiredPod;
use crate::pods::eviction::Eviction;
use crate::pods::lifecycle::{self, Stage};
use crate::pods::spec;
use crate::pods::status;

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct Order {
    /// The pod.
    pub desired: Arc<DesiredPod>,
    /// The cluster does not want it any more: end it, and do not report.
    pub removed: bool,
    /// Another pod of its name is wanted, and waits for this one's end.
    pub followed: bool,
    /// It has to go so that the device lives, or because it exceeds a limit.
    pub evicted: Option<Arc<Eviction>>,
    /// Counts changes of the objects that pods name.
    pub objects: u64,
}

/// The grace of an order to end, if it is one.
pub(super) fn ordered_end(order: &Order) -> Option<i64> {
    let pod = &order.desired.pod;
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let asked = pod.metadata.deletion_grace_period_seconds;
    let ended = (deleted || order.removed).then(|| asked.unwrap_or_else(|| lifecycle::spec_grace(pod)));
    let evicted = order.evicted.as_ref().map(|eviction| eviction.grace_seconds);
    [ended, evicted].into_iter().flatten().min()
}

/// Ends when the pod is ordered to end sooner than `than` (in seconds).
pub(super) async fn ordered_to_end_sooner(mut orders: watch::Receiver<Order>, than: i64) {
    let sooner = |order: &Order| ordered_end(order).is_some_and(|grace| grace < than);
    if orders.wait_for(sooner).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Worker {
    /// Takes the latest order. Once the pod ends it never runs again, and its grace only shrinks.
    pub(super) fn obey(&mut self) {
        let mut latest = self.orders.borrow_and_update().clone();
        latest.desired = self.resizing.follow(latest.desired, &self.order.desired);
        let before = std::mem::replace(&mut self.order, latest);
        if !Arc::ptr_eq(&before.desired, &self.order.desired) {
            self.follow_changes(&before.desired.pod);
        }
        if self.order.objects != self.objects_seen {
            self.objects_seen = self.order.objects;
            self.holds = Holds {
                stops: std::mem::take(&mut self.holds.stops),
                ..Holds::default()
            };
            self.refresh_at = Some(Instant::now());
        }
        if let Some(eviction) = self.order.evicted.clone() {
            self.evict(&eviction);
        }
        if let Some(grace_seconds) = ordered_end(&self.order) {
            self.begin_end(grace_seconds);
        } else if self.has_ended_before() {
            self.begin_end(self.grace_of_the_ended());
        }
    }

    /// What may change of a pod that runs: its files say its labels and annotations, its deadline may come nearer,
    /// and a container may get another image.
    fn follow_changes(&mut self, before: &Pod) {
        self.refresh_at = Some(Instant::now());
        self.let_go_of_other_versions(before);
        let deadline = |pod: &Pod| spec::spec(pod).and_then(|spec| spec.active_deadline_seconds);
        if deadline(before) != deadline(self.pod()) {
            self.history.deadline = self.deadline();
        }
    }

    pub(super) fn begin_end(&mut self, grace_seconds: i64) {
        let grace_seconds = match self.stage {
            Stage::Running => {
                let (told, now) = (self.reported.as_ref(), self.status());
                self.end.uninitialized = !status::is_initialized(self.pod(), told, &now);
                self.ending = Some(self.kit.endings.begin());
                self.ahead = Ahead::default();
                self.resizing.end();
                grace_seconds
            }
            Stage::Ending {
                grace_seconds: before,
            } => before.min(grace_seconds),
        };
        self.stage = Stage::Ending { grace_seconds };
    }

    /// When `activeDeadlineSeconds` is over, counted from the start that was reported.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let seconds = spec::spec(self.pod())?.active_deadline_seconds?;
        let started = self.known_statuses().find_map(|status| status.start_time.clone());
        let since = started.map_or(0, |at| {
            status::time(self.kit.clock.now()).0.as_second() - at.0.as_second()
        });
        let left = u64::try_from(seconds.saturating_sub(since.max(0))).unwrap_or(0);
        Some(Instant::now() + Duration::from_secs(left))
    }
}
