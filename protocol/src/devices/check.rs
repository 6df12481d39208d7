//! Whether a device fits its model, and a value its property. Pure: the node refuses by it, and
//! cloudcore tells by it.
//!
//! **Invariant:** what a model does not say is not checked: a property without a type takes any
//! value, and a limit that is no number limits nothing.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::FreeForm;
use super::device::{Desired, Device, DeviceProperty};
use super::model::{AccessMode, DeviceModel, ModelProperty, PropertyType};

/// The protocols that need no mapper.
pub const BUILT_IN_PROTOCOLS: [&str; 3] = ["tombolo/mqtt", "tombolo/modbus", "tombolo/http"];

/// Before this, a protocol's name is one of ours.
const OURS: &str = "tombolo/";

/// Padding is a matter of taste among those who write base64.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is wrong with a device, as its Event names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// There is no model of that name in the device's namespace.
    ModelMissing,
    /// The model has no property of that name.
    PropertyNotInModel,
    /// The desired value is of the wrong type, out of range, or for a property that is read alone.
    DesiredRefused,
    /// The protocol is named as one of ours and is none.
    ProtocolUnknown,
    /// What only a mapper does is asked of a device that has none.
    NeedsMapper,
}

impl Reason {
    /// The Event's reason.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ModelMissing => "ModelMissing",
            Self::PropertyNotInModel => "PropertyNotInModel",
            Self::DesiredRefused => "DesiredRefused",
            Self::ProtocolUnknown => "ProtocolUnknown",
            Self::NeedsMapper => "NeedsMapper",
        }
    }
}

/// Something that is wrong with a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What, in a word.
    pub reason: Reason,
    /// What, for people.
    pub message: String,
}

/// Whether a protocol's name is one of ours, known or not.
pub fn is_ours(protocol: &str) -> bool {
    protocol.starts_with(OURS)
}

/// Why a driver of ours cannot set a property, by its visitor's settings; none if it can, or if the
/// protocol is a mapper's. Of several settings the first that has a key counts.
pub fn cannot_be_set(protocol: &str, visitors: &[Option<&FreeForm>]) -> Option<&'static str> {
    let mut visitors = visitors.iter().flatten();
    let mut setting = |key| visitors.find_map(|visitor| visitor.get(key));
    match protocol {
        "tombolo/mqtt" | "tombolo/http" => {
            let given = setting("write").is_some_and(|write| !write.is_null());
            (!given).then_some("visitors.configData has no write")
        }
        "tombolo/modbus" => {
            let table = setting("register")?.as_str()?.to_ascii_lowercase();
            let fixed = table.starts_with("input") || table.starts_with("discrete");
            fixed.then_some("visitors.configData.register is one that can only be read")
        }
        _ => None,
    }
}

/// What is wrong with a device, given its model if there is one.
pub fn check(device: &Device, model: Option<&DeviceModel>) -> Vec<Finding> {
    let mut findings = check_protocol(device);
    let Some(model) = model else {
        findings.push(model_missing(device));
        return findings;
    };
    for property in &device.spec.properties {
        let found = check_property(model, property);
        findings.extend(found.or_else(|| check_visitor(device, model, property)));
    }
    findings
}

/// A wish that no driver can carry out is not delivered either.
fn check_visitor(device: &Device, model: &DeviceModel, property: &DeviceProperty) -> Option<Finding> {
    let wish = property.desired.as_ref()?;
    let modelled = model.property(&property.name);
    let visitors = [
        property.visitors.as_ref(),
        modelled.and_then(|modelled| modelled.visitors.as_ref()),
    ];
    let visitors = visitors.map(|visitor| visitor.and_then(|visitor| visitor.config_data.as_ref()));
    let protocol = device.spec.protocol.as_ref()?;
    let why = cannot_be_set(&protocol.protocol_name, &visitors)?;
    (!wish.value.is_empty()).then(|| Finding {
        reason: Reason::DesiredRefused,
        message: format!("the desired value of {} is not delivered: {why}", property.name),
    })
}

fn model_missing(device: &Device) -> Finding {
    let message = match device.model_name() {
        Some(name) => format!("there is no DeviceModel {name} in the device's namespace"),
        None => "spec.deviceModelRef names no DeviceModel".to_owned(),
    };
    Finding {
        reason: Reason::ModelMissing,
        message,
    }
}

fn check_protocol(device: &Device) -> Vec<Finding> {
    let mut findings = Vec::new();
    let spec = &device.spec;
    let name = spec
        .protocol
        .as_ref()
        .map_or("", |protocol| protocol.protocol_name.as_str());
    if !name.starts_with(OURS) {
        return findings;
    }
    let mut found = |reason, message| findings.push(Finding { reason, message });
    if !BUILT_IN_PROTOCOLS.contains(&name) {
        let known = BUILT_IN_PROTOCOLS.join(", ");
        found(
            Reason::ProtocolUnknown,
            format!("there is no protocol {name}; there are {known}"),
        );
    }
    if !spec.methods.is_empty() {
        let message = format!("spec.methods is a mapper's work; {name} has none");
        found(Reason::NeedsMapper, message);
    }
    for property in spec
        .properties
        .iter()
        .filter(|property| property.push_method.is_some())
    {
        let message = format!(
            "pushMethod of {} is a mapper's work; {name} has none",
            property.name
        );
        found(Reason::NeedsMapper, message);
    }
    findings
}

