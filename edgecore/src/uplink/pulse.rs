//! The session stream of a running session: beats out, answers and words of the cloud in.
//!
//! It never waits for a write: on a dead path with a full window that would take minutes.

use std::sync::Arc;
use std::time::Duration;

use protocol::name::shown;
use protocol::transport::Connection;
use protocol::wire::{Beat, Goodbye, Renew, session_down, session_up};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Uplink;
use super::beats::{Beats, SILENT_AFTER};
use super::beside::Health;
use super::ended::{Ended, pause};
use super::greet::{Ears, Mouth};
use super::state::LinkState;

/// Beats that wait to be written; more say nothing new.
const WORDS: usize = 4;
/// A session that lasted this long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// How long a last word may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What is said on the session stream next.
pub(super) type Words = mpsc::Receiver<session_up::Kind>;

/// The life of one session.
pub(super) struct Pulse<'a> {
    pub(super) uplink: &'a Uplink,
    pub(super) connection: &'a Arc<dyn Connection>,
    /// How others see the link while all is well.
    pub(super) up: LinkState,
    pub(super) beats: Beats,
    pub(super) health: watch::Sender<Health>,
    words: mpsc::Sender<session_up::Kind>,
    began: Instant,
}

impl<'a> Pulse<'a> {
    pub(super) fn new(
        uplink: &'a Uplink,
        connection: &'a Arc<dyn Connection>,
        up: LinkState,
        every: Duration,
    ) -> (Self, Words) {
        let (words, to_say) = mpsc::channel(WORDS);
        let pulse = Self {
            uplink,
            connection,
            up,
            beats: Beats::new(every),
            health: watch::channel(Health::Fine).0,
            words,
            began: Instant::now(),
        };
        (pulse, to_say)
    }

    /// Beats until the session ends; then stops the other loops by `over`.
    pub(super) async fn run(
        mut self,
        mut ears: Ears,
        over: &CancellationToken,
        stop: &CancellationToken,
    ) -> Ended {
        let mut nudges = self.uplink.link.nudges();
        let ended = loop {
            tokio::select! {
                () = over.cancelled() => break Ended::Stopped,
                () = nudges.next() => self.beats.probe(Instant::now()),
                source = self.connection.closed() => break Ended::Lost { source, good: self.lasted() },
                () = sleep_until(self.beats.due()) => {
                    if let Err(ended) = self.beat() { break ended }
                }
                () = self.uplink.identity.due() => self.ask_certificate(),
                heard = ears.hear() => {
                    match heard {
                        Ok(word) => if let Err(ended) = self.heard(word).await { break ended },
                        Err(ended) => break ended,
                    }
                }
            }
        };
        let ways = self.uplink.dialer.ways();
        ways.lasted(self.connection.transport(), self.answered_for());
        over.cancel();
        if stop.is_cancelled() {
            self.goodbye().await;
        }
        // Writers that wait for a window would wait for ever on a dead path.
        self.connection.close(ended.close_code(), "the session ended");
        ended
    }

    fn lasted(&self) -> bool {
        self.began.elapsed() > GOOD_AFTER
    }

    /// How long it was answered.
    fn answered_for(&self) -> Duration {
        self.beats.last_answer().saturating_duration_since(self.began)
    }

    fn beat(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let good = self.beats.last_answer() > self.began + GOOD_AFTER;
        let seq = self.beats.next(now).ok_or(Ended::Silent { good })?;
        if self.beats.is_silent(now) {
            self.silent();
        }
        let progress = self.uplink.progress.count();
        match self
            .words
            .try_send(session_up::Kind::Beat(Beat { seq, progress }))
        {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(Ended::Protocol("the session stream was closed"))
            }
        }
    }

    /// Asks for a new certificate, when it is time. A word that finds no room is said again later.
    fn ask_certificate(&self) {
        if let Some(csr) = self.uplink.identity.ask() {
            let _ = self.words.try_send(session_up::Kind::Renew(Renew { csr }));
        }
    }

    async fn heard(&mut self, word: session_down::Kind) -> Result<(), Ended> {
        match word {
            session_down::Kind::BeatAck(ack) => {
                if self.beats.answered(ack.seq, Instant::now()) {
                    self.well();
                }
                self.uplink.server_time.told(ack.server_time_ms);
                Ok(())
            }
            session_down::Kind::Goodbye(goodbye) => Err(Ended::Goodbye {
                reason: shown(&goodbye.reason),
                retry_after: pause(goodbye.retry_after_ms),
            }),
            session_down::Kind::Superseded(_) => Err(Ended::Superseded),
            session_down::Kind::Degraded(degraded) => {
                self.well();
                let reason = shown(&degraded.reason);
                tracing::warn!(reason, "cloudcore has lost its API server");
                self.up.degrade();
                self.uplink.link.set(self.up.clone());
                self.health.send_replace(Health::Degraded);
                Ok(())
            }
            session_down::Kind::Renewed(renewed) => {
                // What is wrong with it is told there; the old one holds to its end.
                let _ = self.uplink.identity.renewed(&renewed.certificate).await;
                Ok(())
            }
            session_down::Kind::RenewRefused(refused) => {
                let retry_after = pause(refused.retry_after_ms);
                self.uplink
                    .identity
                    .not_renewed(shown(&refused.text), retry_after);
                Ok(())
            }
            session_down::Kind::Welcome(_) | session_down::Kind::Reject(_) => {
                Err(Ended::Protocol("a second answer to Hello"))
            }
        }
    }

    /// Others see the link as down, and open no tunnels that nobody would answer.
    fn silent(&self) {
        if *self.health.borrow() == Health::Silent {
            return;
        }
        // First: whoever looks for something better goes by it.
        let ways = self.uplink.dialer.ways();
        ways.fell_silent(self.connection.transport(), self.answered_for());
        self.health.send_replace(Health::Silent);
        let reason = format!("cloudcore has not answered for {} s", SILENT_AFTER.as_secs());
        tracing::warn!(
            reason,
            "the link is in doubt; another connection is tried beside it"
        );
        let link = &self.uplink.link;
        link.serve(None);
        link.set(self.up.clone().doubtful(self.uplink.clock.now(), reason));
    }

    fn well(&self) {
        let was_silent = self.health.send_if_modified(|health| {
            let was_silent = *health == Health::Silent;
            if was_silent {
                *health = Health::Fine;
            }
            was_silent
        });
        if was_silent {
            tracing::info!("cloudcore answers again");
            self.uplink.dialer.ways().answers_again();
            self.uplink.link.set(self.up.clone());
            self.uplink.link.serve(Some(Arc::clone(self.connection)));
        }
    }

    async fn goodbye(&self) {
        let goodbye = Goodbye {
            reason: "edgecore stops".to_owned(),
            retry_after_ms: 0,
        };
        let said = async {
            let _ = self.words.send(session_up::Kind::Goodbye(goodbye)).await;
            self.words.closed().await;
        };
        let _ = timeout(LAST_WORD, said).await;
    }
}

/// Says what there is to say, until a goodbye. A failure shows where the cloud is listened to.
pub(super) async fn speak(mut mouth: Mouth, mut words: Words) {
    while let Some(word) = words.recv().await {
        let last = matches!(word, session_up::Kind::Goodbye(_));
        if mouth.say(word).await.is_err() || last {
            return;
        }
    }
}
