//! Pull secrets: which logins a registry is shown for an image.
//!
//! Pure. Secrets are read as Docker writes them, and matched as the kubelet matches them: an entry counts for
//! an image when host, port and the beginning of the path agree; a host may have wildcards within a label;
//! the most special entry is tried first, and entries of several secrets in the order of the pod.
//!
//! **Invariant:** nothing of a secret's content is in an error or in a debug print.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use thiserror::Error;

use super::records::Proof;

const DOCKER_HUB: &str = "docker.io";
/// What Docker's own configuration calls its hub.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
/// No host of a registry is longer, so a longer key counts for none.
const LONGEST_HOST: usize = 253;

/// A pull secret that does not hold what its type promises.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("pull secret {name:?} cannot be used: {why}")]
pub(super) struct BadSecret {
    name: String,
    why: &'static str,
}

/// The logins of a pod's pull secrets, the most special ones first.
#[derive(Default)]
pub(super) struct Keyring {
    entries: Vec<(String, Credential)>,
}

#[derive(Clone, PartialEq, Eq)]
struct Login {
    username: String,
    password: String,
}

/// A login for a registry, and what is remembered of it when it was let in.
#[derive(Clone)]
pub(super) struct Credential {
    /// What the registry is shown.
    pub(super) auth: AuthConfig,
    /// Whose secret it is.
    pub(super) proof: Proof,
}

impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Login")
    }
}

impl Keyring {
    /// Reads the secrets. One of another type, or an empty one, is passed over.
    pub(super) fn of(secrets: &[Arc<Secret>]) -> Result<Self, BadSecret> {
        let mut entries = Vec::new();
        for secret in secrets {
            let bad = |why| BadSecret {
                name: secret.metadata.name.clone().unwrap_or_default(),
                why,
            };
            for (place, entry) in auths(secret).map_err(bad)? {
                let auth = entry.login().map_err(bad)?.auth();
                let proof = Proof::new(coordinates(secret), &auth);
                entries.push((key(&place), Credential { auth, proof }));
            }
        }
        // Stable: of one key, the secrets' order stays.
        entries.sort_by(|(a, _), (b, _)| b.cmp(a));
        Ok(Self { entries })
    }

    /// What to show the registry of `image`, in this order; nothing means to ask without a login.
    pub(super) fn logins(&self, image: &str) -> Vec<Credential> {
        let repository = repository(image);
        let fitting = |place: &str| matches(place, &repository);
        let mut found: Vec<&Credential> = self
            .entries
            .iter()
            .filter(|(place, _)| fitting(place))
            .map(|(_, login)| login)
            .collect();
        if found.is_empty() && repository.starts_with("docker.io/") {
            let of_hub = self.entries.iter().filter(|(place, _)| place == DOCKER_HUB_INDEX);
            found.extend(of_hub.map(|(_, login)| login));
        }
        found.into_iter().cloned().collect()
    }
}

impl Login {
    fn auth(self) -> AuthConfig {
        AuthConfig {
            username: self.username,
            password: self.password,
            ..AuthConfig::default()
        }
    }
}

type Auths = BTreeMap<String, Entry>;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: Option<Auths>,
}

#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

impl Entry {
    /// `auth` is base64 of `username:password` and counts before the two.
    fn login(self) -> Result<Login, &'static str> {
        let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) else {
            return Ok(Login {
                username: self.username.unwrap_or_default(),
                password: self.password.unwrap_or_default(),
            });
        };
        let decoder = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let bytes: Vec<u8> = auth.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let bytes = decoder.decode(bytes).map_err(|_| "an auth field is not base64")?;
        let text = String::from_utf8(bytes).map_err(|_| "an auth field is not text")?;
        let (username, password) = text
            .split_once(':')
            .ok_or("an auth field must be base64 of username:password")?;
        Ok(Login {
            username: username.to_owned(),
            password: password.to_owned(),
        })
    }
}

/// Namespace, name and UID.
fn coordinates(secret: &Secret) -> (&str, &str, &str) {
    let metadata = &secret.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default(),
    )
}

