//! Which device is meant: by name where people and brokers speak of it, by uid where it counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device as MQTT topics name it: `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl DeviceName {
    /// The device of that name in that namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for DeviceName {
    type Err = NotADeviceName;

    fn from_str(text: &str) -> Result<Self, NotADeviceName> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            Some(_) | None => Err(NotADeviceName),
        }
    }
}

/// Why a text names no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is named <namespace>/<name>")]
pub struct NotADeviceName;

/// A device, by its whole identity: one of the same name that is made later is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_namespace_and_name_alone() {
        let name: DeviceName = "default/pump".parse().unwrap();
        assert_eq!(name, DeviceName::new("default", "pump"));
        assert_eq!(name.to_string(), "default/pump");
        for text in ["", "pump", "/pump", "default/", "a/b/c"] {
            assert_eq!(text.parse::<DeviceName>(), Err(NotADeviceName), "{text:?}");
        }
    }
}
