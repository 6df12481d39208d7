//! The loop of one desired stream. It waits; the publisher decides.
//!
//! One half writes frames in order; the other reads, listens to the cluster and pulls the next
//! frame from the publisher only when the writer has room. A slow edge therefore slows nothing
//! but its own stream, and gets the newest version of each key when it is ready.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use protocol::desired::{Publisher, Request, Violation};
use protocol::object::{Kind, ObjectKey, Revision};
use protocol::transport::{ByteReader, Stream};
use protocol::wire::{DesiredDown, DesiredUp, FrameReader, WireError};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::retry::Retry;
use super::{NodeSource, Source};
use crate::cluster::{BoxError, Cluster, Holder, persist};
use crate::waits::{due, write_all};

/// Frames between publisher and writer: enough to keep the writer busy, few enough to stay fresh.
const AHEAD: usize = 2;

/// A reference that was not read for so long no longer holds a comparison up; its pod still
/// waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a desired stream ended. The edge opens a new one, which starts with a comparison.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DesiredError {
    /// The stream failed, or carried something that is no frame.
    #[error("the desired stream failed")]
    Wire(#[from] WireError),
    /// The edge broke the rules.
    #[error("the edge broke the rules of the desired flow")]
    Violation(#[from] Violation),
}

/// Serves one desired stream of a node until it ends, and says why it did.
pub async fn run(cluster: Cluster, by: Holder, stream: Stream) {
    let node = by.node.clone();
    let source = NodeSource::new(cluster, by);
    match serve(stream, &source).await {
        Ok(()) => debug!(%node, "the desired stream ended"),
        Err(error) => info!(%node, error = &error as &dyn Error, "the desired stream was reset"),
    }
}

/// Serves one desired stream until it ends.
///
/// # Cancel safety
///
/// May be dropped at any point: the next stream compares anew.
pub async fn serve(stream: Stream, source: &dyn Source) -> Result<(), DesiredError> {
    let (frames, waiting) = mpsc::channel(AHEAD);
    let reader = FrameReader::new(stream.recv);
    tokio::select! {
        written = write_all(stream.send, waiting) => Ok(written?),
        served = Shell::new(source).run(reader, frames) => served,
    }
}

type Listed = (Kind, Revision);

struct Shell<'a> {
    source: &'a dyn Source,
    publisher: Publisher,
    /// Pods of which it is to be looked whether the edge has them; all of them, before it has said so.
    unlooked: BTreeSet<ObjectKey>,
    lists: Lists<'a>,
    patience: Option<Instant>,
    retry: Retry,
}

impl<'a> Shell<'a> {
    fn new(source: &'a dyn Source) -> Self {
        Self {
            source,
            publisher: Publisher::new(),
            unlooked: BTreeSet::new(),
            lists: Lists::new(source),
            patience: None,
            retry: Retry::new(),
        }
    }

    async fn run(
        mut self,
        mut reader: FrameReader<ByteReader>,
        frames: mpsc::Sender<DesiredDown>,
    ) -> Result<(), DesiredError> {
        let (kind, revision) = list(self.source, Kind::Pod).await;
        self.publisher.consistent(kind, revision);
        self.unlooked.extend(self.source.view().keys(Kind::Pod));
        self.patience = Some(Instant::now() + PATIENCE);
        let mut next = None;
        loop {
            next = next.or_else(|| self.publisher.poll_transmit(self.source.view()));
            self.start_lists();
            while let Some(pod) = self.publisher.poll_too_large() {
                self.source.too_large(&pod);
                self.unlooked.insert(pod);
            }
            if next.is_none() {
                self.look_for_unheld();
            }
            tokio::select! {
                room = frames.reserve(), if next.is_some() => match (room, next.take()) {
                    (Ok(room), Some(frame)) => room.send(frame),
                    // The writer has ended, and says why.
                    (Err(_), _) | (_, None) => return Ok(()),
                },
                frame = reader.read::<DesiredUp>() => match frame? {
                    Some(frame) => self.publisher.handle_frame(frame)?,
                    None => return Ok(()),
                },
                changed = self.source.changed() => {
                    for key in changed {
                        if key.kind == Kind::Pod {
                            self.unlooked.insert(key.clone());
                        }
                        self.publisher.mark_dirty(key);
                    }
                }
                Some((kind, revision)) = self.lists.running.next() => {
                    if self.lists.done(kind) {
                        self.publisher.consistent(kind, revision);
                    }
                }
                () = due(self.patience) => {
                    self.patience = None;
                    self.publisher.hurry();
                }
                () = due(self.retry.next(self.publisher.has_refused())) => {
                    if self.retry.fire(self.publisher.has_refused()) {
                        self.publisher.retry_refused();
                    }
                }
            }
        }
    }

    /// What was settled and is known not to be at the edge.
    fn look_for_unheld(&mut self) {
        if self.publisher.synced(Kind::Pod) {
            let pods = std::mem::take(&mut self.unlooked);
            let view = self.source.view();
            pods.iter()
                .filter(|pod| self.publisher.is_withheld(view, pod))
                .for_each(|pod| self.source.not_held(pod));
        }
    }

    fn start_lists(&mut self) {
        while let Some(Request::Consistent(kind)) = self.publisher.poll_request() {
            debug!(%kind, "the comparison wants a consistent list");
            self.lists.want(kind);
        }
    }
}

/// Consistent lists under way: one of a kind, and one more remembered, however often the edge begins anew.
struct Lists<'a> {
    source: &'a dyn Source,
    running: FuturesUnordered<BoxFuture<'a, Listed>>,
    turns: [Turn; Kind::ALL.len()],
}

#[derive(Clone, Copy, Default)]
struct Turn {
    running: bool,
    again: bool,
}

impl<'a> Lists<'a> {
    fn new(source: &'a dyn Source) -> Self {
        Self {
            source,
            running: FuturesUnordered::new(),
            turns: Default::default(),
        }
    }

    fn want(&mut self, kind: Kind) {
        let turn = &mut self.turns[kind.index()];
        if turn.running {
            turn.again = true;
            return;
        }
        turn.running = true;
        self.running.push(Box::pin(list(self.source, kind)));
    }

    /// A list has ended; whether it began after the last wish. Otherwise the next begins.
    fn done(&mut self, kind: Kind) -> bool {
        let Turn { again, .. } = std::mem::take(&mut self.turns[kind.index()]);
        if again {
            self.want(kind);
        }
        !again
    }
}

/// Lists until it works: without it, nothing may be compared.
async fn list(source: &dyn Source, kind: Kind) -> Listed {
    let failed = |error: &BoxError| {
        warn!(%kind, error = &**error as &dyn Error, "no consistent list yet; trying again");
    };
    (kind, persist(|| source.consistent(kind), failed).await)
}
