//! The names that cross the link, parsed once and never wrong.
//!
//! A [`NodeName`] is safe in a path, a URL, a log line and a certificate: it is a DNS-1123 label
//! (`[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 bytes). A [`ServiceName`] is what a tunnel leads to.
//!
//! **Invariant:** whoever holds one of these types need not check it again.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest node name, in bytes: that of a DNS label.
pub const NODE_NAME_MAX: usize = 63;

/// The prefix of the user that a node is to the API server.
pub const NODE_USER_PREFIX: &str = "system:node:";

/// The group of all nodes at the API server.
pub const NODES_GROUP: &str = "system:nodes";

/// The name of a node: a DNS-1123 label. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user that this node is to the API server.
    pub fn user(&self) -> String {
        format!("{NODE_USER_PREFIX}{}", self.0)
    }

    /// Reads the name out of a node's user name.
    pub fn from_user(user: &str) -> Result<Self, NameError> {
        user.strip_prefix(NODE_USER_PREFIX)
            .ok_or_else(|| NameError::NotANodeUser(shown(user)))?
            .parse()
    }
}

/// Why a text is not the name it should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// Not a DNS-1123 label.
    #[error(
        "\"{0}\" is not a node name: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    NotALabel(String),
    /// Not `system:node:<name>`.
    #[error("\"{0}\" is not the user of a node (system:node:<name>)")]
    NotANodeUser(String),
    /// No service has this name.
    #[error("\"{0}\" is not a tunnel service")]
    UnknownService(String),
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_label(text) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::NotALabel(shown(text)))
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a tunnel leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceName {
    /// The edge's kubelet endpoint: logs, exec, attach, port-forward, metrics.
    Kubelet,
    /// The API server, for edgecore's own requests, as the node.
    KubeApi,
    /// The API server as raw TCP, for pods with credentials of their own.
    KubeApiTcp,
    /// An HTTP endpoint, for rules.
    Http,
}

impl ServiceName {
    /// Every service there is.
    pub const ALL: [Self; 4] = [Self::Kubelet, Self::KubeApi, Self::KubeApiTcp, Self::Http];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::KubeApi => "kube-api",
            Self::KubeApiTcp => "kube-api-tcp",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let known = Self::ALL.into_iter().find(|service| service.as_str() == text);
        known.ok_or_else(|| NameError::UnknownService(shown(text)))
    }
}

/// Whether `text` is a DNS-1123 label.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NODE_NAME_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A peer's text made fit for a log line: control characters escaped, 256 bytes at most.
pub fn shown(text: &str) -> String {
    const MOST: usize = 256;
    let mut safe = String::new();
    for piece in text.chars().map(char::escape_debug) {
        if safe.len() + piece.len() > MOST {
            safe.push('…');
            break;
        }
        safe.extend(piece);
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_are_node_names() {
        for good in ["a", "edge-1", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "../x",
            "a\n",
            "é",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_nodes_user_leads_back_to_its_name() {
        let name: NodeName = "edge-1".parse().unwrap();
        assert_eq!(NodeName::from_user(&name.user()), Ok(name));
        assert!(NodeName::from_user("edge-1").is_err());
        assert!(NodeName::from_user("system:node:system:node:a").is_err());
    }

    #[test]
    fn every_service_survives_its_text() {
        for service in ServiceName::ALL {
            assert_eq!(service.to_string().parse(), Ok(service));
        }
    }

    #[test]
    fn what_a_peer_wrote_cannot_break_a_log_line() {
        let shown = shown(&format!("a\n\u{1b}[31m{}", "x".repeat(1 << 20)));
        assert!(shown.len() <= 260 && !shown.contains('\n') && !shown.contains('\u{1b}'));
    }
}
