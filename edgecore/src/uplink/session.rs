//! One session: Hello, beats, the flows, and what the cloud dials.

use std::sync::Arc;
use std::time::Duration;

use protocol::name::shown;
use protocol::transport::{Connection, Stream};
use protocol::wire::{
    Beat, DialRefusal, DialReply, FrameReader, FrameWriter, Goodbye, Hello, Open, Reject, SessionDown,
    SessionUp, VERSIONS, Welcome, open, session_down, session_up,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::beats::Beats;
use super::desired::FlowError;
use super::ended::Ended;
use super::state::LinkState;
use super::{Address, Uplink};

/// How long the cloud may take to answer Hello: it makes a write to the Lease first.
const WELCOME_WITHIN: Duration = Duration::from_secs(15);
/// Bounds on what the cloud may ask for as its keepalive.
const KEEPALIVE: std::ops::RangeInclusive<u64> = 1_000..=300_000;
/// A flow whose stream was reset is opened again after this.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// A session that lasted this long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

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
            session_down::Kind::BeatAck(_)
            | session_down::Kind::Goodbye(_)
            | session_down::Kind::Degraded(_)
            | session_down::Kind::Superseded(_) => Err(Ended::Protocol("Welcome or Reject was expected")),
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
