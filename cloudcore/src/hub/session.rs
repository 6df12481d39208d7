//! One session, from the first stream to the end.
//!
//! Decisions are in `greeting`, `liveness`, `registry` and the authority; here they are waited for
//! and carried out. Everything a session starts ends with it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use protocol::{
    name::shown,
    tls::PeerIdentity,
    transport::{ByteReader, ByteWriter, CloseCode, Connection, Stream, TransportError, counted},
    wire::{
        BeatAck, Degraded, FrameReader, FrameWriter, Goodbye, Open, SessionDown, SessionUp, Superseded,
        WireError, session_down, session_up,
    },
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

use super::{
    Shared,
    admission::Place,
    greet::{self, Greeted},
    lease::{self, Note},
    liveness::Liveness,
    recheck::Rechecks,
    registry::Registered,
    renewal::{self, Renewals},
    streams::Streams,
};
use crate::enroll::Rejected;

/// What one frame to an edge may take: beyond it the edge does not read.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// What a last word may take to arrive.
const WORD_LIMIT: Duration = Duration::from_secs(1);
/// Edges of a replica that shuts down come back spread over this time.
const DRAIN_SPREAD_MS: u64 = 3000;

/// Why a session ended.
#[derive(Debug, Error)]
enum Ending {
    #[error("the edge left: {0}")]
    EdgeLeft(String),
    #[error("no beat came")]
    Silent,
    #[error("the connection is gone")]
    Lost(#[source] TransportError),
    #[error("superseded by {0}")]
    Superseded(String),
    #[error(transparent)]
    Forbidden(Rejected),
    #[error("the node's certificate has ended")]
    Expired,
    #[error("nobody renews the node's lease any more")]
    Unrenewed,
    #[error("cloudcore shuts down")]
    Draining,
    #[error("the edge broke the protocol: {0}")]
    Violation(String),
}

impl Ending {
    /// What the peer is told when the connection is closed.
    const fn code(&self) -> CloseCode {
        match self {
            Self::EdgeLeft(_) | Self::Lost(_) => CloseCode::Done,
            Self::Silent => CloseCode::Silent,
            Self::Superseded(_) => CloseCode::Superseded,
            Self::Forbidden(_) | Self::Expired => CloseCode::Forbidden,
            Self::Unrenewed | Self::Draining => CloseCode::GoingAway,
            Self::Violation(_) => CloseCode::Protocol,
        }
    }
}

/// What may happen to a session.
enum Happening {
    Frame(Result<Option<SessionUp>, WireError>),
    Stream(Result<(Open, Stream), TransportError>),
    Note(Note),
    KeysChanged,
    Renewal(renewal::Outcome),
    End(Ending),
}

/// Serves one connection to its end. `place` is held until the session is taken: a certificate
/// that was banned proves nothing.
pub(super) async fn serve(
    shared: Arc<Shared>,
    connection: Arc<dyn Connection>,
    place: Place,
    stop: CancellationToken,
) {
    let Some(peer) = connection.peer().cloned() else {
        return;
    };
    let connection = counted(connection, &shared.traffic);
    let span = info_span!("session", node = %peer.node, remote = %peer.address);
    let work = async {
        let greeted = greet::greet(&shared, &*connection, &peer, &place).await;
        drop(place);
        match greeted {
            Ok(greeted) => Box::pin(live(shared, connection, greeted, stop)).await,
            Err(why) => info!(why, "the session was not taken"),
        }
    };
    work.instrument(span).await;
}

async fn live(
    shared: Arc<Shared>,
    connection: Arc<dyn Connection>,
    greeted: Greeted,
    stop: CancellationToken,
) {
    let Greeted {
        info,
        registered,
        lease,
        reader,
        writer,
        changes,
    } = greeted;
    let transport = connection.transport();
    info!(session = info.session, %transport, "up");
    let liveness = Arc::new(Mutex::new(Liveness::new(transport, Instant::now())));
    let (note, notes) = mpsc::channel(4);
    let mut renewing = JoinSet::new();
    let leases = Arc::clone(&shared.settings.leases);
    renewing.spawn(lease::renew(lease, leases, Arc::clone(&liveness), note).in_current_span());
    let mut session = Live {
        changes,
        rechecks: Rechecks::default(),
        streams: Streams::new(info.clone(), Arc::clone(&shared.settings.services)),
        renewals: Renewals::default(),
        peer: info.peer,
        lost: info.lost,
        shared,
        connection,
        registered,
        reader,
        writer,
        liveness,
        notes,
        stop,
    };
    let ending = session.run().await;
    info!(why = &ending as &dyn std::error::Error, "down");
    session.leave(ending).await;
}

/// A session that is up.
struct Live {
    shared: Arc<Shared>,
    connection: Arc<dyn Connection>,
    peer: PeerIdentity,
    lost: CancellationToken,
    registered: Registered,
    reader: FrameReader<ByteReader>,
    writer: FrameWriter<ByteWriter>,
    liveness: Arc<Mutex<Liveness>>,
    streams: Streams,
    renewals: Renewals,
    changes: watch::Receiver<u64>,
    rechecks: Rechecks,
    notes: mpsc::Receiver<Note>,
    stop: CancellationToken,
}

impl Live {
    async fn run(&mut self) -> Ending {
        loop {
            let done = match self.next().await {
                Happening::Frame(frame) => self.heard(frame).await,
                Happening::Stream(Ok((open, stream))) => {
                    self.streams.take(open, stream);
                    Ok(())
                }
                Happening::Stream(Err(error)) => Err(Ending::Lost(error)),
                Happening::Note(Note::Superseded(by)) => Err(Ending::Superseded(by)),
                Happening::Note(Note::BrokeOff) => Err(Ending::Unrenewed),
                Happening::Note(Note::Degraded) => {
                    let reason = "the API server does not answer this replica, or refuses it".to_owned();
                    self.say(session_down::Kind::Degraded(Degraded { reason })).await
                }
                Happening::KeysChanged => {
                    self.rechecks.changed();
                    Ok(())
                }
                Happening::Renewal(outcome) => self.renewed(outcome).await,
                Happening::End(ending) => Err(ending),
            };
            if let Err(ending) = done {
                return ending;
            }
        }
    }

