//! The loop of one reported stream. It waits; the intake orders, the memory remembers.
//!
//! Reports of different keys are written in parallel, a bounded number at a time; what another
//! writer changed is written again through the same gate, never beside a report of its own key.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::error::Error;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use protocol::name::NodeName;
use protocol::reported::{
    EVENT_WINDOW, Intake, IntakeViolation, OutboxKey, Outcome, STATE_WINDOW, Seq, Write,
};
use protocol::transport::{ByteReader, ByteWriter, Stream};
use protocol::wire::{FrameReader, FrameWriter, ReportedDown, ReportedUp, WireError};
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::memory::Memory;
use super::{NodeWriter, Refusal, Shown, Writer};
use crate::cluster::Cluster;

/// Writes of one node at a time: its burst must not take the API server from other nodes.
const PARALLEL: usize = 16;

/// Answers on their way: never more than reports are unanswered.
const ANSWERS: usize = STATE_WINDOW + EVENT_WINDOW;

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

/// Serves one reported stream of a node until it ends, and says why it did.
pub async fn run(cluster: Cluster, node: NodeName, stream: Stream) {
    let writer = NodeWriter::new(cluster, node.clone());
    match serve(stream, &writer).await {
        Ok(()) => debug!(%node, "the reported stream ended"),
        Err(error) => info!(%node, error = &error as &dyn Error, "the reported stream was reset"),
    }
}

/// Serves one reported stream until it ends.
///
/// # Cancel safety
///
/// May be dropped at any point: a write whose answer is lost is reported again.
pub async fn serve(stream: Stream, writer: &dyn Writer) -> Result<(), ReportedError> {
    let (answers, waiting) = mpsc::channel(ANSWERS);
    let reader = FrameReader::new(stream.recv);
    tokio::select! {
        written = write_all(stream.send, waiting) => Ok(written?),
        served = Shell::new(writer).run(reader, answers) => served,
    }
}

async fn write_all(send: ByteWriter, mut answers: mpsc::Receiver<ReportedDown>) -> Result<(), WireError> {
    let mut writer = FrameWriter::new(send);
    while let Some(answer) = answers.recv().await {
        writer.write(&answer).await?;
    }
    // The other half has ended, and says why.
    std::future::pending().await
}

/// A write that has ended.
struct Done {
    /// The report it answers; none if it only repeats one.
    seq: Option<Seq>,
    key: OutboxKey,
    payload: Vec<u8>,
    result: Result<(), Refusal>,
}

struct Shell<'a> {
    writer: &'a dyn Writer,
    intake: Intake,
    memory: Memory,
    running: FuturesUnordered<BoxFuture<'a, Done>>,
    busy: BTreeSet<OutboxKey>,
    /// Reports that wait until an older value of their key is written again.
    held: Vec<Write>,
    out: VecDeque<ReportedDown>,
}

impl<'a> Shell<'a> {
    fn new(writer: &'a dyn Writer) -> Self {
        Self {
            writer,
            intake: Intake::new(),
            memory: Memory::default(),
            running: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            held: Vec::new(),
            out: VecDeque::new(),
        }
    }

    async fn run(
        mut self,
        mut reader: FrameReader<ByteReader>,
        answers: mpsc::Sender<ReportedDown>,
    ) -> Result<(), ReportedError> {
        self.writer.ready().await;
        loop {
            self.start_writes();
            self.out
                .extend(std::iter::from_fn(|| self.intake.poll_transmit()));
            tokio::select! {
                room = answers.reserve(), if !self.out.is_empty() => match (room, self.out.pop_front()) {
                    (Ok(room), Some(answer)) => room.send(answer),
                    // The writer has ended, and says why.
                    (Err(_), _) | (_, None) => return Ok(()),
                },
                frame = reader.read::<ReportedUp>() => match frame? {
                    Some(frame) => self.intake.handle_frame(frame)?,
                    None => return Ok(()),
                },
                Some(done) = self.running.next() => self.done(done),
                changed = self.writer.changed() => {
                    for key in self.memory.about(&changed) {
                        self.repeat_if_needed(&key);
                    }
                }
            }
        }
    }

    /// Starts the writes that may start.
    fn start_writes(&mut self) {
        while self.running.len() < PARALLEL {
            let Some(write) = self.intake.poll_write() else {
                return;
            };
            if self.busy.contains(subject(&write.key).as_ref()) {
                self.held.push(write);
            } else {
                self.take(write);
            }
        }
    }

    /// Writes a report; what the API server shows already is answered at once.
    fn take(&mut self, write: Write) {
        if self.writer.shown(&write.key, &write.payload) == Shown::Same {
            self.memory.remember(&write.key, &write.payload);
            self.intake.done(write.seq, Outcome::Committed);
            return;
        }
        self.memory.forget(&write.key);
        self.start(Some(write.seq), write.key, write.payload);
    }

    fn start(&mut self, seq: Option<Seq>, key: OutboxKey, payload: Vec<u8>) {
        let writer = self.writer;
        self.busy.insert(key.clone());
        self.running.push(Box::pin(async move {
            let result = writer.write(&key, &payload).await;
            Done {
                seq,
                key,
                payload,
                result,
            }
        }));
    }

    fn done(
        &mut self,
        Done {
            seq,
            key,
            payload,
            result,
        }: Done,
    ) {
        self.busy.remove(&key);
        if result.is_ok() {
            self.memory.remember(&key, &payload);
        }
        if let Err(refusal) = &result {
            debug!(%key, text = refusal.text, "refused");
        }
        if let Some(seq) = seq {
            self.intake.done(seq, outcome(result));
        }
        match self.held.iter().position(|write| *subject(&write.key) == key) {
            Some(held) => {
                let write = self.held.swap_remove(held);
                self.take(write);
            }
            // Another writer may have come in while this one was under way.
            None => self.repeat_if_needed(&key),
        }
    }

    /// Writes a value again that another writer has replaced.
    fn repeat_if_needed(&mut self, key: &OutboxKey) {
        if self.busy.contains(key) {
            return;
        }
        let Some(payload) = self.memory.payload(key) else {
            return;
        };
        let shown = self.writer.shown(key, &payload);
        if self.memory.should_repeat(key, shown) {
            info!(%key, "another writer changed what the node had reported; it is written again");
            self.start(None, key.clone(), payload);
        }
    }
}

/// What must not be written at the same time: the end of a pod waits for its status.
fn subject(key: &OutboxKey) -> Cow<'_, OutboxKey> {
    match key {
        OutboxKey::Gone(pod) => Cow::Owned(OutboxKey::Pod(pod.clone())),
        OutboxKey::Node | OutboxKey::Pod(_) | OutboxKey::Event { .. } => Cow::Borrowed(key),
    }
}

fn outcome(result: Result<(), Refusal>) -> Outcome {
    match result {
        Ok(()) => Outcome::Committed,
        Err(Refusal { code, text }) => Outcome::Refused { code, text },
    }
}
