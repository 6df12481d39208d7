//! What is an endpoint, and what is said of one where nobody listens.

use super::*;

#[tokio::test]
async fn an_endpoint_must_be_a_unix_socket() {
    assert!(Cri::new("unix:///run/containerd/containerd.sock").is_ok());
    assert!(Cri::new("/run/crio/crio.sock").is_ok());
    assert!(Cri::new("tcp://127.0.0.1:1").is_err());
}

#[tokio::test]
async fn a_runtime_that_is_not_up_is_unavailable() {
    let cri = Cri::new("unix:///nonexistent/containerd.sock").unwrap();
    let error = cri.version().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error}");
}
