//! Whether a device's settings are still the same. Pure.

use crate::devices::{Served, ServedProperty};

/// Stands for everything that a driver reads of a manifest: equal where nothing of that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written(blake3::Hash);

impl Written {
    /// Of this device.
    pub(crate) fn of(served: &Served) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?}", served.config).as_bytes());
        for property in &served.properties {
            let ServedProperty {
                name,
                visitor,
                type_,
                access,
                collect_cycle,
                confirm_timeout,
                enforce,
                ..
            } = property;
            let text = format!(
                "\n{name} {visitor:?} {type_:?} {access:?} {collect_cycle:?} {confirm_timeout:?} {enforce}"
            );
            hasher.update(text.as_bytes());
        }
        Self(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use protocol::devices::PropertyType;
    use serde_json::json;

    use super::*;
    use crate::devices::drivers::mqtt::testing::{lamp, served};

    #[test]
    fn what_does_not_concern_the_driver_changes_nothing() {
        let written = |manifest| Written::of(&served(manifest));
        let mut manifest = lamp();
        manifest["spec"]["properties"][0]["desired"] = json!({"value": "true"});
        manifest["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(written(manifest.clone()), written(lamp()));
        for key in ["confirmTimeout", "collectCycle"] {
            let mut manifest = lamp();
            manifest["spec"]["properties"][0][key] = json!(1000);
            assert_ne!(written(manifest), written(lamp()), "{key}");
        }
    }

    #[test]
    fn what_concerns_it_changes_it() {
        let written = |manifest| Written::of(&served(manifest));
        for (at, value) in [
            ("/spec/protocol/configData/baseTopic", json!("zigbee2mqtt/other")),
            ("/spec/properties/0/name", json!("other")),
            ("/spec/properties/0/visitors/configData/write/topic", json!("~/x")),
        ] {
            let mut manifest = lamp();
            *manifest.pointer_mut(at).unwrap() = value;
            assert_ne!(written(manifest), written(lamp()), "{at}");
        }
        // A model's type says how a slave's registers are read.
        let mut typed = served(lamp());
        typed.properties[0].type_ = Some(PropertyType::Float);
        assert_ne!(Written::of(&typed), written(lamp()));
    }
}
