//! The API server's `TokenRequest`, as the node.
//!
//! **Invariant:** `audiences` stays empty unless the pod names one: the API server refuses a node that names
//! its issuer itself.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{TokenError, TokenRequest, TokenSource};
use crate::pods::spec::is_plain_name;

/// The node's own way to the API server.
pub trait NodeApi: Send + Sync {
    /// Posts JSON; the answer is status and body. An error means that the cluster cannot be reached now.
    fn post<'a>(&'a self, path: &'a str, body: Vec<u8>) -> BoxFuture<'a, Result<(u16, Vec<u8>), String>>;
}

/// Asks for tokens over the link.
pub struct ApiTokens(Arc<dyn NodeApi>);

impl ApiTokens {
    /// Asks through `api`.
    pub fn new(api: Arc<dyn NodeApi>) -> Self {
        Self(api)
    }

    async fn ask(&self, request: &TokenRequest) -> Result<String, TokenError> {
        let account = format!("{}/{}", request.namespace, request.service_account);
        let refused = |status, message| TokenError::Refused {
            account: account.clone(),
            status,
            message,
        };
        if !is_plain_name(&request.namespace) || !is_plain_name(&request.service_account) {
            return Err(refused(
                400,
                "the name of the service account is not a name".to_owned(),
            ));
        }
        let answer = self.0.post(&path(request), body(request)).await;
        let (status, body) = answer.map_err(|_| TokenError::Unreachable(account.clone()))?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match text(&body["status"]["token"]) {
            Some(token) if (200..300).contains(&status) && !token.is_empty() => Ok(token),
            _ => Err(refused(
                status,
                text(&body["message"]).unwrap_or_else(|| "the answer holds no token".to_owned()),
            )),
        }
    }
}

impl TokenSource for ApiTokens {
    fn request<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<String, TokenError>> {
        Box::pin(self.ask(request))
    }
}

fn path(request: &TokenRequest) -> String {
    format!(
        "/api/v1/namespaces/{}/serviceaccounts/{}/token",
        request.namespace, request.service_account
    )
}

fn body(request: &TokenRequest) -> Vec<u8> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": request.pod_name, "uid": request.pod_uid});
    let mut spec = json!({"expirationSeconds": request.expiration_seconds, "boundObjectRef": pod});
    spec["audiences"] = json!(request.audiences);
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    struct Server {
        answer: Result<(u16, &'static str), String>,
        asked: Mutex<Option<(String, Value)>>,
    }

    impl NodeApi for Server {
        fn post<'a>(&'a self, path: &'a str, body: Vec<u8>) -> BoxFuture<'a, Result<(u16, Vec<u8>), String>> {
            *self.asked.lock() = Some((path.to_owned(), serde_json::from_slice(&body).unwrap()));
            let answer = self
                .answer
                .clone()
                .map(|(status, body)| (status, body.as_bytes().to_vec()));
            Box::pin(async { answer })
        }
    }

    fn request() -> TokenRequest {
        TokenRequest {
            namespace: "ns".to_owned(),
            service_account: "sa".to_owned(),
            audiences: Vec::new(),
            expiration_seconds: 3607,
            pod_name: "web-0".to_owned(),
            pod_uid: "u-1".to_owned(),
        }
    }

    async fn ask(
        answer: Result<(u16, &'static str), String>,
        request: &TokenRequest,
    ) -> (Result<String, TokenError>, Arc<Server>) {
        let server = Arc::new(Server {
            answer,
            asked: Mutex::default(),
        });
        (ApiTokens::new(server.clone()).request(request).await, server)
    }

    #[tokio::test]
    async fn a_token_is_asked_for_as_bound_to_its_pod() {
        let (token, server) = ask(Ok((201, r#"{"status":{"token":"jwt"}}"#)), &request()).await;
        assert_eq!(token.unwrap(), "jwt");
        let (path, body) = server.asked.lock().take().unwrap();
        assert_eq!(path, "/api/v1/namespaces/ns/serviceaccounts/sa/token");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "u-1"});
        assert_eq!(
            body["spec"],
            json!({"audiences": [], "expirationSeconds": 3607, "boundObjectRef": pod})
        );
    }

    #[tokio::test]
    async fn a_refusal_is_told_apart_from_a_cut() {
        let (refused, _) = ask(Ok((403, r#"{"message":"no relationship found"}"#)), &request()).await;
        let told = refused.unwrap_err().to_string();
        assert_eq!(
            told,
            "no token for service account ns/sa: 403 no relationship found"
        );
        let (cut, _) = ask(Err("no session".to_owned()), &request()).await;
        assert!(matches!(cut, Err(TokenError::Unreachable(_))));
        let (odd, _) = ask(Ok((200, "captive portal")), &request()).await;
        assert!(matches!(odd, Err(TokenError::Refused { status: 200, .. })));
    }

    #[tokio::test]
    async fn a_name_that_could_change_the_path_is_never_sent() {
        let climbing = TokenRequest {
            service_account: "../x".to_owned(),
            ..request()
        };
        let (refused, server) = ask(Ok((201, r#"{"status":{"token":"jwt"}}"#)), &climbing).await;
        assert!(refused.is_err());
        assert!(server.asked.lock().is_none());
    }
}
