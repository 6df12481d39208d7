//! What stands in a configMap, secret, downwardAPI or projected volume: one payload each.
//!
//! Pure; tokens are handed in. **Invariant:** a payload is complete or there is none: a required object, key
//! or token that is missing is an error.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, SecretProjection,
    Volume, VolumeProjection,
};

use super::super::env::metadata_field;
use super::super::resource_fields::{self, Resources};
use super::super::spec::{self, Lookup, Objects};
use super::atomic::{Payload, PayloadFile};
use super::tokens::TokenRequest;

const DEFAULT_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

/// The pod, what it names, what it may have of the node, and its tokens by what they are asked for.
pub(super) struct Sources<'a> {
    pub(super) objects: &'a dyn Objects,
    pub(super) pod: &'a Pod,
    pub(super) allocatable: &'a Resources,
    pub(super) tokens: &'a BTreeMap<TokenRequest, String>,
}

/// The payload of a volume made of files; `None` for the other types.
pub(super) fn payload(sources: &Sources<'_>, volume: &Volume) -> Result<Option<Payload>, String> {
    if let Some(source) = &volume.config_map {
        let selection = Selection::of(source.items.as_deref(), source.default_mode, source.optional);
        return sources.config_map(&source.name, &selection).map(Some);
    }
    if let Some(source) = &volume.secret {
        let selection = Selection::of(source.items.as_deref(), source.default_mode, source.optional);
        return sources
            .secret(source.secret_name.as_deref().unwrap_or_default(), &selection)
            .map(Some);
    }
    if let Some(source) = &volume.downward_api {
        return sources
            .fields(source.items.as_deref().unwrap_or_default(), source.default_mode)
            .map(Some);
    }
    volume
        .projected
        .as_ref()
        .map(|source| sources.projected(source))
        .transpose()
}

/// The tokens that a volume holds.
pub(super) fn token_requests(pod: &Pod, volume: &Volume) -> Vec<TokenRequest> {
    let sources = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    let projections = sources.filter_map(|source| source.service_account_token.as_ref());
    projections
        .map(|token| token_request(pod, token.audience.as_deref(), token.expiration_seconds))
        .collect()
}

fn token_request(pod: &Pod, audience: Option<&str>, seconds: Option<i64>) -> TokenRequest {
    let account = spec::spec(pod).and_then(|spec| spec.service_account_name.clone());
    TokenRequest {
        namespace: spec::namespace(pod).to_owned(),
        service_account: account
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        audiences: audience
            .filter(|audience| !audience.is_empty())
            .map(str::to_owned)
            .into_iter()
            .collect(),
        expiration_seconds: seconds.unwrap_or(TOKEN_SECONDS),
        pod_name: spec::name(pod).to_owned(),
        pod_uid: spec::uid(pod).to_owned(),
    }
}

/// Which keys go where, and with which rights.
struct Selection<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: i32,
    optional: bool,
}

impl<'a> Selection<'a> {
    fn of(items: Option<&'a [KeyToPath]>, mode: Option<i32>, optional: Option<bool>) -> Self {
        let items = items.filter(|items| !items.is_empty());
        Self {
            items,
            mode: mode.unwrap_or(DEFAULT_MODE),
            optional: optional == Some(true),
        }
    }

    fn pick(&self, data: BTreeMap<String, Vec<u8>>, kind: &str) -> Result<Payload, String> {
        let Some(items) = self.items else {
            return data
                .into_iter()
                .map(|(key, bytes)| Ok((plain_key(key)?, file(bytes, self.mode))))
                .collect();
        };
        let mut payload = Payload::new();
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => drop(payload.insert(
                    item.path.clone(),
                    file(bytes.clone(), item.mode.unwrap_or(self.mode)),
                )),
                None if self.optional => {}
                None => return Err(missing_key(kind, &item.key)),
            }
        }
        Ok(payload)
    }
}

fn missing_key(kind: &str, key: &str) -> String {
    match kind {
        "secret" => format!("references non-existent secret key: {key}"),
        _ => format!("configmap references non-existent config key: {key}"),
    }
}

/// Without `items` a key is a file name, never a path.
fn plain_key(key: String) -> Result<String, String> {
    if spec::is_plain_name(&key) {
        Ok(key)
    } else {
        Err(format!("invalid key {key:?}: must be a file name"))
    }
}

fn file(bytes: Vec<u8>, mode: i32) -> PayloadFile {
    PayloadFile {
        bytes,
        mode: u32::try_from(mode).unwrap_or(0) & 0o777,
        uid: None,
    }
}

