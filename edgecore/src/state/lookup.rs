//! How the rest of the node reads what it must hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use protocol::object::{Kind, Object, ObjectKey};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Desired;
use crate::pods::desired::DesiredPod;
use crate::pods::seams::{PodSource, UnreadPod};
use crate::pods::spec::{Lookup, Objects};

impl Desired {
    /// The Service through which pods reach the API server.
    pub fn kubernetes_service(&self) -> Option<Service> {
        self.decoded(&ObjectKey::new(Kind::Service, "default", "kubernetes"))
    }

    /// The Node of this device, as the cluster has it.
    pub fn own_node(&self, name: &str) -> Option<Node> {
        self.decoded(&ObjectKey::new(Kind::Node, "", name))
    }

    /// Changes whenever anything but a pod may have changed.
    pub fn watch_objects(&self) -> watch::Receiver<u64> {
        self.shared.objects_changed.subscribe()
    }

    /// Every Device and DeviceModel.
    pub fn device_objects(&self) -> Vec<Arc<Object>> {
        let held = self.shared.held.read();
        let of_devices =
            |(key, _): &(&ObjectKey, &Arc<Object>)| matches!(key.kind, Kind::Device | Kind::DeviceModel);
        let objects = held.objects.iter().filter(of_devices);
        objects.map(|(_, object)| Arc::clone(object)).collect()
    }

    /// Changes whenever one of those may have changed.
    pub fn watch_devices(&self) -> watch::Receiver<u64> {
        self.shared.devices_changed.subscribe()
    }

    fn decoded<T: DeserializeOwned>(&self, key: &ObjectKey) -> Option<T> {
        let object = self.shared.held.read().objects.get(key).cloned()?;
        decode(&object)
    }

    fn look_up<T: DeserializeOwned>(&self, key: &ObjectKey) -> Lookup<T> {
        if self.shared.held.read().absent.contains_key(key) {
            return Lookup::Absent;
        }
        self.decoded(key)
            .map_or(Lookup::Unknown, |object| Lookup::Found(Arc::new(object)))
    }
}

impl Objects for Desired {
    fn config_map(&self, namespace: &str, name: &str) -> Lookup<ConfigMap> {
        self.look_up(&ObjectKey::new(Kind::ConfigMap, namespace, name))
    }

    fn secret(&self, namespace: &str, name: &str) -> Lookup<Secret> {
        self.look_up(&ObjectKey::new(Kind::Secret, namespace, name))
    }

    fn runtime_class(&self, name: &str) -> Option<Arc<RuntimeClass>> {
        self.decoded(&ObjectKey::new(Kind::RuntimeClass, "", name))
            .map(Arc::new)
    }

    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        let found: BTreeMap<_, _> = {
            let held = self.shared.held.read();
            let services = held
                .objects
                .iter()
                .filter(|(key, _)| key.kind == Kind::Service && key.namespace == namespace);
            services
                .map(|(key, object)| (key.clone(), object.clone()))
                .collect()
        };
        found
            .values()
            .filter_map(|object| decode(object).map(Arc::new))
            .collect()
    }
}

impl PodSource for Desired {
    fn pods(&self) -> Vec<Arc<DesiredPod>> {
        self.shared.held.read().pods.values().cloned().collect()
    }

    fn pods_synced(&self) -> bool {
        self.shared.held.read().pods_synced
    }

    fn unread(&self) -> Vec<UnreadPod> {
        self.unread_pods()
    }

    fn pods_changed(&self) -> watch::Receiver<u64> {
        self.shared.pods_changed.subscribe()
    }

    fn objects_changed(&self) -> watch::Receiver<u64> {
        self.shared.objects_changed.subscribe()
    }
}

fn decode<T: DeserializeOwned>(object: &Object) -> Option<T> {
    let json = object.body.json().ok()?;
    serde_json::from_slice(&json)
        .inspect_err(|error| tracing::warn!(key = %object.key, %error, "an object cannot be decoded"))
        .ok()
}