fn auths(secret: &Secret) -> Result<Auths, &'static str> {
    let data = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map(|bytes| bytes.0.as_slice())
            .filter(|bytes| !bytes.is_empty())
    };
    // What the parser says may quote what it read, so it is not told.
    let unreadable = |_| "it is not the JSON that its type promises";
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => match data(".dockerconfigjson") {
            Some(json) => serde_json::from_slice::<DockerConfig>(json)
                .map(|config| config.auths.unwrap_or_default())
                .map_err(unreadable),
            None => Ok(Auths::new()),
        },
        Some("kubernetes.io/dockercfg") => match data(".dockercfg") {
            Some(json) => serde_json::from_slice(json).map_err(unreadable),
            None => Ok(Auths::new()),
        },
        _ => Ok(Auths::new()),
    }
}

/// `https://host/v1/path` as `host/path`.
fn key(place: &str) -> String {
    let bare = place
        .strip_prefix("https://")
        .or_else(|| place.strip_prefix("http://"))
        .unwrap_or(place);
    let (host, path) = split(bare);
    let versioned = path.starts_with("/v1/") || path.starts_with("/v2/");
    let path = if versioned { &path[3..] } else { path };
    if path == "/" {
        host.to_owned()
    } else {
        format!("{host}{path}")
    }
}

/// The image's repository with its registry: `docker.io/library/busybox` for `busybox:1`.
fn repository(image: &str) -> String {
    let named = image.split_once('@').map_or(image, |(named, _)| named);
    let bare = match named.rsplit_once(':') {
        Some((bare, tag)) if !tag.contains('/') => bare,
        _ => named,
    };
    let is_host =
        |first: &str| first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first;
    match bare.split_once('/') {
        Some((DOCKER_HUB | DOCKER_HUB_INDEX, path)) if path.contains('/') => format!("{DOCKER_HUB}/{path}"),
        Some((DOCKER_HUB | DOCKER_HUB_INDEX, path)) => format!("{DOCKER_HUB}/library/{path}"),
        Some((first, _)) if is_host(first) => bare.to_owned(),
        Some(_) => format!("{DOCKER_HUB}/{bare}"),
        None => format!("{DOCKER_HUB}/library/{bare}"),
    }
}

/// Host with port, and the path with its slash.
fn split(place: &str) -> (&str, &str) {
    place.split_at(place.find('/').unwrap_or(place.len()))
}

fn matches(place: &str, repository: &str) -> bool {
    let ((host, path), (wanted, wanted_path)) = (split(place), split(repository));
    let ((host, port), (wanted, wanted_port)) = (split_port(host), split_port(wanted));
    let (labels, wanted): (Vec<_>, Vec<_>) = (host.split('.').collect(), wanted.split('.').collect());
    port == wanted_port
        && host.len() <= LONGEST_HOST
        && labels.len() == wanted.len()
        && wanted_path.starts_with(path)
        && labels
            .iter()
            .zip(wanted)
            .all(|(glob, label)| fits(glob.as_bytes(), label.as_bytes()))
}

fn split_port(host: &str) -> (&str, &str) {
    host.rsplit_once(':').unwrap_or((host, ""))
}

/// `*` is any text, `?` any byte. Only the last `*` is ever taken further, so the time is bounded by the product of
/// the two lengths, whatever a tenant has written.
fn fits(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last `*`, and from where in the text the rest is tried next.
    let mut again: Option<(usize, usize)> = None;
    while seen < text.len() {
        match (glob.get(at), again) {
            (Some(b'*'), _) => {
                at += 1;
                again = Some((at, seen + 1));
            }
            (Some(&one), _) if one == b'?' || one == text[seen] => {
                at += 1;
                seen += 1;
            }
            (_, Some((behind, next))) => {
                (at, seen) = (behind, next);
                again = Some((behind, next + 1));
            }
            (_, None) => return false,
        }
    }
    glob[at..].iter().all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests;
