//! One session: Hello, beats, the flows, and what the cloud dials.

use std::sync::Arc;
use std::time::Duration;

use protocol::name::shown;
use protocol::transport::{CloseCode, Connection, Stream, TransportError};
use protocol::wire::{
    Beat, DialRefusal, DialReply, FrameReader, FrameWriter, Goodbye, Hello, Open, Reject, RejectCode,
    SessionDown, SessionUp, VERSIONS, Welcome, WireError, open, session_down, session_up,
};
use thiserror::Error;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::desired::FlowError;
use super::dial::DialError;
use super::state::LinkState;
use super::{Address, Uplink};

/// How long the cloud may take to answer Hello: it makes a write to the Lease first.
const WELCOME_WITHIN: Duration = Duration::from_secs(15);
/// A beat that goes unanswered this long is said again.
const PROBE_AFTER: Duration = Duration::from_secs(3);
/// And after this long the session is given up.
const SILENT_AFTER: Duration = Duration::from_secs(6);
/// Bounds on what the cloud may ask for as its keepalive.
const KEEPALIVE: std::ops::RangeInclusive<u64> = 1_000..=300_000;
/// A flow whose stream was reset is opened again after this.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// A session that lasted this long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Why there is no session (any more).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Ended {
    /// edgecore stops.
    #[error("edgecore stops")]
    Stopped,
    /// There was no connection.
    #[error(transparent)]
    NotDialled(DialError),
    /// The cloud did not take the session.
    #[error("cloudcore refused the session ({code:?}): {text}")]
    Rejected {
        /// Why.
        code: RejectCode,
        /// In words.
        text: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The connection ended.
    #[error("the connection ended: {source}")]
    Lost {
        /// What ended it.
        source: TransportError,
        /// Whether it had lasted.
        good: bool,
    },
    /// Nothing was heard.
    #[error("cloudcore did not answer for {} s", SILENT_AFTER.as_secs())]
    Silent {
        /// Whether it had lasted.
        good: bool,
    },
    /// The session stream failed.
    #[error("the session stream failed: {0}")]
    Wire(#[from] WireError),
    /// The cloud sent what does not belong there.
    #[error("cloudcore broke the protocol: {0}")]
    Protocol(&'static str),
    /// The cloud leaves.
    #[error("cloudcore says goodbye: {reason}")]
    Goodbye {
        /// Why.
        reason: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Another session of this node took over.
    #[error("a newer session of this node exists; is its key used twice?")]
    Superseded,
    /// A flow cannot go on.
    #[error("the node cannot take part: {0}")]
    Flow(FlowError),
}

impl Ended {
    /// Whether the link worked before.
    pub const fn was_good(&self) -> bool {
        matches!(
            self,
            Self::Lost { good: true, .. } | Self::Silent { good: true } | Self::Goodbye { .. }
        )
    }

    /// When the cloud wants this node back.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. } | Self::Goodbye { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) const fn close_code(&self) -> CloseCode {
        match self {
            Self::Protocol(_) | Self::Wire(_) => CloseCode::Protocol,
            Self::Silent { .. } => CloseCode::Silent,
            Self::Stopped => CloseCode::GoingAway,
            _ => CloseCode::Done,
        }
    }
}

/// The session stream, in frames.
struct Talk {
    reader: FrameReader<protocol::transport::ByteReader>,
    writer: FrameWriter<protocol::transport::ByteWriter>,
}

impl Uplink {
    pub(super) async fn session(
        &self,
        address: &Address,
        connection: Arc<dyn Connection>,
        stop: &CancellationToken,
    ) -> Ended {
        let greeted = tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            greeted = timeout(WELCOME_WITHIN, self.greet(&*connection)) => greeted,
        };
        let (talk, welcome) = match greeted {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Silent { good: false },
        };
        self.welcomed(address, &welcome);
        self.link.serve(Some(Arc::clone(&connection)));
        let over = stop.child_token();
        let (ended, flow, (), ()) = tokio::join!(
            self.beat(talk, &welcome, &*connection, &over),
            self.keep_desired(&*connection, &welcome, &over),
            self.keep_reported(&*connection, &over),
            refuse_dials(&*connection, &over),
        );
        flow.map_or(ended, Ended::Flow)
    }

    async fn greet(&self, connection: &dyn Connection) -> Result<(Talk, Welcome), Ended> {
        let lost = |source| Ended::Lost { source, good: false };
        let Stream { recv, send } = connection.open(Open::session()).await.map_err(lost)?;
        let mut talk = Talk {
            reader: FrameReader::new(recv),
            writer: FrameWriter::new(send),
        };
        let (cluster_id, epoch) = self.desired.cluster();
        let hello = Hello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            boot_id: self.boot_id.to_vec().into(),
            software: concat!("edgecore/", env!("CARGO_PKG_VERSION")).to_owned(),
            cluster_id,
            epoch,
            ..Hello::default()
        };
        talk.say(session_up::Kind::Hello(hello)).await?;
        match talk.hear().await? {
            session_down::Kind::Welcome(welcome) => Ok((talk, welcome)),
            session_down::Kind::Reject(reject) => Err(self.rejected(&reject)),
            _ => Err(Ended::Protocol("Welcome or Reject was expected")),
        }
    }

    fn rejected(&self, reject: &Reject) -> Ended {
        self.clock.saw_server_millis(reject.server_time_ms);
        Ended::Rejected {
            code: reject.code.into(),
            text: shown(&reject.text),
            retry_after: pause(reject.retry_after_ms),
        }
    }

    fn welcomed(&self, address: &Address, welcome: &Welcome) {
        self.clock.saw_server_millis(welcome.server_time_ms);
        let replica = shown(&welcome.replica);
        tracing::info!(%address, replica, "connected");
        self.link.set(LinkState::Connected {
            since: self.clock.now(),
            address: address.to_string(),
            replica,
            api_reachable: welcome.api_reachable,
        });
    }

    /// The session stream until it ends; then stops the other loops.
    async fn beat(
        &self,
        mut talk: Talk,
        welcome: &Welcome,
        connection: &dyn Connection,
        over: &CancellationToken,
    ) -> Ended {
        let began = Instant::now();
        let every = welcome.keepalive_ms.clamp(*KEEPALIVE.start(), *KEEPALIVE.end());
        let mut beats = Beats::new(Duration::from_millis(every));
        let ended = loop {
            tokio::select! {
                () = over.cancelled() => {
                    talk.goodbye().await;
                    break Ended::Stopped;
                }
                source = connection.closed() => break Ended::Lost { source, good: began.elapsed() > GOOD_AFTER },
                () = sleep_until(beats.due()) => match beats.next(Instant::now()) {
                    None => break Ended::Silent { good: began.elapsed() > GOOD_AFTER },
                    Some(seq) => {
                        let beat = Beat { seq, progress: self.progress.count() };
                        if let Err(ended) = talk.say(session_up::Kind::Beat(beat)).await { break ended }
                    }
                },
                heard = talk.hear() => match heard.and_then(|word| self.heard(&mut beats, word)) {
                    Ok(()) => {}
                    Err(ended) => break ended,
                }
            }
        };
        over.cancel();
        // Writers that wait for a window would wait for ever on a dead path.
        connection.close(ended.close_code(), "the session ended");
        ended
    }

    fn heard(&self, beats: &mut Beats, word: session_down::Kind) -> Result<(), Ended> {
        match word {
            session_down::Kind::BeatAck(ack) => {
                self.clock.saw_server_millis(ack.server_time_ms);
                beats.answered(ack.seq, Instant::now());
                Ok(())
            }
            session_down::Kind::Goodbye(goodbye) => Err(Ended::Goodbye {
                reason: shown(&goodbye.reason),
                retry_after: pause(goodbye.retry_after_ms),
            }),
            session_down::Kind::Superseded(_) => Err(Ended::Superseded),
            session_down::Kind::Degraded(degraded) => {
                tracing::warn!(
                    reason = shown(&degraded.reason),
                    "cloudcore has lost its API server"
                );
                Ok(())
            }
            session_down::Kind::Welcome(_) | session_down::Kind::Reject(_) => {
                Err(Ended::Protocol("a second answer to Hello"))
            }
        }
    }

    /// Serves desired streams, one after the other. Ends early only when the node cannot take part.
    async fn keep_desired(
        &self,
        connection: &dyn Connection,
        welcome: &Welcome,
        over: &CancellationToken,
    ) -> Option<FlowError> {
        while !over.is_cancelled() {
            let Ok(stream) = connection.open(Open::desired()).await else {
                return None;
            };
            let cluster = (welcome.cluster_id.as_str(), welcome.epoch);
            match self.desired.serve(stream, cluster, over).await {
                Err(error @ (FlowError::Cluster(_) | FlowError::Store(_))) => {
                    over.cancel();
                    return Some(error);
                }
                Err(error) => tracing::warn!(error = %describe(&error), "the desired stream is opened again"),
                Ok(()) => {}
            }
            reopen_pause(over).await;
        }
        None
    }

    async fn keep_reported(&self, connection: &dyn Connection, over: &CancellationToken) {
        while !over.is_cancelled() {
            let Ok(stream) = connection.open(Open::reported()).await else {
                return;
            };
            if let Err(error) = self.reporter.serve(stream, over).await {
                tracing::warn!(error = %describe(&error), "the reported stream is opened again");
            }
            reopen_pause(over).await;
        }
    }
}

