//! Who this node is: its key, its certificate, the cluster's CA, and when the certificate is renewed.
//!
//! ```text
//! files ──read at each dial──► Held ──► the dialer
//!   ▲                            ▲
//!   └── replaced whole, synced ──┴── Renewed (session) or an answer of /v1/renew
//! ```
//!
//! What it does not do: speak with cloudcore; `uplink` does.
//!
//! **Invariant:** a certificate that is whole and fits the key is given up for no other than such a one,
//! whatever comes on the disk and whatever the cloud sends.

mod held;
mod schedule;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use protocol::clock::Clock;
use protocol::join::{ChannelValue, CsrError};
use protocol::name::NodeName;
use protocol::tls::{Credentials, human};
use rustls_pki_types::CertificateDer;

use schedule::Schedule;

pub(crate) use held::end_on_disk;
pub use held::{Files, Held, IdentityFault};

/// The longest sleep: clocks are set, and then it may be time.
const LOOK_AGAIN: Duration = Duration::from_hours(1);

/// This node's identity. Share it.
#[derive(Debug)]
pub struct Identity {
    node: NodeName,
    files: Option<Files>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    held: Arc<Held>,
    schedule: Schedule,
    /// cloudcore said that the certificate has ended: this machine's clock is behind.
    ended_there: bool,
    /// Why the last attempt to renew failed.
    trouble: Option<String>,
    /// What was said of it in the log, and whether it was pressing then.
    said: Option<(String, bool)>,
}

/// The certificate, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateView {
    /// When it ends.
    pub ends: SystemTime,
    /// When it is asked for anew, as far as that is known.
    pub renews: Option<SystemTime>,
    /// Why the last attempt to renew it failed.
    pub trouble: Option<String>,
}

impl Identity {
    /// Reads the node's files.
    pub fn open(node: NodeName, files: Files, clock: Clock) -> Result<Self, IdentityFault> {
        let held = files.read_at_start(&node)?;
        Ok(Self::holding(node, held, clock).with_files(files))
    }

    /// An identity that is on no disk.
    pub fn fixed(
        node: NodeName,
        credentials: Credentials,
        authority: CertificateDer<'static>,
        clock: Clock,
    ) -> Result<Self, IdentityFault> {
        let held = Held::new(&node, credentials, authority)?;
        Ok(Self::holding(node, held, clock))
    }

    fn holding(node: NodeName, held: Held, clock: Clock) -> Self {
        let state = State {
            schedule: Schedule::new(held.ends, rand::random()),
            held: Arc::new(held),
            ended_there: false,
            trouble: None,
            said: None,
        };
        Self {
            node,
            files: None,
            clock,
            state: Mutex::new(state),
        }
    }

    fn with_files(self, files: Files) -> Self {
        Self {
            files: Some(files),
            ..self
        }
    }

    /// What to dial with. A certificate that was replaced on the disk is taken up here; one that does
    /// not fit is left there, and what was held before is used.
    pub async fn current(&self) -> Arc<Held> {
        if let Some(files) = self.files.clone() {
            let node = self.node.clone();
            let read = tokio::task::spawn_blocking(move || files.read(&node)).await;
            match read {
                Ok(Ok(found)) => self.take_up(found),
                Ok(Err(error)) => {
                    tracing::warn!(error = %told(&error), "the certificate on the disk is not used");
                }
                Err(error) => tracing::warn!(%error, "the certificate on the disk was not read"),
            }
        }
        Arc::clone(&self.state.lock().held)
    }

    fn take_up(&self, found: Held) {
        let mut state = self.state.lock();
        let held = &state.held;
        if found.credentials.chain == held.credentials.chain && found.authority == held.authority {
            return;
        }
        tracing::info!(ends = %date(found.ends), "a new certificate is on the disk, and is used from now on");
        state.hold(found, self.clock.now());
    }

    /// Whether the certificate has ended, by this machine's clock or by cloudcore's.
    pub fn has_ended(&self) -> bool {
        let state = self.state.lock();
        state.ended_there || self.clock.now() > state.schedule.end()
    }

