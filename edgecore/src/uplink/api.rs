//! The node's own calls to the API server, through the tunnel service `kube-api`.
//!
//! cloudcore rebuilds each request and sends it as the node; no credentials travel from here.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use protocol::name::ServiceName;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Link;
use crate::pods::volumes::tokens::{TokenError, TokenRequest, TokenSource};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest answer: a token is 2 KB.
const MAX_ANSWER: usize = 256 << 10;

/// Calls the API server as this node.
#[derive(Clone)]
pub struct NodeApi {
    link: Link,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl NodeApi {
    /// Calls through this link.
    pub const fn new(link: Link) -> Self {
        Self { link }
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), BoxError> {
        let stream = self.link.tunnel(ServiceName::KubeApi).await?;
        let io = TokioIo::new(tokio::io::join(stream.recv, stream.send));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(http::header::HOST, "kubernetes.default.svc")
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?;
        Ok((status, body.to_bytes()))
    }

    async fn token(&self, request: &TokenRequest) -> Result<String, TokenError> {
        let TokenRequest {
            namespace,
            service_account,
            ..
        } = request;
        let account = format!("{namespace}/{service_account}");
        let unreachable = || TokenError::Unreachable(account.clone());
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token");
        let body = serde_json::to_vec(&wanted(request)).map_err(|_| unreachable())?;
        let answer = timeout(PATIENCE, self.post(&path, body)).await;
        let (status, body) = answer.map_err(|_| unreachable())?.map_err(|error| {
            tracing::debug!(account, %error, "a token could not be asked for");
            unreachable()
        })?;
        if !status.is_success() {
            return Err(refused(account, status, &body));
        }
        let granted: ApiTokenRequest = serde_json::from_slice(&body).map_err(|_| unreachable())?;
        granted
            .status
            .and_then(|status| status.token)
            .ok_or_else(unreachable)
    }
}

impl TokenSource for NodeApi {
    fn request<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<String, TokenError>> {
        Box::pin(self.token(request))
    }
}

fn wanted(request: &TokenRequest) -> ApiTokenRequest {
    ApiTokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(request.audiences.clone()),
            expiration_seconds: Some(request.expiration_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(request.pod_name.clone()),
                uid: Some(request.pod_uid.clone()),
            }),
        }),
        ..ApiTokenRequest::default()
    }
}

fn refused(account: String, status: StatusCode, body: &[u8]) -> TokenError {
    let message = serde_json::from_slice::<Status>(body)
        .ok()
        .and_then(|status| status.message)
        .unwrap_or_else(|| protocol::name::shown(&String::from_utf8_lossy(body)));
    TokenError::Refused {
        account,
        status: status.as_u16(),
        message,
    }
}
