//! The loop of one reported stream. It waits; the desk decides.
//!
//! Reports of different keys are written in parallel, a bounded number at a time; what another
//! writer changed is written again through the same gate, never beside a report of its own key.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use protocol::name::NodeName;
use protocol::reported::{DEVICE_WINDOW, EVENT_WINDOW, IntakeViolation, OutboxKey, STATE_WINDOW};
use protocol::transport::{ByteReader, Stream};
use protocol::wire::{FrameReader, ReportedDown, ReportedUp, WireError};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info};

use super::desk::{Desk, Job};
use super::{EventWriter, NodePace, NodeWriter, Refusal, Writer};
use crate::cluster::{Cluster, Holder};
use crate::devices::Devices;
use crate::waits::{due, write_all};

/// The pause after which a value that could not be written again is looked at anew. It doubles while there are
/// any.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const RETRY_LATEST: Duration = Duration::from_mins(1);

/// Answers on their way, and again as many that wait for them: as many as reports may be unanswered.
const ANSWERS: usize = STATE_WINDOW + DEVICE_WINDOW + EVENT_WINDOW;

/// Why a reported stream ended. The edge opens a new one and sends again what has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportedError {
    /// The stream failed, or carried something that is no frame.
    #[error("the reported stream failed")]
    Wire(#[from] WireError),
    /// The edge broke the rules.
    #[error("the edge broke the rules of the reported flow")]
    Violation(#[from] IntakeViolation),
}

/// Serves one reported stream of a node's session until it ends, and says why it did.
pub async fn run(cluster: Cluster, devices: &Devices, by: Holder, (stream, pace): (Stream, Arc<NodePace>)) {
    let node = by.node.clone();
    let writer = NodeWriter::new(cluster, devices, by);
    ended(&node, serve(stream, &writer, pace).await);
}

/// Serves one stream of events of a node's session until it ends, and says why it did.
pub async fn events(cluster: Cluster, node: NodeName, stream: Stream, pace: Arc<NodePace>) {
    let writer = EventWriter::new(cluster, node.clone());
    ended(&node, serve(stream, &writer, pace).await);
}

fn ended(node: &NodeName, served: Result<(), ReportedError>) {
    match served {
        Ok(()) => debug!(%node, "the reported stream ended"),
        Err(error) => info!(%node, error = &error as &dyn Error, "the reported stream was reset"),
    }
}

/// Serves one reported stream until it ends, at the pace of its node.
///
/// # Cancel safety
///
/// May be dropped at any point: a write whose answer is lost is reported again.
pub async fn serve(stream: Stream, writer: &dyn Writer, pace: Arc<NodePace>) -> Result<(), ReportedError> {
    let (answers, waiting) = mpsc::channel(ANSWERS);
    let reader = FrameReader::new(stream.recv);
    tokio::select! {
        written = write_all(stream.send, waiting) => Ok(written?),
        served = Shell::new(writer, pace).run(reader, answers) => served,
    }
}

/// A write that has ended.
struct Done {
    job: Job,
    result: Result<(), Refusal>,
}

struct Shell<'a> {
    writer: &'a dyn Writer,
    desk: Desk,
    running: FuturesUnordered<BoxFuture<'a, Done>>,
    out: VecDeque<ReportedDown>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
}

impl<'a> Shell<'a> {
    fn new(writer: &'a dyn Writer, pace: Arc<NodePace>) -> Self {
        Self {
            writer,
            desk: Desk::paced(pace, writer.carries()),
            running: FuturesUnordered::new(),
            out: VecDeque::new(),
            retry_at: None,
            retry_pause: RETRY_AFTER,
        }
    }

    async fn run(
        mut self,
        mut reader: FrameReader<ByteReader>,
        answers: mpsc::Sender<ReportedDown>,
    ) -> Result<(), ReportedError> {
        self.writer.ready().await;
        let writer = self.writer;
        let shown = |key: &OutboxKey, payload: &[u8]| writer.shown(key, payload);
        loop {
            while let Some(job) = self.desk.poll_job(&shown, Instant::now()) {
                self.start(job);
            }
            if self.desk.has_failed() {
                let pause = self.retry_pause;
                self.retry_at.get_or_insert_with(|| Instant::now() + pause);
            } else if self.desk.is_settled() {
                self.retry_pause = RETRY_AFTER;
            }
            self.out.extend(std::iter::from_fn(|| self.desk.poll_transmit()));
            let opens = self.desk.opens(Instant::now());
            tokio::select! {
                room = answers.reserve(), if !self.out.is_empty() => match (room, self.out.pop_front()) {
                    (Ok(room), Some(answer)) => room.send(answer),
                    // The writer has ended, and says why.
                    (Err(_), _) | (_, None) => return Ok(()),
                },
                // What is refused unread takes no window: an edge that reads no answers is not read either.
                frame = reader.read::<ReportedUp>(), if self.out.len() < ANSWERS => match frame? {
                    Some(frame) => self.desk.handle_frame(frame)?,
                    None => return Ok(()),
                },
                Some(Done { job, result }) = self.running.next() => self.desk.done(job, result, &shown),
                () = due(self.retry_at) => {
                    self.retry_at = None;
                    self.retry_pause = (self.retry_pause * 2).min(RETRY_LATEST);
                    self.desk.retry(&shown);
                }
                () = due(opens) => {}
                changed = self.writer.changed() => self.desk.changed(&changed, &shown),
            }
        }
    }

    fn start(&self, job: Job) {
        let writer = self.writer;
        self.running.push(Box::pin(async move {
            let result = writer.write(&job.key, &job.payload).await;
            Done { job, result }
        }));
    }
}
