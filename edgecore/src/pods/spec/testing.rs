//! A node, a pod and its objects, for the unit tests of the builders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use parking_lot::{Condvar, Mutex, RwLock};
use serde_json::{Value, json};

use super::{Lookup, NodeFacts, Objects};
use crate::node::host_ip::HostIp;
use crate::node::pressures::Pressures;
use crate::pods::cgroups::{CgroupDriver, CgroupLayout};
use crate::pods::resolver::Resolver;
use crate::runtime::Abilities;

/// How long an object that hangs is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The node `edge-1`, whose directories do not exist.
pub(crate) fn facts() -> NodeFacts {
    let host_ip = HostIp::default();
    host_ip.learn("192.168.7.2".parse().ok());
    NodeFacts {
        node_name: "edge-1".to_owned(),
        host_ip,
        root_dir: PathBuf::from("/nonexistent/kubelet"),
        log_dir: PathBuf::from("/nonexistent/logs"),
        hosts_file: PathBuf::from("/etc/hosts"),
        resolver: Resolver::new(Some(Path::new("/nonexistent/resolv.conf")), |path| path.into()),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".to_owned(),
        cgroups: CgroupLayout::new("/", CgroupDriver::Cgroupfs),
        memory_capacity: 4 << 30,
        allocatable: [
            ("cpu", "4"),
            ("memory", "4090880Ki"),
            ("ephemeral-storage", "90000000000"),
        ]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
        .into(),
        huge_page_sizes: vec![2 << 20],
        kernel: (6, 1),
        app_armor: false,
        selinux: false,
        abilities: Abilities::default(),
        pressures: Pressures::default(),
    }
}

/// The pod `ns/web-0` with label `app=web` and the given spec.
pub(crate) fn pod(spec: &str) -> Pod {
    let mut spec: Value = serde_json::from_str(spec).unwrap();
    if spec.get("containers").is_none() {
        spec["containers"] = json!([]);
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web-0", "namespace": "ns", "uid": "u-1", "labels": {"app": "web"}},
        "spec": spec,
    }))
    .unwrap()
}

/// A container from JSON.
pub(crate) fn container(json: &str) -> Container {
    serde_json::from_str(json).unwrap()
}

/// Objects in memory; what was never named is absent.
#[derive(Default)]
pub(crate) struct FakeObjects {
    config_maps: RwLock<BTreeMap<(String, String), Arc<ConfigMap>>>,
    secrets: RwLock<BTreeMap<(String, String), Arc<Secret>>>,
    services: Vec<(String, Arc<Service>)>,
    runtime_classes: RwLock<BTreeMap<String, Arc<RuntimeClass>>>,
    unknown: BTreeSet<String>,
    hangs: Mutex<bool>,
    freed: Condvar,
}

impl FakeObjects {
    /// With a ConfigMap.
    pub(crate) fn config_map(self, namespace: &str, name: &str, data: &[(&str, &str)]) -> Self {
        self.put_config_map(namespace, name, data);
        self
    }

    /// Replaces a ConfigMap.
    pub(crate) fn put_config_map(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let map = ConfigMap {
            data: Some(data),
            ..ConfigMap::default()
        };
        self.config_maps
            .write()
            .insert((namespace.to_owned(), name.to_owned()), Arc::new(map));
    }

    /// Whoever asks for a ConfigMap waits, until it hangs no more or for a while: who asks on a thread that others need
    /// too fails then, and does not stand still for ever.
    pub(crate) fn hang(&self, hangs: bool) {
        *self.hangs.lock() = hangs;
        self.freed.notify_all();
    }

    /// Whether it still hangs.
    pub(crate) fn hangs(&self) -> bool {
        *self.hangs.lock()
    }

    /// Removes a ConfigMap.
    pub(crate) fn remove_config_map(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.config_maps.write().remove(&key);
    }

    /// With a Secret.
    pub(crate) fn secret(self, namespace: &str, name: &str, data: &[(&str, &[u8])]) -> Self {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())))
            .collect();
        let secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        self.secrets
            .write()
            .insert((namespace.to_owned(), name.to_owned()), Arc::new(secret));
        self
    }

    /// With a Service.
    pub(crate) fn service(mut self, namespace: &str, name: &str, ip: &str, ports: &[(&str, i32)]) -> Self {
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
            .collect();
        let service = json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": ports}});
        self.services.push((
            namespace.to_owned(),
            Arc::new(serde_json::from_value(service).unwrap()),
        ));
        self
    }

    /// Adds a `RuntimeClass` with its handler.
    pub(crate) fn add_runtime_class(&self, name: &str, handler: &str) {
        let class = json!({"metadata": {"name": name}, "handler": handler});
        let class = Arc::new(serde_json::from_value(class).unwrap());
        self.runtime_classes.write().insert(name.to_owned(), class);
    }

    /// With an object that the cluster has not spoken of.
    pub(crate) fn unknown(mut self, name: &str) -> Self {
        self.unknown.insert(name.to_owned());
        self
    }

    fn answer<T>(
        &self,
        map: &RwLock<BTreeMap<(String, String), Arc<T>>>,
        namespace: &str,
        name: &str,
    ) -> Lookup<T> {
        match map.read().get(&(namespace.to_owned(), name.to_owned())) {
            Some(object) => Lookup::Found(Arc::clone(object)),
            None if self.unknown.contains(name) => Lookup::Unknown,
            None => Lookup::Absent,
        }
    }
}

impl Objects for FakeObjects {
    fn config_map(&self, namespace: &str, name: &str) -> Lookup<ConfigMap> {
        let mut hangs = self.hangs.lock();
        if self
            .freed
            .wait_while_for(&mut hangs, |hangs| *hangs, PATIENCE)
            .timed_out()
        {
            *hangs = false;
            self.freed.notify_all();
        }
        drop(hangs);
        self.answer(&self.config_maps, namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Lookup<Secret> {
        self.answer(&self.secrets, namespace, name)
    }

    fn runtime_class(&self, name: &str) -> Option<Arc<RuntimeClass>> {
        self.runtime_classes.read().get(name).cloned()
    }

    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        let of_namespace = self.services.iter().filter(|(of, _)| of == namespace);
        of_namespace.map(|(_, service)| Arc::clone(service)).collect()
    }
}
