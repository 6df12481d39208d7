//! For tests: an enrolment in which every node has joined and nobody minds what is bound, and a cluster on an API
//! server in memory.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use protocol::clock::Clock;
use protocol::name::NodeName;
use serde_json::Value;

use super::{Api, BoxError, Cluster, Enrolment, Impersonation, PodObserver, Settings};

/// Takes everyone.
pub(crate) struct Everyone;

impl Enrolment for Everyone {
    fn is_enrolled(&self, _: &NodeName) -> bool {
        true
    }

    fn confirm<'a>(&'a self, _: &'a NodeName) -> BoxFuture<'a, Result<bool, BoxError>> {
        async { Ok(true) }.boxed()
    }
}

impl PodObserver for Everyone {
    fn bound(&self, _: &str, _: &str, _: bool, _: &[u8]) {}
    fn gone(&self, _: &str, _: &str) {}
}

/// Every node is enrolled as far as the watch of keys has told; the cluster may know better.
pub(crate) struct Enrolled {
    confirmed: bool,
}

impl Enrolled {
    pub(crate) const fn as_remembered(confirmed: bool) -> Self {
        Self { confirmed }
    }
}

impl Enrolment for Enrolled {
    fn is_enrolled(&self, _: &NodeName) -> bool {
        true
    }

    fn confirm<'a>(&'a self, _: &'a NodeName) -> BoxFuture<'a, Result<bool, BoxError>> {
        let confirmed = self.confirmed;
        async move { Ok(confirmed) }.boxed()
    }
}

/// One request as an API server in memory sees it.
pub(crate) struct Asked {
    pub(crate) head: Parts,
    /// Null where it is no JSON.
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn is(&self, method: &Method, path: &str) -> bool {
        self.head.method == *method && self.head.uri.path() == path
    }
}

/// A client whose requests are answered by a function.
pub(crate) fn client(
    answer: impl Fn(Asked) -> (StatusCode, Value) + Clone + Send + Sync + 'static,
) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (code, said) = answer(Asked { head, body });
            let said = Full::new(Bytes::from(said.to_string()));
            Ok::<_, Infallible>(Response::builder().status(code).body(said).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

/// A cluster on such an API server.
pub(crate) fn cluster(
    answer: impl Fn(Asked) -> (StatusCode, Value) + Clone + Send + Sync + 'static,
) -> Cluster {
    cluster_of(answer, Arc::new(Everyone))
}

/// The same, with an enrolment.
pub(crate) fn cluster_of(
    answer: impl Fn(Asked) -> (StatusCode, Value) + Clone + Send + Sync + 'static,
    enrolment: Arc<dyn Enrolment>,
) -> Cluster {
    Cluster::new(Settings {
        api: Api::new(client(answer), Impersonation::Constrained),
        clock: Clock::system(),
        enrolment,
        bindings: Arc::new(Everyone),
        advertise: None,
    })
}
