//! The reported stream: sends what is due, and settles what the cloud answers.
//!
//! An answer only says that an entry may go from the disk. It waits for the next report, or a second: in a
//! burst hundreds of answers share a few writes, and no report waits behind one. An entry whose answer is
//! lost with the power is sent once more, which changes nothing.

use std::time::Duration;

use protocol::reported::{Carries, Class, OutboxError, OutboxKey, RefusalCode, Seq, Settled, SettledAs};
use protocol::transport::Stream;
use protocol::wire::{
    FrameReader, FrameWriter, ReportKey, ReportedDown, ReportedUp, WireError, report_key, reported_down,
    reported_up,
};
use thiserror::Error;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Reporter, Table};
use crate::store::{Op, StoreError};

/// When nothing is due, the shell looks again after this.
const IDLE: Duration = Duration::from_mins(10);

/// How long an answered entry may stay on the disk.
const SETTLE: Duration = Duration::from_secs(1);

/// How soon after a budget has renewed events go again.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// After a write that the disk had no room for.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Why the reported stream ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// The stream failed.
    #[error("the reported stream failed")]
    Wire(#[from] WireError),
    /// The cloud broke the protocol.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// An answer could not be made durable.
    #[error("the outbox could not be written")]
    Store(#[from] StoreError),
}

/// What goes on a stream.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// What it carries.
    pub carries: Carries,
    /// Whether events wait, asked before each.
    pub defers: &'a (dyn Fn() -> bool + Sync),
    /// Told of each report that the API server has.
    pub took: &'a (dyn Fn() + Sync),
}

impl Way<'_> {
    /// What may go now.
    fn now(self) -> Option<Carries> {
        if self.carries.has(Class::Event) && (self.defers)() {
            self.carries.without_events()
        } else {
            Some(self.carries)
        }
    }
}

impl Reporter {
    /// Serves one stream of reports until it ends or `stop`.
    pub async fn serve(
        &self,
        stream: Stream,
        way: Way<'_>,
        stop: &CancellationToken,
    ) -> Result<(), FlowError> {
        self.connected(way.carries).await?;
        let served = self.exchange(stream, way, stop).await;
        self.book.lock().outbox.disconnected(way.carries);
        is_written(self.write_all().await)?;
        served
    }

    /// Forgets what was kept of a pod that the cluster does not know any more.
    pub async fn forget(&self, uid: &str) -> Result<(), StoreError> {
        let mine = {
            let mut book = self.book.lock();
            let pod = book.statuses.get(uid).map(|last| last.pod.clone());
            if let Some(pod) = pod {
                let change = book.outbox.forget(&pod);
                book.note(change, Table::Outbox);
            }
            book.forget_status(uid);
            book.made
        };
        self.write(mine).await
    }

    async fn connected(&self, carries: Carries) -> Result<(), StoreError> {
        {
            let mut book = self.book.lock();
            let change = book.outbox.connected(carries);
            book.note(change, Table::Outbox);
        }
        is_written(self.write_all().await)?;
        Ok(())
    }

    async fn exchange(
        &self,
        stream: Stream,
        way: Way<'_>,
        stop: &CancellationToken,
    ) -> Result<(), FlowError> {
        let mut reader = FrameReader::new(stream.recv);
        let mut writer = FrameWriter::new(stream.send);
        let mut settle_at = None;
        let mut reserve_at = Instant::now();
        loop {
            // A number is reserved before it is used; for most reports it is, long since. Where the disk has no
            // room even for that, it is used all the same, or the node could not say that its disk is full.
            if self.book.lock().reserves() && reserve_at <= Instant::now() {
                is_written(self.write_all().await)?;
                reserve_at = Instant::now() + AFTER_FAILURE;
            }
            let due = self.due(way);
            is_written(self.overtake(&due).await)?;
            for report in &due {
                tokio::select! {
                    // A class that is held to a rate may wait for long.
                    () = stop.cancelled() => return Ok(()),
                    written = writer.write(report) => written?,
                }
            }
            if !due.is_empty() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.changed(way.carries) => {}
                () = sleep(self.pause(way)) => {}
                () = reached(settle_at) => {
                    let written = is_written(self.write_all().await)?;
                    settle_at = (!written).then(|| Instant::now() + AFTER_FAILURE);
                }
                frame = reader.read::<ReportedDown>() => match frame? {
                    Some(frame) => {
                        if self.answered(frame)? {
                            (way.took)();
                        }
                        settle_at.get_or_insert_with(|| Instant::now() + SETTLE);
                    }
                    None => return Ok(()),
                }
            }
        }
    }

    /// All that may go now; of events one at a time, for each may be the last that the budget allows.
    fn due(&self, way: Way<'_>) -> Vec<ReportedUp> {
        let mut due = Vec::new();
        while let Some(report) = way.now().and_then(|carries| self.next(carries)) {
            let is_event = is_event(&report);
            due.push(report);
            if is_event {
                break;
            }
        }
        due
    }

    pub(super) fn next(&self, carries: Carries) -> Option<ReportedUp> {
        let now = self.began.elapsed();
        self.book.lock().outbox.poll_transmit(carries, now)
    }

    async fn changed(&self, carries: Carries) {
        tokio::select! {
            () = self.changed.notified(), if carries.has(Class::State) => {}
            () = self.told.notified(), if carries.has(Class::Event) => {}
        }
    }

    fn pause(&self, way: Way<'_>) -> Duration {
        let now = self.began.elapsed();
        let deferred = way.now() != Some(way.carries);
        let book = self.book.lock();
        let due = book.outbox.poll_timeout(way.carries, now);
        let due = due.map_or(IDLE, |due| due.saturating_sub(now));
        if deferred && book.outbox.pending_events() > 0 {
            due.min(LOOK_AGAIN)
        } else {
            due
        }
    }

    /// Whether the API server has one more.
    fn answered(&self, frame: ReportedDown) -> Result<bool, OutboxError> {
        let now = self.began.elapsed();
        let mut book = self.book.lock();
        let answered = frame.kind.as_ref().and_then(answered_number);
        let Some(settled) = book.outbox.handle_frame(frame, now, rand::random::<f64>())? else {
            return Ok(false);
        };
        book.settle(&settled);
        if let (OutboxKey::Device(device), Some(seq)) = (&settled.key, answered) {
            book.settle_device(device, seq, settled.outcome);
        }
        Ok(settled.outcome == SettledAs::Committed)
    }
}

