//! Devices and models as mappers are told of them. Pure.
//!
//! Existing mappers follow pointers without asking whether they are there: `protocol`, `desired`,
//! `visitors` and `configData` are always present, empty where nothing is set. Settings travel as the four
//! types that mappers decode. A property that the model lacks has no type and is left out.

mod push;

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use protocol::devices::{DeviceName, FreeForm};
use protocol::dmi;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::devices::{Access, Served, ServedProperty, Wish};

/// The name of a model. It is of the namespace of the devices that name it.
pub(super) type ModelName = DeviceName;

/// What tells two states of a device or model apart; equal ones need not be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest(String);

impl Digest {
    fn of(parts: &[Vec<u8>]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let hash = hasher.finalize();
        Self(hex::encode(&hash.as_bytes()[..16]))
    }

    /// Of a model: all that is sent of it.
    pub(super) fn of_model(model: &dmi::DeviceModel) -> Self {
        Self::of(&[model.encode_to_vec()])
    }

    /// Of a device: all that is sent of it, and what its model says of types and ranges. A mapper reads
    /// these when the device starts, so the device is sent again when they change.
    pub(super) fn of_device(device: &dmi::Device, model: &dmi::DeviceModel) -> Self {
        let properties = model.spec.iter().flat_map(|spec| &spec.properties);
        let rules = properties.map(|property| dmi::ModelProperty {
            description: String::new(),
            unit: String::new(),
            ..property.clone()
        });
        let mut parts = vec![device.encode_to_vec()];
        parts.extend(rules.map(|property| property.encode_to_vec()));
        Self::of(&parts)
    }
}

/// The model of a device, as far as devices need it.
pub(super) fn model(served: &Served) -> dmi::DeviceModel {
    let mut properties: Vec<dmi::ModelProperty> = declared(served).map(model_property).collect();
    // Each device names the properties in an order of its own.
    properties.sort_by(|one, other| one.name.cmp(&other.name));
    dmi::DeviceModel {
        name: served.model.clone(),
        namespace: served.identity.namespace.clone(),
        spec: Some(dmi::DeviceModelSpec {
            properties,
            commands: Vec::new(),
        }),
    }
}

fn model_property(property: &ServedProperty) -> dmi::ModelProperty {
    dmi::ModelProperty {
        name: property.name.clone(),
        description: property.description.clone(),
        r#type: type_of(property).to_owned(),
        access_mode: match property.access {
            Access::ReadWrite => "ReadWrite",
            Access::ReadOnly => "ReadOnly",
        }
        .to_owned(),
        minimum: property.minimum.clone().unwrap_or_default(),
        maximum: property.maximum.clone().unwrap_or_default(),
        unit: property.unit.clone().unwrap_or_default(),
    }
}

/// A device with what its properties should be now.
pub(super) fn device(served: &Served, wishes: &BTreeMap<String, Wish>) -> dmi::Device {
    let report = &served.state_report;
    dmi::Device {
        name: served.identity.name.clone(),
        namespace: served.identity.namespace.clone(),
        spec: Some(dmi::DeviceSpec {
            device_model_reference: served.model.clone(),
            protocol: Some(dmi::ProtocolConfig {
                protocol_name: served.protocol.clone(),
                config_data: Some(settings(&served.config)),
            }),
            properties: declared(served)
                .map(|property| device_property(served, property, wishes.get(&property.name)))
                .collect(),
            methods: served
                .methods
                .iter()
                .map(|method| dmi::DeviceMethod {
                    name: method.name.clone(),
                    description: method.description.clone(),
                    property_names: method.property_names.clone(),
                })
                .collect(),
        }),
        status: Some(dmi::DeviceStatus {
            twins: Vec::new(),
            report_to_cloud: report.report_to_cloud.unwrap_or_default(),
            report_cycle: report.report_cycle.unwrap_or_default(),
        }),
    }
}

fn device_property(served: &Served, property: &ServedProperty, wish: Option<&Wish>) -> dmi::DeviceProperty {
    let protocol = Some(&property.visitor_protocol).filter(|name| !name.is_empty());
    dmi::DeviceProperty {
        name: property.name.clone(),
        desired: Some(dmi::TwinProperty {
            value: wish.map(|wish| wish.value.clone()).unwrap_or_default(),
            metadata: BTreeMap::from([("type".to_owned(), type_of(property).to_owned())]),
        }),
        visitors: Some(dmi::VisitorConfig {
            protocol_name: protocol.unwrap_or(&served.protocol).clone(),
            config_data: Some(settings(&property.visitor)),
        }),
        report_cycle: milliseconds(property.report_cycle),
        collect_cycle: milliseconds(property.collect_cycle),
        report_to_cloud: property.report_to_cloud.unwrap_or_default(),
        push_method: property.push_method.as_ref().map(push::method),
    }
}

fn declared(served: &Served) -> impl Iterator<Item = &ServedProperty> {
    served.properties.iter().filter(|property| property.declared)
}

fn type_of(property: &ServedProperty) -> &'static str {
    property.type_.map_or("", protocol::devices::PropertyType::name)
}

fn milliseconds(cycle: Option<Duration>) -> i64 {
    cycle.map_or(0, |cycle| i64::try_from(cycle.as_millis()).unwrap_or(i64::MAX))
}

fn settings(free: &FreeForm) -> dmi::CustomizedValue {
    dmi::CustomizedValue { data: values(free) }
}

/// Settings as mappers decode them; null is as good as absent.
fn values(free: &FreeForm) -> BTreeMap<String, Any> {
    free.iter()
        .filter_map(|(key, value)| Some((key.clone(), any(value)?)))
        .collect()
}

fn any(value: &Value) -> Option<Any> {
    let any = match value {
        Value::Null => return None,
        Value::Bool(value) => Any::from_msg(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Any::from_msg(&integer),
            // Mappers know no other type for it.
            #[allow(
                clippy::cast_possible_truncation,
                reason = "what fits 32 bits is all they decode"
            )]
            (None, float) => Any::from_msg(&(float? as f32)),
        },
        Value::String(text) => Any::from_msg(text),
        Value::Array(_) | Value::Object(_) => Any::from_msg(&value.to_string()),
    };
    // Encoding into memory that grows cannot fail.
    any.ok()
}

#[cfg(test)]
pub(super) mod tests;