impl Talk {
    async fn say(&mut self, kind: session_up::Kind) -> Result<(), Ended> {
        Ok(self.writer.write(&SessionUp { kind: Some(kind) }).await?)
    }

    /// The next word of the cloud's.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    async fn hear(&mut self) -> Result<session_down::Kind, Ended> {
        let frame = self.reader.read::<SessionDown>().await?;
        let frame = frame.ok_or(Ended::Protocol("the session stream was closed"))?;
        frame.kind.ok_or(Ended::Protocol("an empty frame"))
    }

    async fn goodbye(&mut self) {
        let goodbye = Goodbye {
            reason: "edgecore stops".to_owned(),
            retry_after_ms: 0,
        };
        let _ = timeout(REOPEN_AFTER, self.say(session_up::Kind::Goodbye(goodbye))).await;
    }
}

/// When to say a beat, and when to give up. Pure but for the instants it is given.
#[derive(Debug)]
struct Beats {
    every: Duration,
    seq: u64,
    next: Instant,
    /// The first beat that has no answer.
    waiting_since: Option<Instant>,
}

impl Beats {
    fn new(every: Duration) -> Self {
        Self {
            every,
            seq: 0,
            next: Instant::now(),
            waiting_since: None,
        }
    }

    fn due(&self) -> Instant {
        self.next
    }

