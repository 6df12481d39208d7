//! Which requests a node may make through `kube-api`. Pure.
//!
//! The list is a pre-check: the API server's own Node authorizer and `NodeRestriction` judge what
//! passes. A path is taken apart into checked names and put together again, so that nothing the
//! edge wrote reaches the API server as it was written.

use http::Method;
use serde_json::{Value, json};
use thiserror::Error;

/// The longest name that Kubernetes gives anything.
const NAME_MAX: usize = 253;

/// A request as it will be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

/// Why a request is not passed on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Denied {
    /// Not on the list.
    #[error("a node may not do this through cloudcore")]
    NotListed,
    /// On the list, with a body that is not what it should be.
    #[error("the body is not a TokenRequest that is bound to a pod")]
    BadBody,
}

/// Judges a request, and makes the one that is passed on.
///
/// What is listed: a token for a pod's service account. The API server checks that the pod is
/// the node's, and that its service account is the one named.
pub(super) fn judge(
    method: &Method,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> Result<Allowed, Denied> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let [
        "api",
        "v1",
        "namespaces",
        namespace,
        "serviceaccounts",
        name,
        "token",
    ] = parts.as_slice()
    else {
        return Err(Denied::NotListed);
    };
    if method != Method::POST || query.is_some() || !is_name(namespace) || !is_name(name) {
        return Err(Denied::NotListed);
    }
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    Ok(Allowed {
        path,
        body: token_request(body)?,
    })
}

/// Keeps of a `TokenRequest` its spec alone, which must be bound to a pod.
fn token_request(body: &[u8]) -> Result<Vec<u8>, Denied> {
    let request: Value = serde_json::from_slice(body).map_err(|_| Denied::BadBody)?;
    let spec = &request["spec"];
    let bound = &spec["boundObjectRef"];
    let is_pod = bound["kind"] == "Pod" && bound["name"].is_string() && bound["uid"].is_string();
    if !spec.is_object() || !is_pod {
        return Err(Denied::BadBody);
    }
    let rebuilt = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
    Ok(rebuilt.to_string().into_bytes())
}

/// A DNS-1123 subdomain: no separator, no dot segment, no escape.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= NAME_MAX
        && bytes.iter().copied().all(fits)
        && edge(bytes.first())
        && edge(bytes.last())
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/app/token";

    fn body() -> Vec<u8> {
        let spec = json!({ "audiences": [], "boundObjectRef": { "kind": "Pod", "name": "a", "uid": "u" } });
        json!({ "metadata": { "labels": { "x": "y" } }, "spec": spec })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn a_pods_token_may_be_asked_for_and_the_request_is_made_anew() {
        let allowed = judge(&Method::POST, TOKEN, None, &body()).unwrap();
        assert_eq!(allowed.path, TOKEN);
        let made: Value = serde_json::from_slice(&allowed.body).unwrap();
        assert_eq!(made["kind"], "TokenRequest");
        assert_eq!(made["spec"]["boundObjectRef"]["uid"], "u");
        assert!(made.get("metadata").is_none());
    }

    #[test]
    fn everything_else_is_refused() {
        for (method, path, query) in [
            (Method::GET, TOKEN, None),
            (Method::POST, TOKEN, Some("dryRun=All")),
            (Method::POST, "/api/v1/namespaces/default/secrets", None),
            (Method::GET, "/api/v1/namespaces/default/secrets/s", None),
            (
                Method::POST,
                "/api/v1/namespaces/../serviceaccounts/app/token",
                None,
            ),
            (
                Method::POST,
                "/api/v1/namespaces/a%2fb/serviceaccounts/app/token",
                None,
            ),
            (
                Method::POST,
                "/api/v1/namespaces/default/serviceaccounts/app/token/x",
                None,
            ),
            (
                Method::POST,
                "/api/v1/namespaces/default/serviceaccounts//token",
                None,
            ),
            (Method::POST, "", None),
        ] {
            let judged = judge(&method, path, query, &body());
            assert_eq!(judged, Err(Denied::NotListed), "{method} {path}");
        }
    }

    #[test]
    fn a_token_that_is_bound_to_no_pod_is_refused() {
        for spec in [
            json!({}),
            json!({ "boundObjectRef": { "kind": "Secret", "name": "a", "uid": "u" } }),
            json!(null),
        ] {
            let body = json!({ "spec": spec }).to_string().into_bytes();
            assert_eq!(judge(&Method::POST, TOKEN, None, &body), Err(Denied::BadBody));
        }
        assert_eq!(judge(&Method::POST, TOKEN, None, b"null"), Err(Denied::BadBody));
        assert_eq!(
            judge(&Method::POST, TOKEN, None, &b"[".repeat(100_000)),
            Err(Denied::BadBody)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_path_leads_anywhere_but_to_a_token(path in "(/?[a-z0-9./%-]{0,12}){0,9}|/api/v1/namespaces/[ -~]{0,20}/serviceaccounts/[ -~]{0,20}/token") {
            if let Ok(allowed) = judge(&Method::POST, &path, None, &body()) {
                let slashes = allowed.path.matches('/').count();
                prop_assert!(slashes == 7 && allowed.path.ends_with("/token"));
                prop_assert!(!allowed.path.contains("..") && !allowed.path.contains('%') && !allowed.path.contains('?'));
            }
        }
    }
}
