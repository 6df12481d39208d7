//! An API server in memory, and cloudcore's view of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use parking_lot::Mutex;
use protocol::clock::Clock;
use protocol::devices::DeviceIdentity;
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey};
use serde_json::{Value, json};

pub(super) use crate::cluster::testing::Everyone;
use crate::cluster::{Api, Cluster, Holder, Impersonation, Settings};
use crate::devices::{DeviceWriter, Devices};

pub(super) const STATUS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/n/devicestatuses/pump";
pub(super) const DEVICE: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/n/devices/pump";

const STATUSES: &str = "/apis/devices.kubeedge.io/v1beta1/devicestatuses";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Objects by path, and the requests that were made.
#[derive(Clone, Default)]
pub(super) struct Server {
    pub(super) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Value>,
    pub(super) revision: u64,
    pub(super) requests: Vec<String>,
    pub(super) events: Vec<Value>,
    /// The queries that writes had.
    pub(super) written_with: BTreeSet<String>,
    /// Writes of this kind are refused so often, as by a server that has too much to do.
    pub(super) busy: Option<(&'static str, u32)>,
    /// The code that they are refused with, if another one.
    pub(super) code: Option<StatusCode>,
    /// The code that lists are refused with, if they are.
    pub(super) no_list: Option<StatusCode>,
}

impl Server {
    pub(super) fn api(&self) -> Api {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                if head.method != Method::GET {
                    let query = head.uri.query().unwrap_or_default().to_owned();
                    server.state.lock().written_with.insert(query);
                }
                let (code, answer) = if head.uri.path() == STATUSES {
                    server.list(head.uri.query().unwrap_or_default())
                } else {
                    server.answer(&head.method, head.uri.path(), &body)
                };
                let body = Full::new(Bytes::from(answer.to_string()));
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Api::new(kube::Client::new(service, "n"), Impersonation::Constrained)
    }

    /// The statuses of one node.
    fn list(&self, query: &str) -> (StatusCode, Value) {
        let mut state = self.state.lock();
        state.requests.push("LIST devicestatuses".into());
        if let Some(code) = state.no_list {
            return (
                code,
                json!({ "code": code.as_u16(), "reason": "No", "message": "no" }),
            );
        }
        let node = query.strip_prefix("resourceVersion=0&labelSelector=tombolo.dev%2Fnode%3D");
        let is_its = |(path, status): &(&String, &Value)| {
            path.contains("/devicestatuses/")
                && status["metadata"]["labels"]["tombolo.dev/node"] == node.unwrap()
        };
        let items: Vec<_> = state
            .objects
            .iter()
            .filter(is_its)
            .map(|(_, status)| status)
            .collect();
        (StatusCode::OK, json!({ "metadata": {}, "items": items }))
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let mut state = self.state.lock();
        state
            .requests
            .push(format!("{method} {}", path.rsplit('/').nth(1).unwrap()));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let refused = |code: StatusCode| {
            (
                code,
                json!({ "code": code.as_u16(), "reason": "No", "message": "no" }),
            )
        };
        let written = match *method {
            Method::PATCH => path.rsplit('/').nth(1),
            Method::POST => path.rsplit('/').next(),
            _ => None,
        };
        if let Some((kind, times)) = &mut state.busy
            && written == Some(*kind)
            && *times > 0
        {
            *times -= 1;
            return refused(state.code.unwrap_or(StatusCode::TOO_MANY_REQUESTS));
        }
        if path.ends_with("/events") {
            state.events.push(body.clone());
            return (StatusCode::CREATED, body);
        }
        if *method == Method::POST {
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            if state.objects.contains_key(&path) {
                return refused(StatusCode::CONFLICT);
            }
            return (StatusCode::CREATED, state.store(&path, body));
        }
        let Some(held) = state.objects.get(path).cloned() else {
            return refused(StatusCode::NOT_FOUND);
        };
        if *method == Method::GET {
            return (StatusCode::OK, held);
        }
        for field in ["uid", "resourceVersion"] {
            let asked = &body["metadata"][field];
            if !asked.is_null() && *asked != held["metadata"][field] {
                return refused(StatusCode::CONFLICT);
            }
        }
        let mut merged = held;
        merge(&mut merged, &body);
        (StatusCode::OK, state.store(path, merged))
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        self.state.lock().store(path, object);
    }