    async fn next(&mut self) -> Happening {
        let deadline = self.liveness.lock().deadline();
        let authority = &self.shared.settings.authority;
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Happening::End(Ending::Draining),
            Ok(by) = &mut self.registered.superseded => Happening::End(Ending::Superseded(by)),
            note = lease::next(&mut self.notes) => Happening::Note(note),
            Ok(()) = self.changes.changed() => Happening::KeysChanged,
            rejected = self.rechecks.rejected(authority, &self.peer) => Happening::End(Ending::Forbidden(rejected)),
            outcome = self.renewals.done() => Happening::Renewal(outcome),
            frame = self.reader.read() => Happening::Frame(frame),
            stream = self.connection.accept() => Happening::Stream(stream),
            () = sleep_until(deadline) => Happening::End(Ending::Silent),
        }
    }

    async fn heard(&mut self, frame: Result<Option<SessionUp>, WireError>) -> Result<(), Ending> {
        let kind = match frame {
            Ok(Some(frame)) => frame.kind,
            Ok(None) => return Err(Ending::EdgeLeft("the session stream ended".to_owned())),
            Err(WireError::Io(error)) => return Err(Ending::EdgeLeft(error.to_string())),
            Err(error) => return Err(Ending::Violation(error.to_string())),
        };
        match kind {
            Some(session_up::Kind::Beat(beat)) => {
                if self.shared.settings.clock.now() > self.peer.expires {
                    return Err(Ending::Expired);
                }
                self.liveness.lock().beat(beat.progress, Instant::now());
                let server_time_ms = self.shared.settings.clock.now_millis();
                self.say(session_down::Kind::BeatAck(BeatAck {
                    seq: beat.seq,
                    server_time_ms,
                }))
                .await
            }
            Some(session_up::Kind::Renew(asked)) => {
                let authority = &self.shared.settings.authority;
                match self.renewals.begin(authority, &self.peer, asked.csr) {
                    Ok(()) => Ok(()),
                    Err(refused) => self.say(session_down::Kind::RenewRefused(refused)).await,
                }
            }
            Some(session_up::Kind::Goodbye(goodbye)) => Err(Ending::EdgeLeft(shown(&goodbye.reason))),
            Some(session_up::Kind::Hello(_)) => Err(Ending::Violation("a second Hello".to_owned())),
            // A newer edge may say what this version does not know.
            None => Ok(()),
        }
    }

    async fn renewed(&mut self, outcome: renewal::Outcome) -> Result<(), Ending> {
        let word = renewal::told(outcome, &mut self.peer);
        self.registered.extend(self.peer.expires);
        self.say(word).await
    }

    async fn say(&mut self, kind: session_down::Kind) -> Result<(), Ending> {
        match timeout(WRITE_LIMIT, self.writer.write(&SessionDown { kind: Some(kind) })).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Ending::EdgeLeft(error.to_string())),
            Err(_) => Err(Ending::Silent),
        }
    }

    /// The last words, the grace of the tunnels, the end of the connection.
    async fn leave(mut self, ending: Ending) {
        self.lost.cancel();
        self.streams.end_flows();
        if let Ending::Superseded(by) = &ending {
            self.last_words(session_down::Kind::Superseded(Superseded { by: by.clone() }))
                .await;
        }
        if matches!(ending, Ending::Draining) {
            let retry_after_ms = rand::random_range(0..DRAIN_SPREAD_MS);
            let goodbye = Goodbye {
                reason: ending.to_string(),
                retry_after_ms,
            };
            self.last_words(session_down::Kind::Goodbye(goodbye)).await;
        }
        self.connection.close(ending.code(), &ending.to_string());
    }

    /// Says a last word, and gives it the time to arrive and open tunnels the time to finish: closing
    /// a connection throws away what is still on its way. An edge that has understood hangs up.
    async fn last_words(&mut self, kind: session_down::Kind) {
        let said = self.say(kind).await.is_ok() && self.writer.finish().await.is_ok();
        let grace = self.shared.settings.tunnel_grace;
        if said {
            let finished = async { tokio::join!(self.streams.tunnels_done(grace), sleep(WORD_LIMIT)) };
            tokio::select! {
                _ = finished => {}
                _ = self.connection.closed() => {}
            }
        }
    }
}