fn check_property(model: &DeviceModel, property: &DeviceProperty) -> Option<Finding> {
    let name = &property.name;
    let Some(modelled) = model.property(name) else {
        return Some(Finding {
            reason: Reason::PropertyNotInModel,
            message: format!(
                "the model has no property {name}: it is kept at the node and told to no mapper"
            ),
        });
    };
    let refused = desired_value(modelled, property.desired.as_ref()?).err()?;
    Some(Finding {
        reason: Reason::DesiredRefused,
        message: format!("the desired value of {name} is not delivered: {refused}"),
    })
}

/// The value that the cluster wants, if it wants one: an empty one is a wish for text alone.
///
/// # Errors
///
/// Why it is refused, for people.
pub fn desired_value<'a>(property: &ModelProperty, desired: &'a Desired) -> Result<Option<&'a str>, String> {
    let can_be_set = property.access_mode != Some(AccessMode::ReadOnly);
    let is_text = matches!(property.type_, None | Some(PropertyType::String));
    if desired.value.is_empty() && !(is_text && can_be_set) {
        return Ok(None);
    }
    check_desired(property, &desired.value)?;
    Ok(Some(&desired.value))
}

/// Whether a property may be set to a value.
///
/// # Errors
///
/// Why it may not, for people.
pub fn check_desired(property: &ModelProperty, value: &str) -> Result<(), String> {
    if property.access_mode == Some(AccessMode::ReadOnly) {
        return Err("the property is read-only".to_owned());
    }
    check_value(property, value)
}

/// Whether a value is of a property's type and within its limits.
///
/// # Errors
///
/// What is wrong with it, for people.
pub fn check_value(property: &ModelProperty, value: &str) -> Result<(), String> {
    let Some(kind) = property.type_ else {
        return Ok(());
    };
    match kind {
        PropertyType::Int => check_whole(property, value),
        PropertyType::Float => check_number(property, value, f64::from(f32::MAX)),
        PropertyType::Double => check_number(property, value, f64::MAX),
        PropertyType::Boolean => match boolean(value) {
            Some(_) => Ok(()),
            None => Err(format!("{} is neither true nor false", shown(value))),
        },
        PropertyType::Bytes => match LENIENT.decode(value) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{} is no base64", shown(value))),
        },
        PropertyType::String | PropertyType::Stream => Ok(()),
    }
}

/// What a value of type BOOLEAN means; the spellings are those that existing mappers read.
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Some(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Some(false),
        _ => None,
    }
}

fn check_whole(property: &ModelProperty, value: &str) -> Result<(), String> {
    let number: i64 = value
        .parse()
        .map_err(|_| format!("{} is no whole number of 64 bits", shown(value)))?;
    // Whole limits are compared as such: 64 bits do not fit a float.
    let below = |limit: &str| match limit.parse::<i64>() {
        Ok(limit) => Some(number < limit),
        Err(_) => Some(approximate(number) < finite(limit)?),
    };
    let above = |limit: &str| match limit.parse::<i64>() {
        Ok(limit) => Some(number > limit),
        Err(_) => Some(approximate(number) > finite(limit)?),
    };
    check_limits(property, value, below, above)
}

fn check_number(property: &ModelProperty, value: &str, most: f64) -> Result<(), String> {
    let number = finite(value)
        .filter(|number| number.abs() <= most)
        .ok_or_else(|| format!("{} is no number of type {}", shown(value), type_name(property)))?;
    let below = |limit: &str| Some(number < finite(limit)?);
    let above = |limit: &str| Some(number > finite(limit)?);
    check_limits(property, value, below, above)
}

fn check_limits(
    property: &ModelProperty,
    value: &str,
    below: impl Fn(&str) -> Option<bool>,
    above: impl Fn(&str) -> Option<bool>,
) -> Result<(), String> {
    if let Some(least) = property
        .minimum
        .as_deref()
        .filter(|least| below(least) == Some(true))
    {
        return Err(format!(
            "{} is less than the minimum {}",
            shown(value),
            shown(least)
        ));
    }
    if let Some(most) = property
        .maximum
        .as_deref()
        .filter(|most| above(most) == Some(true))
    {
        return Err(format!(
            "{} is more than the maximum {}",
            shown(value),
            shown(most)
        ));
    }
    Ok(())
}

fn finite(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

#[allow(
    clippy::cast_precision_loss,
    reason = "only limits with a fraction are compared so"
)]
const fn approximate(number: i64) -> f64 {
    number as f64
}

fn type_name(property: &ModelProperty) -> &'static str {
    property.type_.map_or("", PropertyType::name)
}

/// A value as a message shows it: short, and on one line.
fn shown(value: &str) -> String {
    const MOST: usize = 64;
    let mut text: String = value.chars().filter(|c| !c.is_control()).take(MOST).collect();
    if value.chars().count() > MOST {
        text.push('…');
    }
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests;
