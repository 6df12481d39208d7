//! An API server in memory: Secrets with compare-and-swap, list and watch, and the names of Nodes.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What the API server holds.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<u64>,
    /// Whether single objects that are asked for are answered.
    answers: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Value>,
    nodes: BTreeMap<String, Value>,
    events: Vec<(u64, Value)>,
    revision: u64,
    reads: usize,
    fails_reads: bool,
    /// Reads that wait for their answer.
    held: usize,
    /// Patches that somebody else is faster than.
    lost_patches: usize,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            revision: watch::Sender::new(0),
            answers: watch::Sender::new(true),
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "tombolo-system")
    }

    /// Puts a Node there, with or without the label that only cloudcore sets.
    pub(crate) fn add_node(&self, name: &str, ours: bool) {
        let labels = if ours {
            json!({ "node-restriction.kubernetes.io/tombolo": "" })
        } else {
            json!({})
        };
        let node =
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } });
        self.state.lock().nodes.insert(name.to_owned(), node);
    }

    /// From now on whoever asks for a single object waits, or does not.
    pub(crate) fn hold_reads(&self, hold: bool) {
        self.answers.send_replace(!hold);
    }

    /// How many wait.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().held
    }

    /// How often single objects were read.
    pub(crate) fn reads(&self) -> usize {
        self.state.lock().reads
    }

    /// From now on single objects can be read, or not.
    pub(crate) fn fail_reads(&self, fails: bool) {
        self.state.lock().fails_reads = fails;
    }

    /// Somebody else writes what the next patch is for, just before it.
    pub(crate) fn lose_a_patch(&self) {
        self.state.lock().lost_patches += 1;
    }

    /// Removes a Secret, as an operator may.
    pub(crate) fn remove_secret(&self, name: &str) {
        assert_eq!(self.delete(name).status(), StatusCode::OK);
    }

    /// Every text in every Secret.
    pub(crate) fn all_secrets(&self) -> String {
        format!("{:?}", self.state.lock().secrets)
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
        if head.method == Method::GET && path.len() == 6 && !*self.answers.borrow() {
            self.state.lock().held += 1;
            let mut answers = self.answers.subscribe();
            answers.wait_for(|answers| *answers).await.unwrap();
        }
        match path.as_slice() {
            ["api", "v1", "nodes", name] => self.read(|state| found(state.nodes.get(*name))),
            ["api", "v1", "namespaces", _, "secrets"] if head.method == Method::POST => self.create(&body),
            ["api", "v1", "namespaces", _, "secrets"] => {
                let query = head.uri.query().unwrap_or_default();
                if query.contains("watch=true") {
                    self.watch(query)
                } else {
                    self.list(query)
                }
            }
            ["api", "v1", "namespaces", _, "secrets", name] => match head.method {
                Method::GET => self.read(|state| found(state.secrets.get(*name))),
                Method::PUT => self.replace(name, &body),
                Method::PATCH => self.annotate(name, &body),
                Method::DELETE => self.delete(name),
                _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            },
            _ => status(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn read(&self, read: impl FnOnce(&State) -> Answer) -> Answer {
        let mut state = self.state.lock();
        state.reads += 1;
        if state.fails_reads {
            return status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        read(&state)
    }

    fn create(&self, body: &[u8]) -> Answer {
        let secret: Value = serde_json::from_slice(body).unwrap();
        let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
        if self.state.lock().secrets.contains_key(&name) {
            return status(StatusCode::CONFLICT, "AlreadyExists");
        }
        self.store(name, secret, "ADDED")
    }

    fn replace(&self, name: &str, body: &[u8]) -> Answer {
        let secret: Value = serde_json::from_slice(body).unwrap();
        let stored = self.state.lock().secrets.get(name).cloned();
        match stored {
            None => status(StatusCode::NOT_FOUND, "NotFound"),
            Some(stored)
                if stored["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"] =>
            {
                status(StatusCode::CONFLICT, "Conflict")
            }
            Some(_) => self.store(name.to_owned(), secret, "MODIFIED"),
        }
    }

    /// A merge patch of annotations, with the version that it is for.
    fn annotate(&self, name: &str, body: &[u8]) -> Answer {
        let patch: Value = serde_json::from_slice(body).unwrap();
        let Some(mut secret) = self.state.lock().secrets.get(name).cloned() else {
            return status(StatusCode::NOT_FOUND, "NotFound");
        };
        let lost = std::mem::take(&mut self.state.lock().lost_patches);
        if lost > 0 {
            self.store(name.to_owned(), secret, "MODIFIED");
            self.state.lock().lost_patches = lost - 1;
            return status(StatusCode::CONFLICT, "Conflict");
        }
        if secret["metadata"]["resourceVersion"] != patch["metadata"]["resourceVersion"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
            secret["metadata"]["annotations"][key] = value.clone();
        }
        self.store(name.to_owned(), secret, "MODIFIED")
    }

    fn delete(&self, name: &str) -> Answer {
        let removed = self.state.lock().secrets.remove(name);
        match removed {
            None => status(StatusCode::NOT_FOUND, "NotFound"),
            Some(secret) => {
                self.log("DELETED", &secret);
                respond(
                    StatusCode::OK,
                    &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }),
                )
            }
        }
    }

    fn store(&self, name: String, mut secret: Value, event: &str) -> Answer {
        secret["apiVersion"] = json!("v1");
        secret["kind"] = json!("Secret");
        secret["metadata"]["resourceVersion"] = json!((self.state.lock().revision + 1).to_string());
        self.state.lock().secrets.insert(name, secret.clone());
        self.log(event, &secret);
        respond(StatusCode::OK, &secret)
    }

    fn log(&self, kind: &str, object: &Value) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        state
            .events
            .push((revision, json!({ "type": kind, "object": object })));
        drop(state);
        self.revision.send_replace(revision);
    }

    fn list(&self, query: &str) -> Answer {
        let state = self.state.lock();
        let items: Vec<_> = state
            .secrets
            .values()
            .filter(|secret| selected(query, secret))
            .collect();
        let meta = json!({ "resourceVersion": state.revision.to_string() });
        respond(
            StatusCode::OK,
            &json!({ "kind": "SecretList", "apiVersion": "v1", "metadata": meta, "items": items }),
        )
    }

    fn watch(&self, query: &str) -> Answer {
        let from = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="))
            .unwrap_or("0");
        let (from, query, api): (u64, _, _) = (from.parse().unwrap_or(0), query.to_owned(), self.clone());
        let events = stream::unfold((from, self.revision.subscribe()), move |(seen, mut bell)| {
            let (query, api) = (query.clone(), api.clone());
            async move {
                bell.wait_for(|revision| *revision > seen).await.ok()?;
                let state = api.state.lock();
                let newer = state.events.iter().filter(|(revision, _)| *revision > seen);
                let lines: Vec<_> = newer
                    .filter(|(_, event)| selected(&query, &event["object"]))
                    .map(|(_, event)| event.to_string())
                    .collect();
                let lines = if lines.is_empty() {
                    String::new()
                } else {
                    lines.join("\n") + "\n"
                };
                let seen = state.revision;
                drop(state);
                Some((lines, (seen, bell)))
            }
        });
        let frames = events.map(|lines| Ok(Frame::data(Bytes::from(lines))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

/// Whether the label selector of a query names the kind of a Secret.
fn selected(query: &str, secret: &Value) -> bool {
    let kind = secret["metadata"]["labels"]["tombolo.dev/kind"]
        .as_str()
        .unwrap_or("none");
    let selector = query
        .split('&')
        .find(|pair| pair.starts_with("labelSelector="))
        .unwrap_or_default();
    selector.contains(&format!("%3D{kind}"))
        || selector.contains(&format!("%28{kind}"))
        || selector.contains(&format!("%2C{kind}"))
}

fn found(object: Option<&Value>) -> Answer {
    object.map_or_else(
        || status(StatusCode::NOT_FOUND, "NotFound"),
        |object| respond(StatusCode::OK, object),
    )
}

fn status(code: StatusCode, reason: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code.as_u16(),
    });
    respond(code, &status)
}

fn respond(code: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = code;
    response
}
