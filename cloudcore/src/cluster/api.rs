//! Raw requests to the API server, as cloudcore or as a node.
//!
//! What it is: one place that builds requests, sets the identity, bounds time and size, and turns
//! answers into [`ApiError`]. What it is not: typed; bodies stay bytes.
//!
//! **Invariant:** `Impersonate-*` headers are set here and nowhere else, and the only identity ever
//! assumed is `system:node:<name>` of a parsed [`NodeName`]. Whatever is written names cloudcore as the
//! manager of its fields, also where a node is who writes.

mod error;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::RwLock;
use protocol::name::NodeName;
use serde::Deserialize;
use tokio::time::timeout;

pub use error::ApiError;

/// How long one request that is not a watch may take, answer included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// What one answer may weigh: lists are paged well below it.
const ANSWER_LIMIT: usize = 64 << 20;

/// By what name `managedFields` know who wrote.
pub(super) const MANAGER: &str = "cloudcore";

/// How much of an object an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Whole,
    Metadata,
    ListOfMetadata,
}

impl Shape {
    /// What is accepted. A server that cannot cut an object down gives the whole one.
    const fn accept(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Metadata => {
                Some("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json")
            }
            Self::ListOfMetadata => {
                Some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json")
            }
        }
    }
}

/// How the API server lets cloudcore act for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impersonation {
    /// Kubernetes 1.36 and later: rights per verb, only nodes, and no group header.
    Constrained,
    /// Older servers: the classic right, with the group `system:nodes` in a header.
    Classic,
}

/// In whose name a request is made.
#[derive(Clone, Copy, Debug)]
pub enum Actor<'a> {
    /// cloudcore's own `ServiceAccount`.
    Cloudcore,
    /// The node, so that the API server's own NodeRestriction judges.
    Node(&'a NodeName),
}

/// How a body is to be understood by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A whole object.
    Json,
    /// RFC 7386: what status writes use (a strategic merge of `podIPs` is refused by validation).
    MergePatch,
    /// RFC 6902: what the autonomy patch uses, for its `test` operations.
    JsonPatch,
}

impl Content {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MergePatch => "application/merge-patch+json",
            Self::JsonPatch => "application/json-patch+json",
        }
    }
}

/// One request: what to do, where, and with which body.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    content: Content,
    body: Vec<u8>,
    shape: Shape,
    /// What the answer may weigh.
    most: usize,
}

impl Call {
    /// Reads an object or a list.
    pub fn get(path: impl Into<String>) -> Self {
        Self::bare(Method::GET, path)
    }

    /// Creates an object.
    pub fn post(path: impl Into<String>, body: Vec<u8>) -> Self {
        Self {
            body,
            ..Self::bare(Method::POST, path)
        }
    }

    /// Replaces an object; with a resourceVersion in the body it is a compare-and-swap.
    pub fn put(path: impl Into<String>, body: Vec<u8>) -> Self {
        Self {
            body,
            ..Self::bare(Method::PUT, path)
        }
    }

    /// Changes a part of an object.
    pub fn patch(path: impl Into<String>, content: Content, body: Vec<u8>) -> Self {
        Self {
            content,
            body,
            ..Self::bare(Method::PATCH, path)
        }
    }

    /// Deletes an object; the body holds the preconditions.
    pub fn delete(path: impl Into<String>, body: Vec<u8>) -> Self {
        Self {
            body,
            ..Self::bare(Method::DELETE, path)
        }
    }

    /// Wants no more than the metadata of the object.
    #[must_use]
    pub fn only_metadata(self) -> Self {
        Self {
            shape: Shape::Metadata,
            ..self
        }
    }

    /// Wants no more than the metadata of the objects listed.
    #[must_use]
    pub fn list_of_metadata(self) -> Self {
        Self {
            shape: Shape::ListOfMetadata,
            ..self
        }
    }

    /// Takes no answer that weighs more.
    #[must_use]
    pub fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    fn bare(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            content: Content::Json,
            body: Vec::new(),
            shape: Shape::Whole,
            most: ANSWER_LIMIT,
        }
    }

    /// Where it goes. A write that names no manager would be one by `unknown`.
    fn uri(&self) -> String {
        let path = &self.path;
        if ![Method::POST, Method::PUT, Method::PATCH].contains(&self.method) {
            return path.clone();
        }
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("{path}{sign}fieldManager={MANAGER}")
    }

    /// What an error message says was tried.
    fn action(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// A client of the API server that can act as a node.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    /// For watches as nodes.
    watching: kube::Client,
    /// Shared by all clones: the cluster's administrator may change the rights while cloudcore runs.
    way: Arc<RwLock<Impersonation>>,
}

impl Api {
    /// A client with the given way of impersonation.
    pub fn new(client: kube::Client, way: Impersonation) -> Self {
        Self {
            watching: client.clone(),
            client,
            way: Arc::new(RwLock::new(way)),
        }
    }

    /// Watches that are made as nodes, one for each object that pods name, go by this client.
    #[must_use]
    pub fn watching_by(self, watching: kube::Client) -> Self {
        Self { watching, ..self }
    }

    /// The way of impersonation in use.
    pub fn impersonation(&self) -> Impersonation {
        *self.way.read()
    }

