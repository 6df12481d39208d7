//! A container's environment, as the kubelet makes it.
//!
//! Pure: objects are looked up in memory. Order: what the container declares, in its order, then `envFrom`,
//! then the services'. A name stands once; the container's own word wins over `envFrom`, that over services.
//!
//! **Invariant:** a reference that is not optional and cannot be resolved is an error, never an empty value.

mod fields;
mod services;

use std::collections::{BTreeMap, HashMap};

use k8s_cri::v1::KeyValue;
use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod};
use thiserror::Error;

use super::expansion::{Room, TooLong, expand};
use super::resource_fields::{self, ResourceFieldError};
use super::spec::{self, Lookup, NodeFacts, Objects};

pub use fields::{FieldError, metadata_field};

/// Why the environment cannot be made; the container waits with `CreateContainerConfigError`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvError {
    /// The cluster says that the object does not exist.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The cluster has not said anything of the object yet.
    #[error("{kind} {name:?} has not arrived on this node yet")]
    NotHere {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field reference that this node cannot resolve.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A resource field that the pod does not have.
    #[error(transparent)]
    Resource(#[from] ResourceFieldError),
    /// No Service of the API server is known yet, which every pod's environment names.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    NoServices,
    /// Nothing could be started with so long an environment.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// What the environment is made of.
#[derive(Clone, Copy)]
pub struct EnvInput<'a> {
    /// The node.
    pub facts: &'a NodeFacts,
    /// What the pod names.
    pub objects: &'a dyn Objects,
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
}

/// The finished environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    order: Vec<String>,
    values: HashMap<String, String>,
}

impl Environment {
    /// The value of a name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// As the runtime wants it.
    pub fn key_values(&self) -> Vec<KeyValue> {
        let value = |name: &String| self.values.get(name).cloned().unwrap_or_default();
        self.order
            .iter()
            .map(|name| KeyValue {
                key: name.clone(),
                value: value(name),
            })
            .collect()
    }

    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn add_missing(&mut self, more: BTreeMap<String, String>) {
        for (name, value) in more {
            if !self.values.contains_key(&name) {
                self.set(name, value);
            }
        }
    }
}

/// Makes the environment. What the container asked for takes its place of `room`; services are what they are.
pub fn build(input: &EnvInput<'_>, room: &mut Room) -> Result<Environment, EnvError> {
    let services = services::variables(input.objects, input.pod)?;
    let mut from = BTreeMap::new();
    for source in input.container.env_from.as_deref().unwrap_or_default() {
        for (name, value) in env_from(input, source)? {
            room.take(name.len() + value.len(), || variable_place(&name))?;
            from.insert(name, value);
        }
    }
    let mut environment = Environment::default();
    for variable in input.container.env.as_deref().unwrap_or_default() {
        let known = |name: &str| {
            let declared = environment
                .value(name)
                .or_else(|| from.get(name).map(String::as_str));
            declared.or_else(|| services.get(name).map(String::as_str))
        };
        if let Some(value) = resolve(input, variable, known, room)? {
            environment.set(variable.name.clone(), value);
        }
    }
    environment.add_missing(from);
    environment.add_missing(services);
    Ok(environment)
}

/// One declared variable; `None` when it is optional and not there.
fn resolve<'a>(
    input: &EnvInput<'a>,
    variable: &'a EnvVar,
    known: impl Fn(&str) -> Option<&'a str>,
    room: &mut Room,
) -> Result<Option<String>, EnvError> {
    let literal = variable.value.as_deref().unwrap_or_default();
    let place = || variable_place(&variable.name);
    let value = match &variable.value_from {
        Some(source) if literal.is_empty() => {
            let value = from_source(input, source)?;
            room.take(value.as_ref().map_or(0, String::len), place)?;
            value
        }
        _ => Some(expand(literal, known, room, place)?),
    };
    room.take(variable.name.len(), place)?;
    Ok(value)
}

fn variable_place(name: &str) -> String {
    format!("variable {name:?}")
}

fn from_source(input: &EnvInput<'_>, source: &EnvVarSource) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return Ok(Some(fields::value(input, &field.field_path)?));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let object = Named {
            kind: Kind::ConfigMap,
            name: &reference.name,
            optional: reference.optional,
        };
        return from_key(input, &object, &reference.key);
    }
    if let Some(reference) = &source.secret_key_ref {
        let object = Named {
            kind: Kind::Secret,
            name: &reference.name,
            optional: reference.optional,
        };
        return from_key(input, &object, &reference.key);
    }
    if let Some(selector) = &source.resource_field_ref {
        let allocatable = &input.facts.allocatable;
        let told = resource_fields::for_env(selector, input.pod, input.container, allocatable)?;
        return Ok(Some(told));
    }
    Ok(Some(String::new()))
}

fn env_from(input: &EnvInput<'_>, source: &EnvFromSource) -> Result<BTreeMap<String, String>, EnvError> {
    let object = match (&source.config_map_ref, &source.secret_ref) {
        (Some(map), _) => Named {
            kind: Kind::ConfigMap,
            name: &map.name,
            optional: map.optional,
        },
        (None, Some(secret)) => Named {
            kind: Kind::Secret,
            name: &secret.name,
            optional: secret.optional,
        },
        (None, None) => return Ok(BTreeMap::new()),
    };
    let data = object.data(input)?.unwrap_or_default();
    let prefix = source.prefix.as_deref().unwrap_or_default();
    Ok(data
        .into_iter()
        .map(|(key, value)| (format!("{prefix}{key}"), value))
        .collect())
}

fn from_key(input: &EnvInput<'_>, object: &Named<'_>, key: &str) -> Result<Option<String>, EnvError> {
    let Some(mut data) = object.data(input)? else {
        return Ok(None);
    };
    match data.remove(key) {
        Some(value) => Ok(Some(value)),
        None if object.is_optional() => Ok(None),
        None => Err(EnvError::NoKey {
            kind: object.kind.title(),
            namespace: spec::namespace(input.pod).to_owned(),
            name: object.name.to_owned(),
            key: key.to_owned(),
        }),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    const fn title(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    const fn resource(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

struct Named<'a> {
    kind: Kind,
    name: &'a str,
    optional: Option<bool>,
}

impl Named<'_> {
    fn is_optional(&self) -> bool {
        self.optional == Some(true)
    }

    /// The object's data; `None` when it is optional and absent.
    fn data(&self, input: &EnvInput<'_>) -> Result<Option<BTreeMap<String, String>>, EnvError> {
        let namespace = spec::namespace(input.pod);
        let found = match self.kind {
            Kind::ConfigMap => input
                .objects
                .config_map(namespace, self.name)
                .map(|map| map.data.clone().unwrap_or_default()),
            Kind::Secret => input.objects.secret(namespace, self.name).map(|secret| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                secret
                    .data
                    .iter()
                    .flatten()
                    .map(|(key, value)| (key.clone(), text(&value.0)))
                    .collect()
            }),
        };
        let (kind, name) = (self.kind.resource(), self.name.to_owned());
        match found {
            Lookup::Found(data) => Ok(Some(data.as_ref().clone())),
            Lookup::Absent if self.is_optional() => Ok(None),
            Lookup::Absent => Err(EnvError::NotFound { kind, name }),
            Lookup::Unknown => Err(EnvError::NotHere { kind, name }),
        }
    }
}

#[cfg(test)]
mod tests;
