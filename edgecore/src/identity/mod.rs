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
//! Files that cannot be read keep nothing but the link from working: the node starts, its pods run, and each dial
//! looks again. A new certificate that cannot be written is used all the same, and written when that can be done.
//!
//! **Invariant:** a certificate that is whole and fits the key is given up for no other than such a one,
//! whatever comes on the disk and whatever the cloud sends.

mod held;
mod schedule;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use protocol::clock::Clock;
use protocol::join::ChannelValue;
use protocol::name::NodeName;
use protocol::tls::{Credentials, human};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use schedule::Schedule;

pub(crate) use held::end_on_disk;
pub use held::{Files, Held, IdentityFault};

/// The longest sleep: clocks are set, and then it may be time.
const LOOK_AGAIN: Duration = Duration::from_hours(1);
/// Between two attempts to write a certificate that the disk does not take.
const WRITE_AGAIN: Duration = Duration::from_mins(5);

/// This node's identity. Share it.
#[derive(Debug)]
pub struct Identity {
    node: NodeName,
    files: Option<Files>,
    clock: Clock,
    state: Mutex<State>,
    /// One writes at a time, also when nobody waits for it any more.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct State {
    /// Nothing, when the files could not be read so far.
    held: Option<Arc<Held>>,
    /// The newest certificate, while the disk does not have it.
    unwritten: Option<Unwritten>,
    schedule: Schedule,
    /// cloudcore said that the certificate has ended: this machine's clock is behind.
    ended_there: bool,
    /// Why the last attempt to renew failed.
    trouble: Option<String>,
    /// What was said of it in the log, and whether it was pressing then.
    said: Option<(String, bool)>,
}

/// A certificate that is used, and not on the disk.
#[derive(Debug)]
struct Unwritten {
    pem: String,
    why: String,
    /// When it is tried again.
    again: Instant,
}

/// The certificate, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateView {
    /// When it ends; none where there is none to read.
    pub ends: Option<SystemTime>,
    /// When it is asked for anew, as far as that is known.
    pub renews: Option<SystemTime>,
    /// Why there is none, or why the last attempt to renew it failed.
    pub trouble: Option<String>,
    /// Why it is not on the disk: a restart would lose it.
    pub unwritten: Option<String>,
}

impl Identity {
    /// Reads the node's files.
    pub fn open(node: NodeName, files: Files, clock: Clock) -> Result<Self, IdentityFault> {
        let held = files.read_at_start(&node)?;
        Ok(Self::holding(node, Some(held), clock).with_files(files))
    }

    /// The same for a node that starts whatever is the matter with its files.
    pub fn at_start(node: NodeName, files: Files, clock: Clock) -> Self {
        let fault = match files.read_at_start(&node) {
            Ok(held) => return Self::holding(node, Some(held), clock).with_files(files),
            Err(fault) => told(&fault),
        };
        tracing::error!(
            fault,
            "this node has no identity that can be used: its pods run, but there is no link; join again"
        );
        let identity = Self::holding(node, None, clock).with_files(files);
        identity.state.lock().trouble = Some(fault);
        identity
    }

    /// An identity that is on no disk.
    pub fn fixed(
        node: NodeName,
        credentials: Credentials,
        authority: CertificateDer<'static>,
        clock: Clock,
    ) -> Result<Self, IdentityFault> {
        let held = Held::new(&node, credentials, authority)?;
        Ok(Self::holding(node, Some(held), clock))
    }

