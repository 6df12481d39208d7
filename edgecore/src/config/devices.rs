//! Where what devices say is kept.

use std::path::PathBuf;

use serde_json::Value;

use super::fields::absolute_path;
use super::nearest;

/// On tmpfs: it outlives the process, and costs no flash.
pub const DEFAULT_JOURNAL_DIR: &str = "/run/tombolo/devices";

/// The keys of `devices`.
const KEYS: [&str; 1] = ["journal_dir"];

/// What the operator wants of the devices of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// The directory of the journal's part that need not outlive the power.
    pub journal_dir: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            journal_dir: PathBuf::from(DEFAULT_JOURNAL_DIR),
        }
    }
}

/// Reads the value of `devices`.
pub(super) fn read(value: &Value) -> Result<Devices, Vec<String>> {
    let keys = value
        .as_object()
        .ok_or_else(|| vec!["must be a mapping such as {journal_dir: /run/tombolo/devices}".to_owned()])?;
    let (mut devices, mut bad) = (Devices::default(), Vec::new());
    for (key, value) in keys {
        match key.as_str() {
            "journal_dir" => match absolute_path(value) {
                Ok(path) => devices.journal_dir = PathBuf::from(path),
                Err(found) => bad.extend(found.into_iter().map(|text| format!("journal_dir: {text}"))),
            },
            other => bad.push(unknown(other)),
        }
    }
    if bad.is_empty() { Ok(devices) } else { Err(bad) }
}

fn unknown(key: &str) -> String {
    match nearest(key, &KEYS) {
        Some(near) => format!("{key} is not known; did you mean {near}?"),
        None => format!("{key} is not known; the keys are {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_journal_lies_where_the_operator_wants_it() {
        assert_eq!(read(&json!({})).unwrap(), Devices::default());
        let chosen = read(&json!({"journal_dir": "/mnt/ram"})).unwrap();
        assert_eq!(chosen.journal_dir, PathBuf::from("/mnt/ram"));
    }

    #[test]
    fn a_wrong_key_or_path_is_told() {
        let told = read(&json!({"journal_dri": "/a"})).unwrap_err();
        assert!(told[0].contains("did you mean journal_dir?"), "{told:?}");
        let told = read(&json!({"journal_dir": "ram"})).unwrap_err();
        assert!(told[0].contains("must be an absolute path"), "{told:?}");
        assert!(read(&json!("ram")).is_err());
    }
}
