//! `Device`: one thing at one node, what it should be and how it is reached.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::FreeForm;
use super::push::PushMethod;

/// A device as the API server holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Name, namespace, uid, labels.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: DeviceSpec,
    /// Where manifests of an earlier API kept `stateReport`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<LegacyStatus>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceSpec {
    /// The model, in the device's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_model_ref: Option<ModelReference>,
    /// The node that serves the device; none does while it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// What is read and set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<DeviceProperty>,
    /// How the device is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProtocolConfig>,
    /// What a mapper offers to its local callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<DeviceMethod>,
    /// Whether and how often the state goes to the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_report: Option<StateReport>,
}

/// A model by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelReference {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// One property of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceProperty {
    /// The name, as the model has it.
    pub name: String,
    /// What it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Desired>,
    /// Where in the device it is; what is set here wins over the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitors: Option<VisitorConfig>,
    /// How often a value goes to the cluster at most, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_cycle: Option<i64>,
    /// How often the device is read, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect_cycle: Option<i64>,
    /// Whether values go to the cluster; an MQTT report does unless this says `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_to_cloud: Option<bool>,
    /// Whether an accepted value survives a power cut even while the node is connected (Tombolo's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
    /// How far a number may be from the desired one and still count as it (Tombolo's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<String>,
    /// Whether a device that was changed by hand is set back (Tombolo's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// How long a written value may take to be reported back, in milliseconds (Tombolo's; 30000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_timeout: Option<i64>,
    /// Where a mapper sends values besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_method: Option<PushMethod>,
}

/// What a property should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Desired {
    /// The value, written out.
    #[serde(default)]
    pub value: String,
    /// What is known of it: `timestamp`, `type`, `expires` (RFC 3339).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// How a device is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProtocolConfig {
    /// The mapper's protocol, or `tombolo/mqtt`, `tombolo/modbus`, `tombolo/http`.
    #[serde(default)]
    pub protocol_name: String,
    /// Settings of that protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<FreeForm>,
}

/// Where in a device a property is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VisitorConfig {
    /// The protocol that the settings are for.
    #[serde(default)]
    pub protocol_name: String,
    /// Settings of that protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<FreeForm>,
}

/// What a mapper offers to its local callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceMethod {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The properties it acts on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub property_names: Vec<String>,
}

/// Whether and how often the state goes to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StateReport {
    /// Whether it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_to_cloud: Option<bool>,
    /// How often, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_cycle: Option<i64>,
}

/// `Device.status`: what manifests of an earlier API set there, and the state that cloudcore shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LegacyStatus {
    /// As in `spec.stateReport`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_to_cloud: Option<bool>,
    /// As in `spec.stateReport`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_cycle: Option<i64>,
    /// The device's state, written by cloudcore when it changes (Tombolo's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl Device {
    /// The model's name, if one is named.
    pub fn model_name(&self) -> Option<&str> {
        let name = &self.spec.device_model_ref.as_ref()?.name;
        (!name.is_empty()).then_some(name)
    }

    /// What was asked for the state: `spec.stateReport`, else what an earlier API kept in the status.
    pub fn state_report(&self) -> StateReport {
        let legacy = || {
            let status = self.status.as_ref()?;
            Some(StateReport {
                report_to_cloud: status.report_to_cloud,
                report_cycle: status.report_cycle,
            })
        };
        self.spec.state_report.clone().or_else(legacy).unwrap_or_default()
    }
}