    /// From now on this and all clones act for nodes by this way.
    pub(super) fn go(&self, way: Impersonation) {
        *self.way.write() = way;
    }

    /// The same client, by a way of its own.
    pub(super) fn by(&self, way: Impersonation) -> Self {
        Self::new(self.client.clone(), way).watching_by(self.watching.clone())
    }

    /// Makes a request and returns the body of the answer.
    ///
    /// # Cancel safety
    ///
    /// A write that is cut short may or may not have happened: callers read before they retry.
    pub async fn call(&self, actor: Actor<'_>, call: Call) -> Result<Bytes, ApiError> {
        let (action, most) = (call.action(), call.most);
        let work = async {
            let answer = self.open(actor, call, false).await?;
            collect(answer, &action, most).await
        };
        timeout(CALL_TIMEOUT, work)
            .await
            .unwrap_or(Err(ApiError::TimedOut {
                action: action.clone(),
            }))
    }

    /// Like [`Api::call`], and reads the answer as JSON.
    pub async fn call_as<T: serde::de::DeserializeOwned>(
        &self,
        actor: Actor<'_>,
        call: Call,
    ) -> Result<T, ApiError> {
        let action = call.action();
        let answer = self.call(actor, call).await?;
        serde_json::from_slice(&answer).map_err(|source| ApiError::Garbled { action, source })
    }

    /// Opens a watch and returns its body, uncompressed, once the server has accepted it.
    pub async fn watch(&self, actor: Actor<'_>, call: Call) -> Result<Body, ApiError> {
        let action = call.action();
        let opened = timeout(CALL_TIMEOUT, self.open(actor, call, true)).await;
        Ok(opened.unwrap_or(Err(ApiError::TimedOut { action }))?.into_body())
    }

    async fn open(&self, actor: Actor<'_>, call: Call, streaming: bool) -> Result<Response<Body>, ApiError> {
        let action = call.action();
        let request = self
            .request(actor, call, streaming)
            .map_err(|error| unreachable(&action, error))?;
        let shared = streaming && matches!(actor, Actor::Node(_));
        let client = if shared { &self.watching } else { &self.client };
        let answer = client
            .send(request)
            .await
            .map_err(|error| unreachable(&action, error))?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(refusal(answer, action).await)
        }
    }

    fn request(&self, actor: Actor<'_>, call: Call, streaming: bool) -> Result<Request<Body>, http::Error> {
        let uri = call.uri();
        let mut request = Request::builder().method(call.method).uri(uri);
        if streaming {
            // Decompressing layers stop at the first member of a compressed watch.
            request = request.header(header::ACCEPT_ENCODING, "identity");
        }
        if let Some(accept) = call.shape.accept() {
            request = request.header(header::ACCEPT, accept);
        }
        if !call.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, call.content.media_type());
        }
        for (name, value) in self.identity(actor) {
            request = request.header(name, value);
        }
        request.body(Body::from(call.body))
    }

    fn identity(&self, actor: Actor<'_>) -> Vec<(&'static str, String)> {
        match (actor, self.impersonation()) {
            (Actor::Cloudcore, _) => Vec::new(),
            // A group header would make the server fall back to the classic check.
            (Actor::Node(node), Impersonation::Constrained) => vec![("Impersonate-User", user_of(node))],
            (Actor::Node(node), Impersonation::Classic) => {
                vec![
                    ("Impersonate-User", user_of(node)),
                    ("Impersonate-Group", "system:nodes".into()),
                ]
            }
        }
    }
}

/// The user name that the Node authorizer knows a node by.
fn user_of(node: &NodeName) -> String {
    format!("system:node:{node}")
}

fn unreachable(action: &str, error: impl std::error::Error + Send + Sync + 'static) -> ApiError {
    ApiError::Unreachable {
        action: action.to_owned(),
        source: Box::new(error),
    }
}

/// Reads a body to its end, within the limit.
async fn collect(answer: Response<Body>, action: &str, most: usize) -> Result<Bytes, ApiError> {
    let mut body = answer.into_body();
    let mut gathered = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreachable(action, error))?;
        let Ok(data) = frame.into_data() else { continue };
        if gathered.len() + data.len() > most {
            return Err(ApiError::TooLarge {
                action: action.to_owned(),
                most,
            });
        }
        gathered.extend_from_slice(&data);
    }
    Ok(gathered.freeze())
}

/// The parts of a Status object that matter to whoever must act.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) code: u16,
}

async fn refusal(answer: Response<Body>, action: String) -> ApiError {
    let code = answer.status();
    let retry_after = answer
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .map(Duration::from_secs);
    let text = collect(answer, &action, ANSWER_LIMIT).await.unwrap_or_default();
    let status = serde_json::from_slice(&text).unwrap_or_else(|_| plain_status(code, &text));
    ApiError::Refused {
        action,
        code: code.as_u16(),
        reason: status.reason,
        message: status.message,
        retry_after,
    }
}

fn plain_status(code: StatusCode, text: &[u8]) -> Status {
    let text: String = String::from_utf8_lossy(text)
        .chars()
        .filter(|c| !c.is_control())
        .take(256)
        .collect();
    Status {
        reason: code.canonical_reason().unwrap_or_default().into(),
        message: text,
        code: code.as_u16(),
    }
}