    /// The number of the beat to say now; nothing when the cloud was silent for too long.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self
            .waiting_since
            .is_some_and(|since| now >= since + SILENT_AFTER)
        {
            return None;
        }
        self.waiting_since = self.waiting_since.or(Some(now));
        self.next = now + PROBE_AFTER;
        self.seq += 1;
        Some(self.seq)
    }

    fn answered(&mut self, seq: u64, now: Instant) {
        if seq <= self.seq && self.waiting_since.take().is_some() {
            self.next = now + self.every;
        }
    }
}

/// Nothing is served at this end yet: whoever dials is told so.
async fn refuse_dials(connection: &dyn Connection, over: &CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = over.cancelled() => return,
            accepted = connection.accept() => accepted,
        };
        let Ok((
            Open {
                kind: Some(open::Kind::Dial(dial)),
            },
            stream,
        )) = accepted
        else {
            if accepted.is_err() {
                return;
            }
            continue;
        };
        let text = format!("this edgecore serves no {}", shown(&dial.service));
        let reply = DialReply::refused(DialRefusal::UnknownService, text);
        let _ = timeout(REOPEN_AFTER, FrameWriter::new(stream.send).write(&reply)).await;
    }
}

async fn reopen_pause(over: &CancellationToken) {
    tokio::select! {
        () = over.cancelled() => {}
        () = sleep(REOPEN_AFTER) => {}
    }
}

fn pause(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis.min(600_000)))
}

/// An error with its cause.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answered_beat_is_followed_by_a_whole_keepalive() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let now = Instant::now();
        assert_eq!(beats.next(now), Some(1));
        beats.answered(1, now);
        assert_eq!(beats.due(), now + Duration::from_secs(25));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_beat_is_probed_and_then_given_up() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let now = Instant::now();
        assert_eq!(beats.next(now), Some(1));
        assert_eq!(beats.due(), now + PROBE_AFTER);
        assert_eq!(beats.next(now + PROBE_AFTER), Some(2));
        assert_eq!(beats.next(now + SILENT_AFTER), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_nothing_changes_nothing() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let due = beats.due();
        beats.answered(9, Instant::now());
        assert_eq!(beats.due(), due);
    }
}
