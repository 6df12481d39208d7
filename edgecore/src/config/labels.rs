//! Labels and taints of the Node, checked the way the API server checks them.
//!
//! What a node may not say of itself is refused here already, by name, so that the operator
//! learns it from the configuration and not from a node that does not appear.

use std::fmt;
use std::str::FromStr;

use protocol::labels::{may_set_label, may_set_taint};
use thiserror::Error;

/// A label that the API server or the node restriction would refuse.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("label \"{key}\": {why}")]
pub struct InvalidLabel {
    key: String,
    why: &'static str,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaintEffect {
    /// They are not placed here.
    NoSchedule,
    /// They are placed here only when nowhere else.
    PreferNoSchedule,
    /// They are not placed here, and those that are here must go.
    NoExecute,
}

/// One taint: `key[=value]:Effect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// The key, a label key.
    pub key: String,
    /// The value, a label value, possibly empty.
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// Text that is no taint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{text}\" is not a taint ({why}): write key=value:NoSchedule, PreferNoSchedule or NoExecute")]
pub struct InvalidTaint {
    text: String,
    why: &'static str,
}

/// Labels that edgecore derives, so that a file must not contradict it.
const DERIVED: [&str; 5] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Checks one label of the configuration.
pub fn check_label(key: &str, value: &str) -> Result<(), InvalidLabel> {
    let judged = check_key(key)
        .and_then(|()| may_set(key))
        .and_then(|()| check_value(value));
    judged.map_err(|why| InvalidLabel {
        key: key.to_owned(),
        why,
    })
}

/// Checks a label's value; empty is allowed.
pub(super) fn check_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || is_word(value) {
        return Ok(());
    }
    Err("a value has at most 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit")
}

fn check_key(key: &str) -> Result<(), &'static str> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    if prefix.is_some_and(|prefix| !is_dns_name(prefix)) {
        return Err("what stands before the '/' must be a DNS name in lower case");
    }
    if is_word(name) {
        return Ok(());
    }
    Err("a key has at most 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit")
}

fn may_set(key: &str) -> Result<(), &'static str> {
    if DERIVED.contains(&key) {
        return Err("edgecore sets it from what the device is");
    }
    if may_set_label(key) {
        return Ok(());
    }
    Err("a node may not set this label on itself; set it with kubectl label node")
}

fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|&b| inner(b))
}

pub(super) fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        is_word(label)
            && label
                .bytes()
                .all(|b| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl Taint {
    /// The taint of every edge node.
    pub fn edge_default() -> Vec<Self> {
        super::DEFAULT_TAINT
            .parse()
            .map_or_else(|_: InvalidTaint| Vec::new(), |taint| vec![taint])
    }
}

impl FromStr for Taint {
    type Err = InvalidTaint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_taint(text).map_err(|why| InvalidTaint {
            text: text.to_owned(),
            why,
        })
    }
}

fn parse_taint(text: &str) -> Result<Taint, &'static str> {
    let (what, effect) = text.rsplit_once(':').ok_or("the effect is missing")?;
    let (key, value) = what.split_once('=').unwrap_or((what, ""));
    check_key(key)?;
    check_value(value)?;
    if !may_set_taint(key) {
        return Err("the cluster sets these taints from what it sees");
    }
    let effect = match effect {
        "NoSchedule" => TaintEffect::NoSchedule,
        "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
        "NoExecute" => TaintEffect::NoExecute,
        _ => return Err("the effect is unknown"),
    };
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect,
    })
}

impl fmt::Display for TaintEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        })
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, effect } = self;
        if value.is_empty() {
            write!(f, "{key}:{effect}")
        } else {
            write!(f, "{key}={value}:{effect}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_not_give_itself_a_role() {
        let refused = check_label("node-role.kubernetes.io/control-plane", "").unwrap_err();
        assert!(
            refused.to_string().contains("may not set this label on itself"),
            "{refused}"
        );
        assert!(check_label("node-restriction.kubernetes.io/tombolo", "").is_err());
        assert!(check_label("foo.k8s.io/x", "y").is_err());
    }

    #[test]
    fn labels_of_ones_own_are_accepted() {
        for (key, value) in [
            ("site", "north"),
            ("example.org/line", "7"),
            ("node.kubernetes.io/instance-type", "gateway"),
            ("tombolo.dev/autonomy", "false"),
        ] {
            assert_eq!(check_label(key, value), Ok(()), "{key}");
        }
    }

    #[test]
    fn the_default_taint_is_a_taint() {
        let taints = Taint::edge_default();
        assert_eq!(taints.len(), 1);
        assert_eq!(taints[0].to_string(), crate::config::DEFAULT_TAINT);
    }

    #[test]
    fn a_taint_without_an_effect_is_refused() {
        assert!("edge".parse::<Taint>().is_err());
        assert!("edge=1:Never".parse::<Taint>().is_err());
        assert!("node.kubernetes.io/not-ready:NoExecute".parse::<Taint>().is_err());
        assert_eq!(
            "a=b:NoExecute".parse::<Taint>().unwrap().to_string(),
            "a=b:NoExecute"
        );
    }
}