impl Sources<'_> {
    fn config_map(&self, name: &str, selection: &Selection<'_>) -> Result<Payload, String> {
        let found = self.objects.config_map(spec::namespace(self.pod), name);
        let map = settled(found, "configmap", name, selection.optional)?;
        selection.pick(
            map.map(|map| texts_and_bytes(&map)).unwrap_or_default(),
            "configmap",
        )
    }

    fn secret(&self, name: &str, selection: &Selection<'_>) -> Result<Payload, String> {
        let found = self.objects.secret(spec::namespace(self.pod), name);
        let secret = settled(found, "secret", name, selection.optional)?;
        selection.pick(
            secret.map(|secret| only_bytes(&secret)).unwrap_or_default(),
            "secret",
        )
    }

    fn fields(&self, items: &[DownwardAPIVolumeFile], mode: Option<i32>) -> Result<Payload, String> {
        let mut payload = Payload::new();
        for item in items {
            let text = self.field(item)?;
            payload.insert(
                item.path.clone(),
                file(text.into_bytes(), item.mode.or(mode).unwrap_or(DEFAULT_MODE)),
            );
        }
        Ok(payload)
    }

    fn field(&self, item: &DownwardAPIVolumeFile) -> Result<String, String> {
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => {
                metadata_field(self.pod, &field.field_path).map_err(|error| error.to_string())
            }
            (None, Some(selector)) => resource_fields::for_volume(selector, self.pod, self.allocatable)
                .map_err(|error| error.to_string()),
            (None, None) => Ok(String::new()),
        }
    }

    fn projected(&self, projected: &ProjectedVolumeSource) -> Result<Payload, String> {
        let mut payload = Payload::new();
        for source in projected.sources.iter().flatten() {
            payload.extend(self.projection(source, projected.default_mode)?);
        }
        Ok(payload)
    }

    fn projection(&self, source: &VolumeProjection, mode: Option<i32>) -> Result<Payload, String> {
        if let Some(map) = &source.config_map {
            return self.config_map(
                &map.name,
                &Selection::of(map.items.as_deref(), mode, map.optional),
            );
        }
        if let Some(SecretProjection {
            items,
            name,
            optional,
        }) = &source.secret
        {
            return self.secret(name, &Selection::of(items.as_deref(), mode, *optional));
        }
        if let Some(fields) = &source.downward_api {
            return self.fields(fields.items.as_deref().unwrap_or_default(), mode);
        }
        let Some(token) = &source.service_account_token else {
            return Ok(Payload::new());
        };
        let request = token_request(self.pod, token.audience.as_deref(), token.expiration_seconds);
        let text = self
            .tokens
            .get(&request)
            .ok_or("no service account token is held")?;
        let mut written = file(text.clone().into_bytes(), mode.unwrap_or(DEFAULT_MODE));
        restrict_token(&mut written, self.pod);
        Ok([(token.path.clone(), written)].into())
    }
}

/// A token is for the pod's user or group alone where the pod names one.
fn restrict_token(token: &mut PayloadFile, pod: &Pod) {
    token.uid = only_user(pod);
    if token.uid.is_some() || spec::fs_group(pod).is_some() {
        token.mode = 0o600;
    }
}

/// The user that every container runs as, when they all say the same.
fn only_user(pod: &Pod) -> Option<u32> {
    let of_pod = spec::spec(pod)?
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    let of_each = spec::all_containers(pod).map(|container| {
        container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user)
            .or(of_pod)
    });
    let users: Vec<_> = of_each.collect();
    let first = (*users.first()?)?;
    users
        .iter()
        .all(|user| *user == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

/// The object, or none where it may be absent. What the cluster has not spoken of is waited for.
fn settled<T>(
    found: Lookup<T>,
    kind: &str,
    name: &str,
    optional: bool,
) -> Result<Option<std::sync::Arc<T>>, String> {
    match found {
        Lookup::Found(object) => Ok(Some(object)),
        Lookup::Absent if optional => Ok(None),
        Lookup::Absent => Err(format!("{kind} {name:?} not found")),
        Lookup::Unknown => Err(format!("{kind} {name:?} has not arrived on this node yet")),
    }
}

fn texts_and_bytes(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let texts = map
        .data
        .iter()
        .flatten()
        .map(|(key, text)| (key.clone(), text.clone().into_bytes()));
    let bytes = map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key.clone(), bytes.0.clone()));
    texts.chain(bytes).collect()
}

fn only_bytes(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret
        .data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key.clone(), bytes.0.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
