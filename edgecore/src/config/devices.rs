//! Where what devices say is kept, and which topics they may use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::Config;
use super::fields::absolute_path;
use super::mistakes::unknown;
use crate::devices::drivers::{self, Allowed, DriversConfig};

/// On tmpfs: it outlives the process, and costs no flash.
pub const DEFAULT_JOURNAL_DIR: &str = "/run/tombolo/devices";

/// The keys of `devices`.
const KEYS: [&str; 2] = ["journal_dir", "topics"];

/// What the operator wants of the devices of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// The directory of the journal's part that need not outlive the power.
    pub journal_dir: PathBuf,
    /// The MQTT topics that each namespace's devices may use, as filters; `*` stands for every
    /// namespace. None by default: who may write a Device shall not read and write all of the broker.
    pub topics: BTreeMap<String, Vec<String>>,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            journal_dir: PathBuf::from(DEFAULT_JOURNAL_DIR),
            topics: BTreeMap::new(),
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
            "topics" => match topics(value) {
                Ok(topics) => devices.topics = topics,
                Err(found) => bad.extend(found.into_iter().map(|text| format!("topics: {text}"))),
            },
            other => bad.push(unknown(other, &KEYS)),
        }
    }
    if bad.is_empty() { Ok(devices) } else { Err(bad) }
}

fn topics(value: &Value) -> Result<BTreeMap<String, Vec<String>>, Vec<String>> {
    let namespaces = value
        .as_object()
        .ok_or_else(|| vec!["must be a mapping such as {hall: [zigbee2mqtt/#]}".to_owned()])?;
    let (mut good, mut bad) = (BTreeMap::new(), Vec::new());
    for (namespace, filters) in namespaces {
        let filters = filters
            .as_array()
            .map_or_else(|| std::slice::from_ref(filters), Vec::as_slice);
        for filter in filters {
            match filter.as_str().filter(|filter| is_filter(filter)) {
                Some(filter) => good
                    .entry(namespace.clone())
                    .or_insert_with(Vec::new)
                    .push(filter.to_owned()),
                None => bad.push(format!(
                    "{filter} of {namespace} is no filter such as zigbee2mqtt/#"
                )),
            }
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// Topics that begin with `$` are the broker's and the node's own.
fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let whole = |(index, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => index + 1 == levels.len(),
        level => !level.contains(['+', '#', '\0']),
    };
    !text.is_empty() && !text.starts_with('$') && levels.iter().enumerate().all(whole)
}

impl Config {
    /// What the drivers need to know of the node.
    pub fn drivers(&self) -> DriversConfig {
        DriversConfig {
            broker: self.mqtt.address.clone(),
            client_id: self.mqtt.client_id(self.node_name.as_ref()),
            topics: Allowed::new(self.devices.topics.clone()),
            credentials: PathBuf::from(drivers::CREDENTIALS),
        }
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
    fn topics_are_given_by_namespace() {
        let chosen =
            read(&json!({"topics": {"hall": ["zigbee2mqtt/hall/#", "stat/+/POWER"], "*": "public/#"}}));
        let topics = chosen.unwrap().topics;
        assert_eq!(topics["hall"], ["zigbee2mqtt/hall/#", "stat/+/POWER"]);
        assert_eq!(topics["*"], ["public/#"]);
        for filter in [
            json!(""),
            json!("a/#/b"),
            json!("$SYS/#"),
            json!("a+/b"),
            json!(3),
        ] {
            let told = read(&json!({"topics": {"hall": [filter]}})).unwrap_err();
            assert!(told[0].contains("is no filter"), "{told:?}");
        }
        assert!(read(&json!({"topics": ["a/#"]})).is_err());
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
