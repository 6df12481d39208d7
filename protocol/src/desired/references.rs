//! Which `ConfigMaps` and Secrets a pod names: its closure.
//!
//! Names are taken from every place where a kubelet reads them: containers of all three sorts,
//! volumes (projected ones too), pull secrets. Nothing else of the pod is decoded.

use std::collections::BTreeSet;

use serde::Deserialize;
use thiserror::Error;

use crate::object::{Kind, ObjectKey};

/// The JSON is not a pod's; its closure cannot be known.
#[derive(Debug, Error)]
#[error("the references of a pod cannot be read from its JSON")]
pub struct ReferencesError(#[from] serde_json::Error);

/// Whether objects of a kind name others: those whose keys [`references`] reads.
pub const fn names_others(kind: Kind) -> bool {
    match kind {
        Kind::Pod => true,
        Kind::Service
        | Kind::RuntimeClass
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::DeviceModel
        | Kind::Device
        | Kind::Node => false,
    }
}

/// The keys of the `ConfigMaps` and Secrets that a pod names.
pub fn references(pod_json: &[u8]) -> Result<BTreeSet<ObjectKey>, ReferencesError> {
    let pod: PodShape = serde_json::from_slice(pod_json)?;
    let mut found = Found {
        namespace: pod.metadata.namespace,
        keys: BTreeSet::new(),
    };
    let spec = pod.spec;
    let containers = [spec.containers, spec.init_containers, spec.ephemeral_containers];
    for container in containers.into_iter().flatten().flatten() {
        found.container(container);
    }
    for volume in spec.volumes.into_iter().flatten() {
        found.volume(volume);
    }
    for secret in spec.image_pull_secrets.into_iter().flatten() {
        found.secret(secret.name);
    }
    Ok(found.keys)
}

struct Found {
    namespace: String,
    keys: BTreeSet<ObjectKey>,
}

impl Found {
    fn container(&mut self, container: Container) {
        for source in container
            .env
            .into_iter()
            .flatten()
            .filter_map(|env| env.value_from)
        {
            self.config_map(source.config_map_key_ref.and_then(|named| named.name));
            self.secret(source.secret_key_ref.and_then(|named| named.name));
        }
        for source in container.env_from.into_iter().flatten() {
            self.config_map(source.config_map_ref.and_then(|named| named.name));
            self.secret(source.secret_ref.and_then(|named| named.name));
        }
    }

    fn volume(&mut self, volume: Volume) {
        self.config_map(volume.config_map.and_then(|named| named.name));
        self.secret(volume.secret.and_then(|secret| secret.secret_name));
        self.secret(volume.csi.and_then(|csi| csi.node_publish_secret_ref?.name));
        let sources = volume.projected.and_then(|projected| projected.sources);
        for source in sources.into_iter().flatten() {
            self.config_map(source.config_map.and_then(|named| named.name));
            self.secret(source.secret.and_then(|named| named.name));
        }
    }

    fn config_map(&mut self, name: Option<String>) {
        self.insert(Kind::ConfigMap, name);
    }

    fn secret(&mut self, name: Option<String>) {
        self.insert(Kind::Secret, name);
    }

    /// An empty name is what an old API server stores for "none".
    fn insert(&mut self, kind: Kind, name: Option<String>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.keys
                .insert(ObjectKey::new(kind, self.namespace.clone(), name));
        }
    }
}

#[derive(Deserialize)]
struct PodShape {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
    ephemeral_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
    image_pull_secrets: Option<Vec<Named>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    env: Option<Vec<Env>>,
    env_from: Option<Vec<EnvFrom>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Env {
    value_from: Option<ValueFrom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueFrom {
    config_map_key_ref: Option<Named>,
    secret_key_ref: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvFrom {
    config_map_ref: Option<Named>,
    secret_ref: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    config_map: Option<Named>,
    secret: Option<SecretVolume>,
    projected: Option<Projected>,
    csi: Option<Csi>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretVolume {
    secret_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Csi {
    node_publish_secret_ref: Option<Named>,
}

#[derive(Deserialize)]
struct Projected {
    sources: Option<Vec<Source>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    config_map: Option<Named>,
    secret: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_that_names_a_config_map_or_a_secret_is_found() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm-env", "key": "k"}}},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "C", "value": "v"},
                ]}],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s-from"}}, {"configMapRef": {"name": "cm-from"}}]}],
                "ephemeralContainers": [{"name": "e", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s-env", "key": "k"}}}]}],
                "volumes": [
                    {"name": "1", "configMap": {"name": "cm-vol"}},
                    {"name": "2", "secret": {"secretName": "s-vol"}},
                    {"name": "3", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "s-proj"}}, {"serviceAccountToken": {"path": "token"}}]}},
                    {"name": "4", "emptyDir": {}},
                ],
                "imagePullSecrets": [{"name": "s-pull"}, {"name": ""}],
            },
        });
        let keys = references(pod.to_string().as_bytes()).unwrap();
        assert_eq!(
            keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "ConfigMap n/cm-env",
                "ConfigMap n/cm-from",
                "ConfigMap n/cm-vol",
                "ConfigMap n/kube-root-ca.crt",
                "Secret n/s-env",
                "Secret n/s-from",
                "Secret n/s-proj",
                "Secret n/s-pull",
                "Secret n/s-vol",
            ]
        );
    }
}