/// Whether it is on the disk. A full disk ends no stream, for the API server can take reports all the
/// same. Numbers that could not be reserved may then be used again after a crash: no stream outlives one, and
/// no entry is on the disk before the reservation of its number.
fn is_written(written: Result<(), StoreError>) -> Result<bool, StoreError> {
    match written {
        Err(error) if error.breaks() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "changes of the outbox wait in memory");
            Ok(false)
        }
        Ok(()) => Ok(true),
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn is_event(report: &ReportedUp) -> bool {
    let Some(reported_up::Kind::Report(report)) = &report.kind else {
        return false;
    };
    matches!(
        &report.key,
        Some(ReportKey {
            kind: Some(report_key::Kind::Event(_))
        })
    )
}

/// The number of the report that a frame answers.
const fn answered_number(frame: &reported_down::Kind) -> Option<Seq> {
    match frame {
        reported_down::Kind::Committed(committed) => Some(Seq(committed.seq)),
        reported_down::Kind::Refused(refused) => Some(Seq(refused.seq)),
        reported_down::Kind::OwnedSame(_)
        | reported_down::Kind::OwnedDiffer(_)
        | reported_down::Kind::OwnedWanted(_) => None,
    }
}

/// Whether a report is dropped because its pod was removed, as each is in the end: one whose sandbox never came is
/// removed by cloudcore itself, and so is one that somebody deletes by force.
const fn is_ordinary(report: &OutboxKey, code: RefusalCode) -> bool {
    matches!(
        (report, code),
        (OutboxKey::Pod(_) | OutboxKey::Gone(_), RefusalCode::Gone)
    )
}

impl super::Book {
    fn settle(&mut self, settled: &Settled) {
        if let SettledAs::Dropped(code) = settled.outcome {
            if is_ordinary(&settled.key, code) {
                tracing::debug!(report = %settled.key, "the cluster does not have the pod any more");
            } else {
                tracing::warn!(report = %settled.key, ?code, "the API server will never take a report; it is dropped");
            }
        }
        if let Some(seq) = settled
            .delete
            .filter(|_| !matches!(settled.key, OutboxKey::Device(_)))
        {
            let table = if settled.key.is_event() {
                Table::Event
            } else {
                Table::Outbox
            };
            self.keep(table, super::entry_key(seq), Op::Delete);
        }
        match (&settled.key, settled.outcome) {
            // The cluster knows that the pod has gone, or does not know the pod any more.
            (OutboxKey::Gone(pod), SettledAs::Committed | SettledAs::Dropped(_))
            | (OutboxKey::Pod(pod), SettledAs::Dropped(_)) => self.forget_status(&pod.uid),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_pod_was_removed_is_no_trouble_and_any_other_loss_is() {
        let pod = super::super::identity(&k8s_openapi::api::core::v1::Pod::default());
        let (namespace, name) = ("n".to_owned(), "e".to_owned());
        for (key, code, is) in [
            (OutboxKey::Gone(pod.clone()), RefusalCode::Gone, true),
            (OutboxKey::Pod(pod.clone()), RefusalCode::Gone, true),
            (OutboxKey::Pod(pod), RefusalCode::Unreadable, false),
            (OutboxKey::Node, RefusalCode::Gone, false),
            (OutboxKey::Event { namespace, name }, RefusalCode::Gone, false),
        ] {
            assert_eq!(is_ordinary(&key, code), is, "{key} {code:?}");
        }
    }
}
