//! From a value that is wished for to the message that sets it. Pure.

use serde_json::Value;

use super::config::{Property, Write};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its topic.
    pub(crate) topic: String,
    /// Its payload.
    pub(crate) payload: String,
    /// The quality of service.
    pub(crate) qos: u8,
    /// Whether the broker keeps it.
    pub(crate) retain: bool,
}

/// The message that sets a property; none if it has no place to be set at.
pub(crate) fn message(property: &Property, value: &str) -> Option<Result<Message, String>> {
    let write = property.write.as_ref()?;
    Some(payload(property, write, value).map(|payload| Message {
        topic: write.topic.clone(),
        payload,
        qos: write.qos,
        retain: write.retain,
    }))
}

fn payload(property: &Property, write: &Write, value: &str) -> Result<String, String> {
    let own = write.map.iter().find(|(from, _)| from == value);
    let text = match own {
        Some((_, to)) => to.clone(),
        None => property.shape.text(value)?,
    };
    match &write.template {
        None => Ok(text),
        Some(template) => {
            let json = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone()));
            template.render(&text, Some(&json))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::config::read;
    use super::super::testing::{allowed, device, served};
    use super::*;

    fn sent(visitor: Value, value: &str) -> Result<Message, String> {
        let manifest = device("lamp", &json!({}), &[("power", visitor)]);
        let reading = read(&served(manifest), &allowed());
        assert_eq!(reading.mistakes, []);
        let (_, settled) = reading.good.unwrap();
        message(&settled.properties["power"], value).unwrap()
    }

    #[test]
    fn a_zigbee2mqtt_lamp_is_set_with_json() {
        let visitor = json!({
            "read": {"topic": "zigbee2mqtt/lamp", "path": "$.state"},
            "map": {"ON": true, "OFF": false},
            "write": {"topic": "zigbee2mqtt/lamp/set", "template": "{\"state\": {{ value | tojson }}}"}
        });
        let message = sent(visitor, "true").unwrap();
        assert_eq!(message.payload, r#"{"state": "ON"}"#);
        assert_eq!((message.qos, message.retain), (1, false));
    }

    #[test]
    fn a_number_goes_the_way_back_through_scale_and_offset() {
        let visitor = json!({
            "read": {"topic": "esphome/boiler/raw"}, "scale": 0.1, "offset": -40,
            "write": {"topic": "esphome/boiler/set", "template": "{\"raw\": {{ json + 1 }}}", "qos": 0, "retain": true}
        });
        let message = sent(visitor.clone(), "21.5").unwrap();
        assert_eq!(message.payload, r#"{"raw": 616}"#);
        assert_eq!((message.qos, message.retain), (0, true));
        assert!(sent(visitor, "warm").is_err());
    }

    #[test]
    fn a_map_of_its_own_wins_over_the_inverse_of_the_read_one() {
        let visitor = json!({
            "read": {"topic": "stat/plug/POWER"}, "map": {"ON": true, "OFF": false},
            "write": {"topic": "cmnd/plug/POWER", "map": {"true": "1"}}
        });
        assert_eq!(sent(visitor.clone(), "true").unwrap().payload, "1");
        assert_eq!(sent(visitor, "false").unwrap().payload, "OFF");
    }
}
