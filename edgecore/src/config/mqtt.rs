//! Where the site's MQTT broker is, and as whom the node speaks to it.

use std::path::PathBuf;

use serde_json::Value;

use crate::devices::drivers::CREDENTIALS;
use crate::devices::mqtt::Mqtt;

/// The keys.
const KEYS: [&str; 3] = ["address", "credentials", "client_id"];

/// Reads the value of `mqtt`: a mapping of `address`, `credentials` and `client_id`.
pub(super) fn read(value: &Value) -> Result<Mqtt, Vec<String>> {
    let shape = || vec![format!("must be a mapping of {}", KEYS.join(", "))];
    let map = value.as_object().ok_or_else(shape)?;
    let (mut mqtt, mut bad) = (Mqtt::default(), Vec::new());
    for (key, value) in map {
        let text = value
            .as_str()
            .filter(|text| !text.is_empty())
            .ok_or_else(|| format!("{key} must be text, not {value}"));
        let read = text.and_then(|text| match key.as_str() {
            "address" => match text.parse() {
                Ok(address) => {
                    mqtt.address = address;
                    Ok(())
                }
                Err(error) => Err(format!("address: {error}")),
            },
            "credentials" => credentials(text).map(|path| mqtt.credentials = Some(path)),
            "client_id" => {
                mqtt.client_id = Some(text.to_owned());
                Ok(())
            }
            _ => Err(format!("{key} is not known; write {}", KEYS.join(", "))),
        });
        bad.extend(read.err());
    }
    if bad.is_empty() { Ok(mqtt) } else { Err(bad) }
}

/// A name stands for a file beside those of the devices.
fn credentials(text: &str) -> Result<PathBuf, String> {
    if text.split('/').any(|part| part == "..") {
        return Err(format!("credentials: \"{text}\" must not contain .."));
    }
    if text.starts_with('/') {
        return Ok(PathBuf::from(text));
    }
    if text.contains('/') {
        return Err(format!(
            "credentials: \"{text}\" must be an absolute path, or the name of a file in {CREDENTIALS}"
        ));
    }
    Ok(PathBuf::from(CREDENTIALS).join(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Mqtt, Vec<String>> {
        read(&serde_json::from_str(json).unwrap())
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
            told.contains("client is not known; write address, credentials, client_id"),
            "{told}"
        );
        assert!(told.contains("client_id must be text, not 7"), "{told}");
        assert!(of("7").is_err());
    }
}
