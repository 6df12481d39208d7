//! Where the site's MQTT broker is, and as whom the node speaks to it.

use std::path::PathBuf;

use serde_json::Value;

use super::fields::{Fields, Read, some_text};
use super::set;
use crate::devices::drivers::CREDENTIALS;
use crate::devices::mqtt::Mqtt;
use crate::devices::{Broker, NotABroker};

/// Reads `mqtt`; what is not named is the default.
pub(super) fn read(fields: &mut Fields<'_>) -> Mqtt {
    let mut mqtt = Mqtt::default();
    set(&mut mqtt.address, fields.optional("address", address));
    mqtt.credentials = fields.optional("credentials", credentials);
    mqtt.client_id = fields.optional("client_id", some_text);
    mqtt
}

fn address(value: &Value) -> Read<Broker> {
    let text = some_text(value)?;
    text.parse().map_err(|error: NotABroker| vec![error.to_string()])
}

/// A name stands for a file beside those of the devices.
fn credentials(value: &Value) -> Read<PathBuf> {
    let text = some_text(value)?;
    if text.split('/').any(|part| part == "..") {
        return Err(vec![format!("\"{text}\" must not contain ..")]);
    }
    if text.starts_with('/') {
        return Ok(PathBuf::from(text));
    }
    if text.contains('/') {
        return Err(vec![format!(
            "\"{text}\" must be an absolute path, or the name of a file in {CREDENTIALS}"
        )]);
    }
    Ok(PathBuf::from(CREDENTIALS).join(text))
}

#[cfg(test)]
mod tests {
    use super::super::fields::told;
    use super::*;

    fn of(json: &str) -> Result<Mqtt, Vec<String>> {
        told(&serde_json::from_str(json).unwrap(), read)
    }

    #[test]
    fn a_broker_is_on_the_node_itself_unless_it_is_said_where() {
        assert_eq!(of("{}").unwrap(), Mqtt::default());
        assert_eq!(Mqtt::default().address.to_string(), "mqtt://127.0.0.1:1883");
        let address = |text: &str| {
            let mqtt = of(&serde_json::json!({ "address": text }).to_string()).unwrap();
            mqtt.address.to_string()
        };
        assert_eq!(address("broker.example.org"), "mqtt://broker.example.org:1883");
        assert_eq!(
            address("mqtts://broker.example.org"),
            "mqtts://broker.example.org:8883"
        );
        assert_eq!(address("mqtts://broker:1884"), "mqtts://broker:1884");
        assert_eq!(address("[::1]:1885"), "mqtt://[::1]:1885");
        assert_eq!(address("::1"), "mqtt://[::1]:1883");
        assert_eq!(address("ssl://broker"), "mqtts://broker:8883");
    }

    #[test]
    fn credentials_are_a_file_by_path_or_by_name() {
        let path = |text: &str| of(&serde_json::json!({ "credentials": text }).to_string());
        assert_eq!(
            path("broker").unwrap().credentials.unwrap(),
            PathBuf::from("/etc/tombolo/device-credentials/broker")
        );
        assert_eq!(
            path("/etc/x/y").unwrap().credentials.unwrap(),
            PathBuf::from("/etc/x/y")
        );
        assert!(path("a/../b").is_err() && path("a/b").is_err());
    }

    #[test]
    fn what_is_wrong_is_named_all_at_once() {
        let told = of(r#"{"address": "http://x", "client": "y", "client_id": 7}"#).unwrap_err();
        let told = told.join("; ");
        assert!(
            told.contains("address: \"http://x\"; write mqtt://host:1883"),
            "{told}"
        );
        assert!(
            told.contains("client is not a known key; the keys are address, credentials, client_id"),
            "{told}"
        );
        assert!(told.contains("client_id: must be text, not 7"), "{told}");
    }
}
