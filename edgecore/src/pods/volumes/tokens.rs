//! Service-account tokens: asked for through the link, kept in the store, renewed before they expire.
//!
//! [`ApiTokens`] asks, [`StoredTokens`] keeps, [`TokenCache`] decides.
//!
//! **Invariant:** a token once held is given out until a newer one is, even past its time: a pod that starts
//! offline starts with its last token.

mod api;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tracing::debug;

pub use api::{ApiTokens, NodeApi};
pub use stored::StoredTokens;

const DAY: u64 = 24 * 60 * 60;
/// A pod that has a token does not wait long for the next.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_mins(1);

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenRequest {
    /// Of the pod and of its service account.
    pub namespace: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// Empty means the API server's own.
    pub audiences: Vec<String>,
    /// What the pod asks for; the API server may give more.
    pub expiration_seconds: i64,
    /// The token is bound to this pod.
    pub pod_name: String,
    /// And to this instance of it.
    pub pod_uid: String,
}

/// Why no token came.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// There is no link, or it broke: a held token stays in use.
    #[error("no token for service account {0}: the cluster cannot be reached")]
    Unreachable(String),
    /// The API server refused.
    #[error("no token for service account {account}: {status} {message}")]
    Refused {
        /// `namespace/name`.
        account: String,
        /// The HTTP status.
        status: u16,
        /// The API server's words.
        message: String,
    },
}

/// Asks the API server for tokens (`TokenRequest`, as the node).
pub trait TokenSource: Send + Sync {
    /// One request; the answer is the bare token (a JWT).
    fn request<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<String, TokenError>>;
}

/// Where tokens outlive a restart: the store's table `token`.
pub trait TokenStore: Send + Sync {
    /// Every kept (key, value). A failure is the store's to log.
    fn load(&self) -> BoxFuture<'_, Vec<(String, Vec<u8>)>>;
    /// Keeps a value durably; `None` forgets it. A failure is the store's to log.
    fn keep<'a>(&'a self, key: &'a str, value: Option<Vec<u8>>) -> BoxFuture<'a, ()>;
}

/// Tells the time: `protocol::clock::Clock` in the program, a fixed one in tests.
pub type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Tokens held, by what they were asked for.
pub struct TokenCache {
    source: Arc<dyn TokenSource>,
    store: Arc<dyn TokenStore>,
    now: Now,
    held: Mutex<BTreeMap<String, Held>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    token: String,
    /// When it was asked for last, in this run of the program.
    #[serde(skip)]
    tried: Option<Instant>,
}

impl TokenCache {
    /// Loads what the store kept. A value that does not read is left alone until it is replaced.
    pub async fn open(source: Arc<dyn TokenSource>, store: Arc<dyn TokenStore>, now: Now) -> Self {
        let read = |(key, value): (String, Vec<u8>)| Some((key, serde_json::from_slice(&value).ok()?));
        let held = store.load().await.into_iter().filter_map(read).collect();
        Self {
            source,
            store,
            now,
            held: Mutex::new(held),
        }
    }

    /// The token to write for `request`, a fresh one when it is due and can be had.
    pub async fn token(&self, request: &TokenRequest) -> Result<String, TokenError> {
        let key = key(request);
        let Some(held) = self.held.lock().get(&key).cloned() else {
            let token = self.source.request(request).await?;
            return Ok(self.keep(key, token).await);
        };
        if !self.should_ask(&held) {
            return Ok(held.token);
        }
        self.mark_tried(&key);
        match timeout(RENEWAL_PATIENCE, self.source.request(request)).await {
            Ok(Ok(token)) => Ok(self.keep(key, token).await),
            Ok(Err(error)) => {
                debug!(pod = %request.pod_name, %error, "the last token stays in use");
                Ok(held.token)
            }
            Err(_) => Ok(held.token),
        }
    }

    /// When to ask for this token again. Never sooner than a try may follow the last.
    pub fn due_in(&self, request: &TokenRequest) -> Duration {
        let held = self.held.lock().get(&key(request)).cloned();
        let Some(span) = held.and_then(|held| Span::of(&held.token)) else {
            return RETRY;
        };
        let now = seconds((self.now)());
        Duration::from_secs(span.due().saturating_sub(now)).max(RETRY)
    }

    /// Whether a token is held that is to be renewed now. To be asked now and then: the clock may have
    /// been set, or the device asleep, since [`due_in`](Self::due_in) said when.
    pub fn is_due(&self, request: &TokenRequest) -> bool {
        let held = self.held.lock().get(&key(request)).cloned();
        held.is_some_and(|held| self.should_ask(&held))
    }

    /// Forgets the tokens of a pod that is gone.
    pub async fn forget(&self, pod_uid: &str) {
        let of_pod = format!("{pod_uid}/");
        let gone: Vec<_> = {
            let mut held = self.held.lock();
            let gone: Vec<_> = held
                .keys()
                .filter(|key| key.starts_with(&of_pod))
                .cloned()
                .collect();
            held.retain(|key, _| !key.starts_with(&of_pod));
            gone
        };
        for key in gone {
            self.store.keep(&key, None).await;
        }
    }

    async fn keep(&self, key: String, token: String) -> String {
        let held = Held {
            token: token.clone(),
            tried: Some(Instant::now()),
        };
        if let Ok(value) = serde_json::to_vec(&held) {
            self.store.keep(&key, Some(value)).await;
        }
        self.held.lock().insert(key, held);
        token
    }

    fn should_ask(&self, held: &Held) -> bool {
        let rested = held.tried.is_none_or(|tried| tried.elapsed() >= RETRY);
        let due = Span::of(&held.token).is_none_or(|span| span.due() <= seconds((self.now)()));
        rested && due
    }

    fn mark_tried(&self, key: &str) {
        if let Some(held) = self.held.lock().get_mut(key) {
            held.tried = Some(Instant::now());
        }
    }
}

/// The pod comes first, so that its tokens can be found; the rest is a digest.
fn key(request: &TokenRequest) -> String {
    let asked = serde_json::to_vec(request).unwrap_or_default();
    format!("{}/{}", request.pod_uid, &blake3::hash(&asked).to_hex()[..32])
}

/// What a token says of its own life, in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Span {
    iat: u64,
    exp: u64,
}

impl Span {
    fn of(token: &str) -> Option<Self> {
        let claims = token.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// At four fifths of its life, or after a day.
    fn due(self) -> u64 {
        let life = self.exp.saturating_sub(self.iat);
        self.iat.saturating_add((life / 5 * 4).min(DAY))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
