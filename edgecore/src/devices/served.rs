//! A device with its model folded in: what carriers serve. Pure.
//!
//! What the device sets wins over the model, `configData` key by key. A property that the model
//! lacks has no type and no visitor of the model's; it stays a property of the local twin.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::devices::check::cannot_be_set;
use protocol::devices::{
    AccessMode, Desired, Device, DeviceIdentity, DeviceMethod, DeviceModel, DeviceName, FreeForm,
    ModelProperty, PropertyType, PushMethod, StateReport, VisitorConfig,
};

/// How long a written value may take to be reported back, unless the property says otherwise.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A device with its model folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// Which device.
    pub identity: DeviceIdentity,
    /// The name of its model; empty if it names none.
    pub model: String,
    /// Whether that model is here.
    pub has_model: bool,
    /// The mapper's protocol or the driver's name; empty for a device that speaks `$hw` topics itself.
    pub protocol: String,
    /// Settings of that protocol.
    pub config: FreeForm,
    /// Its properties, in the order of the device's manifest, then those that only the model has.
    pub properties: Vec<ServedProperty>,
    /// What a mapper offers to its local callers.
    pub methods: Vec<DeviceMethod>,
    /// Whether and how often the state goes to the cluster.
    pub state_report: StateReport,
}

/// One property, with the model folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedProperty {
    /// Its name.
    pub name: String,
    /// Whether the model has it.
    pub declared: bool,
    /// What it is.
    pub description: String,
    /// The type of its values; none if the model lacks it or does not say.
    pub type_: Option<PropertyType>,
    /// Whether it can be set.
    pub access: Access,
    /// The least value of a number.
    pub minimum: Option<String>,
    /// The greatest value of a number.
    pub maximum: Option<String>,
    /// The unit of a number.
    pub unit: Option<String>,
    /// The protocol that the visitor's settings are for; empty if there are none.
    pub visitor_protocol: String,
    /// Where in the device it is.
    pub visitor: FreeForm,
    /// How often the device is read.
    pub collect_cycle: Option<Duration>,
    /// How often a value goes to the cluster at most.
    pub report_cycle: Option<Duration>,
    /// Whether values go to the cluster, as it was written down.
    pub report_to_cloud: Option<bool>,
    /// Whether an accepted value survives a power cut even while the node is connected.
    pub durable: bool,
    /// How far a number may be from the desired one and still count as it.
    pub tolerance: Option<f64>,
    /// Whether a device that was changed by hand is set back.
    pub enforce: bool,
    /// How long a written value may take to be reported back.
    pub confirm_timeout: Duration,
    /// Where a mapper sends values besides.
    pub push_method: Option<PushMethod>,
    /// What the cluster wants it to be.
    pub desired: Option<Desired>,
}

/// Whether a property can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and set; what a model that does not say means.
    ReadWrite,
    /// Read alone.
    ReadOnly,
}

impl Served {
    /// The device's name.
    pub fn name(&self) -> DeviceName {
        DeviceName::new(&self.identity.namespace, &self.identity.name)
    }

    /// A property by name.
    pub fn property(&self, name: &str) -> Option<&ServedProperty> {
        self.properties.iter().find(|property| property.name == name)
    }
}

/// Folds a model into a device.
pub fn merge(device: &Device, model: Option<&DeviceModel>) -> Served {
    let metadata = &device.metadata;
    let of_model: BTreeMap<&str, &ModelProperty> = model
        .iter()
        .flat_map(|model| &model.spec.properties)
        .map(|property| (property.name.as_str(), property))
        .collect();
    let mut properties: Vec<ServedProperty> = device
        .spec
        .properties
        .iter()
        .map(|property| serve_property(property, of_model.get(property.name.as_str()).copied()))
        .collect();
    let alone = of_model
        .values()
        .filter(|property| !device.spec.properties.iter().any(|own| own.name == property.name));
    properties.extend(alone.map(|property| {
        let unset = protocol::devices::DeviceProperty {
            name: property.name.clone(),
            ..Default::default()
        };
        serve_property(&unset, Some(property))
    }));
    let protocol = device.spec.protocol.clone().unwrap_or_default();
    for property in &mut properties {
        // What a driver cannot carry out nobody on the site may wish for, and the cluster in vain.
        if cannot_be_set(&protocol.protocol_name, &[Some(&property.visitor)]).is_some() {
            property.access = Access::ReadOnly;
        }
    }
    Served {
        identity: DeviceIdentity {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        },
        model: device
            .spec
            .device_model_ref
            .as_ref()
            .map(|model| model.name.clone())
            .unwrap_or_default(),
        has_model: model.is_some(),
        protocol: protocol.protocol_name,
        config: over(
            model.and_then(|model| model.spec.protocol_config_data.as_ref()),
            protocol.config_data.as_ref(),
        ),
        properties,
        methods: device.spec.methods.clone(),
        state_report: device.state_report(),
    }
}