    fn holding(node: NodeName, held: Option<Held>, clock: Clock) -> Self {
        let ends = held.as_ref().map_or(SystemTime::UNIX_EPOCH, |held| held.ends);
        let state = State {
            schedule: Schedule::new(ends, rand::random()),
            held: held.map(Arc::new),
            unwritten: None,
            ended_there: false,
            trouble: None,
            said: None,
        };
        Self {
            node,
            files: None,
            clock,
            state: Mutex::new(state),
            writing: Arc::default(),
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
    pub async fn current(&self) -> Result<Arc<Held>, IdentityFault> {
        self.write_again().await;
        let mut fault = IdentityFault::Missing;
        if let Some(files) = self.files.clone() {
            let node = self.node.clone();
            let read = tokio::task::spawn_blocking(move || files.read(&node)).await;
            match read {
                Ok(Ok(found)) => self.take_up(found),
                Ok(Err(error)) => {
                    tracing::warn!(error = %told(&error), "the certificate on the disk is not used");
                    fault = error;
                }
                Err(error) => tracing::warn!(%error, "the certificate on the disk was not read"),
            }
        }
        self.state.lock().held.clone().ok_or(fault)
    }

    fn take_up(&self, found: Held) {
        let mut state = self.state.lock();
        let unwritten = state.unwritten.is_some();
        let known = state.held.as_ref().is_some_and(|held| {
            let same = found.credentials.chain == held.credentials.chain && found.authority == held.authority;
            // The file is still the one before.
            let behind = unwritten && found.key == held.key && found.ends <= held.ends;
            same || behind
        });
        if known {
            return;
        }
        tracing::info!(ends = %date(found.ends), "a new certificate is on the disk, and is used from now on");
        state.hold(found, self.clock.now());
    }

    /// Writes what could not be written before.
    async fn write_again(&self) {
        let now = Instant::now();
        let is_due = |state: &State| state.unwritten.as_ref().is_some_and(|one| now >= one.again);
        if is_due(&self.state.lock()) {
            self.write().await;
        }
    }

    /// Writes the newest certificate, if the disk does not have it.
    async fn write(&self) {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let pem = {
            let mut state = self.state.lock();
            let Some(unwritten) = &mut state.unwritten else {
                return;
            };
            unwritten.again = Instant::now() + WRITE_AGAIN;
            unwritten.pem.clone()
        };
        let (files, content) = (self.files.clone(), pem.clone());
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            files.map_or(Ok(()), |files| files.write(&content))
        });
        let written = written.await.unwrap_or(Err(IdentityFault::Interrupted));
        let mut state = self.state.lock();
        let Some(unwritten) = state.unwritten.as_mut().filter(|one| one.pem == pem) else {
            return;
        };
        match written {
            Ok(()) => state.unwritten = None,
            Err(error) => {
                unwritten.why = told(&error);
                tracing::warn!(
                    why = unwritten.why,
                    "the new certificate is used, but it is not on the disk: a restart loses it"
                );
            }
        }
    }

    /// Whether the certificate has ended, by this machine's clock or by cloudcore's.
    pub fn has_ended(&self) -> bool {
        let state = self.state.lock();
        state.held.is_some() && (state.ended_there || self.clock.now() > state.schedule.end())
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
        self.write_again().await;
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
        let held = state.held.clone()?;
        if state.schedule.due(now).is_none_or(|due| now < due) {
            return None;
        }
        state.schedule.asked(now);
        let request = held.node_key().and_then(|key| key.request(&self.node));
        request
            .inspect_err(|error| state.failed(error.to_string(), None, now))
            .ok()
    }

    /// Shows on one connection that the key of the certificate is held.
    pub fn prove(&self, channel: &ChannelValue) -> Result<String, IdentityFault> {
        let held = self.state.lock().held.clone().ok_or(IdentityFault::Missing)?;
        Ok(held.node_key()?.prove(channel)?)
    }

    /// Takes a new certificate: checked, then on the disk, then in use from the next dial on. One that cannot be
    /// written is used too, or a device whose disk takes nothing any more would lose its link for good.
    pub async fn renewed(&self, pem: &str) -> Result<(), IdentityFault> {
        let new = self.judge(pem).inspect_err(|error| {
            let text = format!("the new certificate was not kept: {}", told(error));
            self.state.lock().failed(text, None, self.clock.now());
        })?;
        {
            let mut state = self.state.lock();
            tracing::info!(ends = %date(new.ends), "the certificate was renewed");
            state.hold(new, self.clock.now());
            state.unwritten = Some(Unwritten {
                pem: pem.to_owned(),
                why: "it is being written".to_owned(),
                again: Instant::now(),
            });
        }
        self.write().await;
        Ok(())
    }

    fn judge(&self, pem: &str) -> Result<Held, IdentityFault> {
        let held = self.state.lock().held.clone().ok_or(IdentityFault::Missing)?;
        held.with_certificate(&self.node, pem)
    }

    /// There is no new certificate; why is logged when it is news.
    pub fn not_renewed(&self, why: String, retry_after: Option<Duration>) {
        self.state.lock().failed(why, retry_after, self.clock.now());
    }

    /// How the certificate is.
    pub fn view(&self) -> CertificateView {
        let state = self.state.lock();
        CertificateView {
            ends: state.held.as_ref().map(|held| held.ends),
            renews: state
                .schedule
                .due(self.clock.now())
                .filter(|_| state.held.is_some()),
            trouble: state.trouble.clone(),
            unwritten: state.unwritten.as_ref().map(|one| one.why.clone()),
        }
    }
}

impl State {
    fn hold(&mut self, new: Held, now: SystemTime) {
        self.schedule.renewed(new.ends, now, rand::random());
        self.held = Some(Arc::new(new));
        self.unwritten = None;
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
