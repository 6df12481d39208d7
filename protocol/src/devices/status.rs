//! `DeviceStatus`: what a device said, beside what it should be.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::FreeForm;

/// A device's status as the API server holds it; it has the device's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Name, namespace, uid, owner.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Empty.
    #[serde(default)]
    pub spec: FreeForm,
    /// What was observed.
    #[serde(default)]
    pub status: DeviceStatusStatus,
}

/// What was observed of a device. This is what a node reports, whole, without `extensions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceStatusStatus {
    /// Every property that has a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<Twin>,
    /// `ok`, `online`, `offline`, `unhealthy` or `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// When it was last seen, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_online_time: Option<String>,
    /// What others keep here; never written by a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<FreeForm>,
    /// What the node has from before its boot, by property: shown as `stale` unless the cluster has
    /// something newer. Between a node and cloudcore alone; in no manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub left: BTreeMap<String, TwinValue>,
}

/// One property, as reported and as wished for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Twin {
    /// The property.
    #[serde(default)]
    pub property_name: String,
    /// What the device said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<TwinValue>,
    /// What the node wants it to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_desired: Option<TwinValue>,
}

/// A value and what is known of it.
///
/// Metadata of a reported one: `timestamp` (ms since 1970), `type`, and Tombolo's `quality` (`good`,
/// `stale` or `error`), `reason`, `version`, `deviceTimestamp`. Of a desired one: `timestamp`, `type`,
/// `source` (`local` where it was set on the site).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TwinValue {
    /// The value, written out.
    #[serde(default)]
    pub value: String,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// It says that all is well.
    Ok,
    /// It is there.
    Online,
    /// It is not there.
    Offline,
    /// It is there, and not well.
    Unhealthy,
    /// Nobody knows.
    Unknown,
}

impl DeviceState {
    /// Its name in topics, mappers' reports and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }

    /// The state of that name; a mapper's `disconnected` means offline.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "ok" => Some(Self::Ok),
            "online" => Some(Self::Online),
            "offline" | "disconnected" => Some(Self::Offline),
            "unhealthy" => Some(Self::Unhealthy),
            "unknown" => Some(Self::Unknown),
            _ => None,
        }
    }

    /// Whether the device can be reached.
    pub const fn is_reachable(self) -> bool {
        matches!(self, Self::Ok | Self::Online | Self::Unhealthy)
    }
}