fn serve_property(
    property: &protocol::devices::DeviceProperty,
    model: Option<&ModelProperty>,
) -> ServedProperty {
    let of_model = model.cloned().unwrap_or_default();
    let config_of = |visitor: Option<&VisitorConfig>| visitor.and_then(|visitor| visitor.config_data.clone());
    let visitor_protocol = [property.visitors.as_ref(), of_model.visitors.as_ref()]
        .into_iter()
        .flatten()
        .map(|visitor| visitor.protocol_name.clone())
        .find(|name| !name.is_empty());
    ServedProperty {
        name: property.name.clone(),
        declared: model.is_some(),
        description: of_model.description,
        type_: of_model.type_,
        access: match of_model.access_mode {
            Some(AccessMode::ReadOnly) => Access::ReadOnly,
            Some(AccessMode::ReadWrite) | None => Access::ReadWrite,
        },
        minimum: of_model.minimum,
        maximum: of_model.maximum,
        unit: of_model.unit,
        visitor_protocol: visitor_protocol.unwrap_or_default(),
        visitor: over(
            config_of(of_model.visitors.as_ref()).as_ref(),
            config_of(property.visitors.as_ref()).as_ref(),
        ),
        collect_cycle: milliseconds(property.collect_cycle),
        report_cycle: milliseconds(property.report_cycle),
        report_to_cloud: property.report_to_cloud,
        durable: property.durable == Some(true),
        tolerance: property.tolerance.as_ref().and_then(|text| text.parse().ok()),
        enforce: property.enforce == Some(true),
        confirm_timeout: milliseconds(property.confirm_timeout).unwrap_or(CONFIRM_TIMEOUT),
        push_method: property.push_method.clone(),
        desired: property.desired.clone(),
    }
}

fn over(model: Option<&FreeForm>, device: Option<&FreeForm>) -> FreeForm {
    let mut merged = model.cloned().unwrap_or_default();
    merged.extend(device.cloned().unwrap_or_default());
    merged
}

/// Zero and less mean unset, as everywhere in this API.
fn milliseconds(number: Option<i64>) -> Option<Duration> {
    let number = u64::try_from(number?).ok().filter(|number| *number > 0)?;
    Some(Duration::from_millis(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(json: serde_json::Value) -> Device {
        serde_json::from_value(json).unwrap()
    }

    fn model() -> DeviceModel {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "sensor", "namespace": "hall"},
            "spec": {
                "protocolConfigData": {"ip": "10.0.0.1", "port": 502},
                "properties": [
                    {"name": "temperature", "type": "INT", "accessMode": "ReadOnly", "maximum": "90",
                     "visitors": {"protocolName": "modbus", "configData": {"register": "Holding", "offset": 2}}},
                    {"name": "humidity", "type": "DOUBLE"}
                ]
            }
        }))
        .unwrap()
    }

    #[test]
    fn what_the_device_sets_wins_over_the_model_key_by_key() {
        let device = device(serde_json::json!({
            "metadata": {"name": "s1", "namespace": "hall", "uid": "u"},
            "spec": {
                "deviceModelRef": {"name": "sensor"},
                "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.9"}},
                "properties": [{"name": "temperature", "collectCycle": 500,
                                "visitors": {"protocolName": "modbus", "configData": {"offset": 7}}}]
            }
        }));
        let served = merge(&device, Some(&model()));
        assert_eq!(
            serde_json::Value::from(served.config.clone()),
            serde_json::json!({"ip": "10.0.0.9", "port": 502})
        );
        let temperature = served.property("temperature").unwrap();
        assert_eq!(
            serde_json::Value::from(temperature.visitor.clone()),
            serde_json::json!({"register": "Holding", "offset": 7})
        );
        assert_eq!(temperature.collect_cycle, Some(Duration::from_millis(500)));
        assert_eq!(temperature.access, Access::ReadOnly);
        assert_eq!(temperature.type_, Some(PropertyType::Int));
        // The device does not name it, the model has it: it is a property all the same.
        assert!(served.property("humidity").unwrap().declared);
    }

    #[test]
    fn what_a_driver_cannot_set_is_read_alone() {
        let access = |protocol: &str, visitor: serde_json::Value| {
            let device = device(serde_json::json!({
                "metadata": {"name": "s1", "namespace": "hall", "uid": "u"},
                "spec": {
                    "protocol": {"protocolName": protocol},
                    "properties": [{"name": "p", "visitors": {"configData": visitor}}]
                }
            }));
            merge(&device, None).properties[0].access
        };
        let read = serde_json::json!({"read": {"path": "$.a"}, "register": "InputRegister"});
        let mut both = read.clone();
        both["write"] = serde_json::json!({"topic": "t"});
        for protocol in ["tombolo/mqtt", "tombolo/http"] {
            assert_eq!(access(protocol, read.clone()), Access::ReadOnly, "{protocol}");
            assert_eq!(access(protocol, both.clone()), Access::ReadWrite, "{protocol}");
        }
        assert_eq!(access("tombolo/modbus", both), Access::ReadOnly);
        assert_eq!(access("modbus", read), Access::ReadWrite);
    }

    #[test]
    fn without_its_model_a_device_has_its_own_properties_untyped() {
        let device = device(serde_json::json!({
            "metadata": {"name": "s1", "namespace": "hall", "uid": "u"},
            "spec": {"deviceModelRef": {"name": "sensor"}, "properties": [{"name": "odd", "collectCycle": -1}]},
            "status": {"reportToCloud": true, "reportCycle": 1000}
        }));
        let served = merge(&device, None);
        assert!(!served.has_model);
        let odd = served.property("odd").unwrap();
        assert!(!odd.declared && odd.type_.is_none() && odd.collect_cycle.is_none());
        assert_eq!(served.state_report.report_cycle, Some(1000));
    }
}