    pub(super) fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    pub(super) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().requests)
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("made-{}", self.revision));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) cluster: Cluster,
    pub(super) devices: Devices,
}

impl World {
    pub(super) fn new() -> Self {
        let world = Self::at(Server::default());
        for node in ["e1", "e2"] {
            world.lease(node, "one");
        }
        world
    }

    /// A replica that knows nothing of statuses yet.
    pub(super) fn at(server: Server) -> Self {
        let cluster = Cluster::new(Settings {
            api: server.api(),
            clock: Clock::system(),
            enrolment: Arc::new(Everyone),
            bindings: Arc::new(Everyone),
            advertise: None,
        });
        let devices = Devices::new(cluster.clone());
        let world = Self {
            server,
            cluster,
            devices,
        };
        world.device("e1", &["t"]);
        let nodes = ["e1", "e2"].map(|name| {
            json!({ "metadata": { "name": name, "uid": name, "resourceVersion": "1",
                "labels": { "node-restriction.kubernetes.io/tombolo": "" } } })
        });
        world.cluster.told(Kind::Node, &nodes);
        world
    }

    /// A session has the Lease of a node.
    pub(super) fn lease(&self, node: &str, session: &str) {
        let lease =
            json!({ "metadata": { "name": node, "annotations": { "tombolo.dev/session": session } } });
        self.server.put(&format!("{LEASES}/{node}"), lease);
    }

    /// What the first session of a node writes with.
    pub(super) fn writer(&self, node: &str) -> DeviceWriter {
        self.devices.writer(session(node, "one"))
    }

    /// The device is so now, at the API server and for the watch.
    pub(super) fn device(&self, node: &str, properties: &[&str]) {
        let properties: Vec<Value> = properties.iter().map(|name| json!({ "name": name })).collect();
        let state = self
            .server
            .object(DEVICE)
            .map_or(Value::Null, |device| device["status"].clone());
        let device = json!({
            "metadata": { "name": "pump", "namespace": "n", "uid": "u", "resourceVersion": "1" },
            "spec": { "nodeName": node, "deviceModelRef": { "name": "m" }, "properties": properties },
            "status": state,
        });
        self.server.put(DEVICE, device);
        self.watch_device();
    }

    /// Runs a story beside the parts that run for ever.
    pub(super) async fn run(&self, story: impl Future<Output = ()>) {
        tokio::select! {
            () = story => {}
            () = self.devices.run() => {}
        }
    }

    /// What the watch tells of the device as it is.
    pub(super) fn watch_device(&self) {
        let device = self.server.object(DEVICE).unwrap();
        self.cluster.told(Kind::Device, &[device]);
    }

    /// What the watch tells of the status as it is.
    pub(super) fn watch(&self) {
        let status = self.server.object(STATUS).unwrap();
        self.cluster.told_status(&key(), &status);
    }

    pub(super) fn twins(&self) -> Value {
        self.server.object(STATUS).unwrap()["status"]["twins"].clone()
    }
}

pub(super) fn pump() -> DeviceIdentity {
    DeviceIdentity {
        namespace: "n".into(),
        name: "pump".into(),
        uid: "u".into(),
    }
}

pub(super) fn session(node: &str, name: &str) -> Holder {
    Holder {
        node: node.parse().unwrap(),
        session: name.to_owned(),
    }
}

pub(super) fn key() -> ObjectKey {
    ObjectKey::new(Kind::Device, "n", "pump")
}

pub(super) fn twin(value: u64) -> Value {
    json!({ "propertyName": "t", "reported": { "value": value.to_string() } })
}

pub(super) fn report(value: u64) -> Vec<u8> {
    json!({ "twins": [twin(value)], "state": "online" })
        .to_string()
        .into_bytes()
}

pub(super) fn node() -> NodeName {
    "e1".parse().unwrap()
}
