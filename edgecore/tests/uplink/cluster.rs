//! What the cloud of a test holds and was told. It outlives its replicas.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::desired::{Found, View, references};
use protocol::join::{ChannelValue, RenewRequest};
use protocol::object::{Kind, Object, ObjectKey, Revision, canonical};
use protocol::reported::{OutboxKey, Write};
use protocol::tls::{authority_from_pem, certified};
use protocol::wire::{Hello, Reject, Welcome, session_down};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;

/// The id that the cluster has unless a test says otherwise.
pub(crate) const CLUSTER: &str = "cluster";

pub(crate) struct Cluster {
    objects: Mutex<BTreeMap<ObjectKey, Arc<Object>>>,
    revision: watch::Sender<u64>,
    /// What the next Hellos are answered with; then Welcome.
    answers: Mutex<VecDeque<session_down::Kind>>,
    /// The CA, and the certificate that the next renewal gets.
    renewal: Mutex<Option<(CertificateDer<'static>, String)>>,
    pub(crate) hellos: watch::Sender<Vec<(Instant, Hello)>>,
    pub(crate) reports: watch::Sender<Vec<(OutboxKey, Vec<u8>)>>,
}

impl Cluster {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: Mutex::default(),
            revision: watch::channel(1).0,
            answers: Mutex::default(),
            renewal: Mutex::default(),
            hellos: watch::channel(Vec::new()).0,
            reports: watch::channel(Vec::new()).0,
        })
    }

    /// Binds a pod to the node, with the `ConfigMap` that it names.
    pub(crate) fn add_pod(&self, name: &str) {
        let revision = *self.revision.borrow() + 1;
        let map = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"namespace":"default","name":"{name}","uid":"map-{name}","resourceVersion":"{revision}"}},"data":{{"k":"v"}}}}"#
        );
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"default","name":"{name}","uid":"pod-{name}","resourceVersion":"{revision}"}},
            "spec":{{"containers":[{{"name":"c","image":"i"}}],"volumes":[{{"name":"v","configMap":{{"name":"{name}"}}}}]}}}}"#
        );
        for (kind, json) in [(Kind::ConfigMap, map), (Kind::Pod, pod)] {
            let object = canonical(kind, json.as_bytes()).unwrap();
            self.objects.lock().insert(object.key.clone(), Arc::new(object));
        }
        self.revision.send_replace(revision);
    }

    pub(crate) fn answer_next_with(&self, answer: session_down::Kind) {
        self.answers.lock().push_back(answer);
    }

    pub(crate) fn renew_with(&self, authority: &CertificateDer<'static>, certificate: String) {
        *self.renewal.lock() = Some((authority.clone(), certificate));
    }

    /// The new certificate, for who proves that it holds the key of the old one.
    pub(crate) fn renewed(&self, request: &RenewRequest, channel: &ChannelValue) -> Option<String> {
        let (authority, certificate) = self.renewal.lock().take()?;
        let leaf = authority_from_pem(request.certificate.as_bytes()).ok()?;
        let held = certified(&authority, &leaf).ok()?;
        channel
            .is_proven(&held.public_key, &request.proof)
            .then_some(certificate)
    }

    pub(crate) fn greeted(&self, hello: Hello) -> session_down::Kind {
        self.hellos
            .send_modify(|hellos| hellos.push((Instant::now(), hello)));
        let answer = self.answers.lock().pop_front();
        answer.unwrap_or_else(|| session_down::Kind::Welcome(welcome(CLUSTER)))
    }

    pub(crate) fn take(&self, write: Write) {
        self.reports
            .send_modify(|reports| reports.push((write.key, write.payload)));
    }

    pub(crate) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(crate) fn every_key(&self) -> Vec<ObjectKey> {
        self.objects.lock().keys().cloned().collect()
    }
}

pub(crate) fn welcome(cluster: &str) -> Welcome {
    Welcome {
        version: 1,
        cluster_id: cluster.to_owned(),
        replica: "replica-1".to_owned(),
        keepalive_ms: 25_000,
        api_reachable: true,
        takes_events: true,
        ..Welcome::default()
    }
}

pub(crate) fn reject(retry_after_ms: u64) -> session_down::Kind {
    session_down::Kind::Reject(Reject {
        text: "not now".to_owned(),
        retry_after_ms,
        ..Reject::default()
    })
}

impl View for Cluster {
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let of_kind = |key: &ObjectKey| key.kind == kind;
        self.every_key().into_iter().filter(of_kind).collect()
    }

    fn find(&self, key: &ObjectKey) -> Found {
        let found = self.objects.lock().get(key).cloned();
        found.map_or(Found::Nothing, Found::Object)
    }

    fn closure(&self, pod: &ObjectKey) -> Vec<ObjectKey> {
        let pod = self.objects.lock().get(pod).cloned();
        let named: BTreeSet<_> = pod
            .and_then(|pod| references(&pod.body.json().ok()?).ok())
            .unwrap_or_default();
        named.into_iter().collect()
    }

    fn revision(&self, _kind: Kind) -> Revision {
        Revision(*self.revision.borrow())
    }
}
