//! Where what devices say is kept, which topics they may use, and where they may push.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::fields::{Fields, Read, absolute_path};
use super::{Config, set};
use crate::devices::drivers::{self, Allowed, DriversConfig};

/// On tmpfs: it outlives the process, and costs no flash.
pub const DEFAULT_JOURNAL_DIR: &str = "/run/tombolo/devices";

/// What the operator wants of the devices of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// The directory of the journal's part that need not outlive the power.
    pub journal_dir: PathBuf,
    /// The MQTT topics that each namespace's devices may use, as filters; `*` stands for every
    /// namespace. None by default: who may write a Device shall not read and write all of the broker.
    pub topics: BTreeMap<String, Vec<String>>,
    /// Where devices may push what they say over HTTP. Nowhere by default: a port that nobody asked
    /// for is nobody's to look after.
    pub http_listen: Option<SocketAddr>,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            journal_dir: PathBuf::from(DEFAULT_JOURNAL_DIR),
            topics: BTreeMap::new(),
            http_listen: None,
        }
    }
}

/// Reads `devices`; what is not named is the default.
pub(super) fn read(fields: &mut Fields<'_>) -> Devices {
    let mut devices = Devices::default();
    let journal_dir = fields.optional("journal_dir", absolute_path);
    set(&mut devices.journal_dir, journal_dir.map(PathBuf::from));
    set(&mut devices.topics, fields.optional("topics", topics));
    devices.http_listen = fields.optional("http_listen", http_listen);
    devices
}

fn topics(value: &Value) -> Read<BTreeMap<String, Vec<String>>> {
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

fn http_listen(value: &Value) -> Read<SocketAddr> {
    let address = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
    address.filter(|address| address.port() != 0).ok_or_else(|| {
        vec![format!("{value} must be an IP address of this node and a port, such as \"10.86.0.1:8090\" or \"[::]:8090\"")]
    })
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
            http_listen: self.devices.http_listen,
            lost_power: false,
            counters: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fields;
    use super::*;

    fn of(value: &Value) -> Result<Devices, Vec<String>> {
        fields::told(value, read)
    }

    #[test]
    fn the_journal_lies_where_the_operator_wants_it() {
        assert_eq!(of(&json!({})).unwrap(), Devices::default());
        let chosen = of(&json!({"journal_dir": "/mnt/ram"})).unwrap();
        assert_eq!(chosen.journal_dir, PathBuf::from("/mnt/ram"));
    }

    #[test]
    fn topics_are_given_by_namespace() {
        let chosen =
            of(&json!({"topics": {"hall": ["zigbee2mqtt/hall/#", "stat/+/POWER"], "*": "public/#"}}));
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
            let told = of(&json!({"topics": {"hall": [filter]}})).unwrap_err();
            assert!(told[0].contains("is no filter"), "{told:?}");
        }
        assert!(of(&json!({"topics": ["a/#"]})).is_err());
    }

    #[test]
    fn devices_push_nowhere_unless_it_is_said_where() {
        assert_eq!(of(&json!({})).unwrap().http_listen, None);
        for text in ["0.0.0.0:8090", "[::1]:8090"] {
            let chosen = of(&json!({ "http_listen": text })).unwrap();
            assert_eq!(chosen.http_listen.unwrap().to_string(), text);
        }
        for value in [
            json!("8090"),
            json!(8090),
            json!("localhost:8090"),
            json!("10.0.0.1:0"),
            json!(true),
        ] {
            let told = of(&json!({ "http_listen": value })).unwrap_err();
            assert!(
                told[0].contains("must be an IP address of this node and a port"),
                "{told:?}"
            );
        }
    }

    #[test]
    fn a_wrong_key_or_path_is_told() {
        let told = of(&json!({"journal_dri": "/a"})).unwrap_err();
        assert!(told[0].contains("did you mean journal_dir?"), "{told:?}");
        let told = of(&json!({"journal_dir": "ram"})).unwrap_err();
        assert!(told[0].contains("must be an absolute path"), "{told:?}");
    }
}
