//! Field references: what a pod can say of itself.
//!
//! Pure. The same paths serve environment variables and, for `metadata.*`, volumes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use thiserror::Error;

use super::super::spec;
use super::EnvInput;

/// Why a field reference cannot be resolved.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldError {
    /// No such field.
    #[error("unsupported fieldPath: {0}")]
    Unsupported(String),
    /// `x['y']` on a field that has no keys.
    #[error("fieldPath {0:?} does not support subscript")]
    Subscript(String),
}

pub(super) fn value(input: &EnvInput<'_>, path: &str) -> Result<String, FieldError> {
    let spec = spec::spec(input.pod);
    let host_ips = || {
        input
            .facts
            .host_ip
            .last()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    Ok(match path {
        // `spec.host` is its name of old, which the API server still takes.
        "spec.nodeName" | "spec.host" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => host_ips().into_iter().next().unwrap_or_default(),
        "status.hostIPs" => host_ips().join(","),
        "status.podIP" => input.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => input.pod_ips.join(","),
        _ => return metadata_field(input.pod, path),
    })
}

/// A `metadata.*` field of the pod as text.
pub fn metadata_field(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.annotations" => &metadata.annotations,
            "metadata.labels" => &metadata.labels,
            _ => return Err(FieldError::Subscript(path.to_owned())),
        };
        return Ok(map
            .as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    match path {
        "metadata.name" => Ok(spec::name(pod).to_owned()),
        "metadata.namespace" => Ok(spec::namespace(pod).to_owned()),
        "metadata.uid" => Ok(spec::uid(pod).to_owned()),
        "metadata.labels" => Ok(lines(metadata.labels.as_ref())),
        "metadata.annotations" => Ok(lines(metadata.annotations.as_ref())),
        _ => Err(FieldError::Unsupported(path.to_owned())),
    }
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// `key="value"` lines, sorted by key.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let entries = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)));
    entries.collect::<Vec<_>>().join("\n")
}

/// A string as Go writes it between double quotes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\x7f' => escape(&mut out, "\\x", 2, c),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{a0}') => {
                escape(&mut out, "\\u", 4, c);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn escape(out: &mut String, prefix: &str, digits: usize, c: char) {
    // Writing into a String cannot fail.
    let _ = write!(out, "{prefix}{:0digits$x}", u32::from(c));
}
