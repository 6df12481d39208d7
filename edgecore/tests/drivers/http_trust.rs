//! `tombolo/http` and trust: what is shown to a server, and which server is believed.

use std::sync::Arc;

use edgecore::devices::Observation;
use protocol::devices::DeviceState;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::folder::Folder;
use crate::http::{at, device, fault, name, value};
use crate::node::Node;
use crate::server::{Server, Web};

#[tokio::test]
async fn credentials_are_shown_to_their_server_by_those_who_may_use_them() {
    let folder = Folder::new("credentials");
    folder.write("bearer", "namespaces: [hall]\ntoken: 0123456789abcdef\n");
    folder.write("basic", "namespaces: [hall]\nusername: admin\npassword: secret\n");
    folder.write("theirs", "namespaces: [lab]\ntoken: 0123456789abcdef\n");
    let (bearer, basic) = (Web::with(&[("GET /v", "1")]), Web::with(&[("GET /v", "2")]));
    bearer.wants("Bearer 0123456789abcdef");
    basic.wants("Basic YWRtaW46c2VjcmV0");
    let (one, two) = (Server::start(&bearer).await, Server::start(&basic).await);
    let with = |port: u16, credentials: &str| {
        let mut config = at(port);
        config["credentials"] = json!(credentials);
        device(credentials, &config, &[("p", json!({"read": {"url": "/v"}}))])
    };
    let mut anonymous = device(
        "anonymous",
        &at(one.port),
        &[("p", json!({"read": {"url": "/v"}}))],
    );
    anonymous["metadata"]["uid"] = json!("other");
    let all = [
        with(one.port, "bearer"),
        with(two.port, "basic"),
        with(one.port, "theirs"),
        anonymous,
    ];
    let node = Node::with(1883, folder.path(), all);
    node.twins.until(&name("bearer"), "p", &value("1")).await;
    node.twins.until(&name("basic"), "p", &value("2")).await;
    let refused = fault("GET /v: HTTP 401 Unauthorized");
    node.twins.until(&name("anonymous"), "p", &refused).await;
    let hidden = fault("GET /v: there are no credentials theirs that namespace hall may use");
    node.twins.until(&name("theirs"), "p", &hidden).await;
    node.stop().await;
}

/// An authority, written into a folder, and a server that it vouches for.
fn authority(folder: &Folder) -> TlsAcceptor {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "plant");
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    folder.write("ca.pem", &ca.pem());
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![own.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn over_tls_the_named_authority_is_trusted_and_no_other() {
    let folder = Folder::new("tls");
    let acceptor = authority(&folder);
    let ca = folder.path().join("ca.pem");
    folder.write("plant", &format!("namespaces: [hall]\nca: {}\n", ca.display()));
    let web = Web::with(&[("GET /v", "1")]);
    let server = Server::at(0, &web, Some(acceptor)).await;
    let url = |host: &str| json!({"url": format!("https://{host}:{}", server.port), "credentials": "plant"});
    let visitors = [("p", json!({"read": {"url": "/v"}}))];
    let mut system = url("localhost");
    system.as_object_mut().unwrap().remove("credentials");
    let all = [
        device("trusted", &url("localhost"), &visitors),
        device("other-name", &url("127.0.0.1"), &visitors),
        device("unknown", &system, &visitors),
    ];
    let node = Node::with(1883, folder.path(), all);
    node.twins.until(&name("trusted"), "p", &value("1")).await;
    for device in ["other-name", "unknown"] {
        node.until_state(&name(device), DeviceState::Offline).await;
        let observed = node.twins.observed(&name(device));
        let tls = |seen: &Observation| matches!(seen, Observation::Fault(why) if why.contains("TLS"));
        assert!(observed.iter().all(|(_, seen)| tls(seen)), "{observed:?}");
    }
    node.stop().await;
}