    /// cloudcore did not take the certificate because it has ended.
    pub fn refused_as_ended(&self) {
        self.state.lock().ended_there = true;
    }

    /// cloudcore says what is left of a certificate when it is renewed; nothing if it renews none.
    pub fn told(&self, renew_before: Duration) {
        self.state.lock().schedule.told(renew_before);
    }

    /// Waits until a new certificate is to be asked for, or until it is worth another look.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn due(&self) {
        let wait = self.state.lock().schedule.wait(self.clock.now());
        match wait {
            Some(wait) => tokio::time::sleep(wait.min(LOOK_AGAIN)).await,
            None => std::future::pending().await,
        }
    }

    /// The certificate request to send now, in PEM; none when it is not time.
    pub fn ask(&self) -> Option<String> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.schedule.due().is_none_or(|due| now < due) {
            return None;
        }
        state.schedule.asked(now);
        let request = state.held.node_key().and_then(|key| key.request(&self.node));
        request
            .inspect_err(|error| state.failed(error.to_string(), None, now))
            .ok()
    }

    /// Shows on one connection that the key of the certificate is held.
    pub fn prove(&self, channel: &ChannelValue) -> Result<String, CsrError> {
        self.state.lock().held.node_key()?.prove(channel)
    }

    /// Takes a new certificate: checked, then on the disk, then in use from the next dial on.
    pub async fn renewed(&self, pem: &str) -> Result<(), IdentityFault> {
        let kept = self.keep(pem).await;
        let mut state = self.state.lock();
        match kept {
            Ok(new) => {
                tracing::info!(ends = %date(new.ends), "the certificate was renewed");
                state.hold(new, self.clock.now());
                Ok(())
            }
            Err(error) => {
                let text = format!("the new certificate was not kept: {}", told(&error));
                state.failed(text, None, self.clock.now());
                Err(error)
            }
        }
    }

    async fn keep(&self, pem: &str) -> Result<Held, IdentityFault> {
        let held = Arc::clone(&self.state.lock().held);
        let new = held.with_certificate(&self.node, pem)?;
        if let Some(files) = self.files.clone() {
            let pem = pem.to_owned();
            let written = tokio::task::spawn_blocking(move || files.write(&pem)).await;
            written.map_err(|_| IdentityFault::Interrupted)??;
        }
        Ok(new)
    }

    /// There is no new certificate; why is logged when it is news.
    pub fn not_renewed(&self, why: String, retry_after: Option<Duration>) {
        self.state.lock().failed(why, retry_after, self.clock.now());
    }

    /// How the certificate is.
    pub fn view(&self) -> CertificateView {
        let state = self.state.lock();
        CertificateView {
            ends: state.schedule.end(),
            renews: state.schedule.due(),
            trouble: state.trouble.clone(),
        }
    }
}

impl State {
    fn hold(&mut self, new: Held, now: SystemTime) {
        self.schedule.renewed(new.ends, now, rand::random());
        self.held = Arc::new(new);
        self.ended_there = false;
        self.trouble = None;
        self.said = None;
    }

    fn failed(&mut self, why: String, retry_after: Option<Duration>, now: SystemTime) {
        self.schedule.failed(now, retry_after, rand::random());
        let news = (why.clone(), self.schedule.is_pressing(now));
        if self.said.as_ref() != Some(&news) {
            tracing::warn!(
                why,
                certificate = left(self.schedule.end(), now),
                "the certificate was not renewed"
            );
            self.said = Some(news);
        }
        self.trouble = Some(why);
    }
}

/// How long a certificate lasts yet, for people.
pub fn left(end: SystemTime, now: SystemTime) -> String {
    match end.duration_since(now) {
        Ok(left) => format!("ends in {}", human(left)),
        Err(past) => format!("ended {} ago", human(past.duration())),
    }
}

fn date(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "at an unknown time".to_owned(), |time| time.to_string())
}

/// An error with its cause.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
