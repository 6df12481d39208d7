//! `DeviceModel`: what all devices of a make have in common.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::FreeForm;
use super::device::VisitorConfig;

/// A model as the API server holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceModel {
    /// Name, namespace, uid.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the devices have in common.
    #[serde(default)]
    pub spec: DeviceModelSpec,
}

/// What the devices of a model have in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceModelSpec {
    /// The protocol that they are meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Settings of the protocol that a device does not set itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_config_data: Option<FreeForm>,
    /// What can be read and set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<ModelProperty>,
}

/// One property of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelProperty {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The type of its values.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<PropertyType>,
    /// Whether it can be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// The least value of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<String>,
    /// The greatest value of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<String>,
    /// The unit of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Where in a device it is, unless the device says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitors: Option<VisitorConfig>,
}

/// The type of a property's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PropertyType {
    /// A whole number of 64 bits.
    Int,
    /// A number of 32 bits.
    Float,
    /// A number of 64 bits.
    Double,
    /// Text.
    String,
    /// `true` or `false`.
    Boolean,
    /// Bytes, in base64.
    Bytes,
    /// A camera's stream, which only a mapper serves.
    Stream,
}

impl DeviceModel {
    /// The property of that name.
    pub fn property(&self, name: &str) -> Option<&ModelProperty> {
        self.spec.properties.iter().find(|property| property.name == name)
    }
}

impl PropertyType {
    /// Its name in twins and toward mappers, which is lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Double => "double",
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Bytes => "bytes",
            Self::Stream => "stream",
        }
    }
}

/// Whether a property can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AccessMode {
    /// Read and set.
    ReadWrite,
    /// Read alone.
    ReadOnly,
}
