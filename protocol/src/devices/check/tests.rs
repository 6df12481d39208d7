//! Values against properties, devices against models.

use serde_json::{Value, json};

use super::*;

fn property(json: Value) -> ModelProperty {
    serde_json::from_value(json).unwrap()
}

fn of_type(name: &str) -> ModelProperty {
    property(json!({ "name": "p", "type": name }))
}

fn device(spec: &Value) -> Device {
    serde_json::from_value(json!({ "metadata": { "name": "d" }, "spec": spec })).unwrap()
}

fn model(properties: &Value) -> DeviceModel {
    serde_json::from_value(json!({ "metadata": { "name": "m" }, "spec": { "properties": properties } }))
        .unwrap()
}

fn reasons(device: &Device, model: Option<&DeviceModel>) -> Vec<&'static str> {
    check(device, model)
        .iter()
        .map(|finding| finding.reason.name())
        .collect()
}

#[test]
fn a_value_is_of_its_property_s_type() {
    for (name, good, bad) in [
        (
            "INT",
            &["0", "-7", "9223372036854775807"][..],
            &["", "1.5", "9223372036854775808", "x", " 1"][..],
        ),
        ("FLOAT", &["0", "-1.5e3", "3"], &["", "NaN", "inf", "1e39", "x"]),
        ("DOUBLE", &["1e39", "0.1"], &["nan", "infinity", "1e309", ""]),
        (
            "BOOLEAN",
            &["true", "false", "1", "True"],
            &["", "yes", "2", "ON"],
        ),
        ("BYTES", &["", "AAE=", "AAE"], &["*", "A"]),
        ("STRING", &["", "ä\n{}"], &[]),
        ("STREAM", &["rtsp://x"], &[]),
    ] {
        let property = of_type(name);
        for value in good {
            assert_eq!(check_value(&property, value), Ok(()), "{name} {value}");
        }
        for value in bad {
            assert!(check_value(&property, value).is_err(), "{name} {value}");
        }
    }
    assert_eq!(check_value(&property(json!({ "name": "p" })), "anything"), Ok(()));
}

#[test]
fn limits_count_for_numbers_and_are_part_of_what_they_allow() {
    let between =
        |kind: &str| property(json!({ "name": "p", "type": kind, "minimum": "-1.5", "maximum": "30" }));
    for kind in ["INT", "FLOAT", "DOUBLE"] {
        for (value, fits) in [("-1", true), ("30", true), ("31", false), ("-2", false)] {
            assert_eq!(check_value(&between(kind), value).is_ok(), fits, "{kind} {value}");
        }
    }
    assert!(
        check_value(&between("FLOAT"), "-1.5").is_ok() && check_value(&between("FLOAT"), "30.1").is_err()
    );
    assert_eq!(check_value(&between("STRING"), "99"), Ok(()));
}

#[test]
fn limits_of_whole_numbers_are_exact_where_a_float_is_not() {
    let high = property(json!({ "name": "p", "type": "INT", "maximum": "9007199254740992" }));
    assert!(check_value(&high, "9007199254740992").is_ok());
    assert!(check_value(&high, "9007199254740993").is_err());
}

#[test]
fn a_limit_that_is_no_number_limits_nothing() {
    for limit in ["", "high", "NaN"] {
        let property = property(json!({ "name": "p", "type": "INT", "minimum": limit, "maximum": limit }));
        assert_eq!(check_value(&property, "5"), Ok(()));
    }
}

#[test]
fn a_message_is_short_and_on_one_line() {
    let text = check_value(&of_type("INT"), &"x\n".repeat(1_000)).unwrap_err();
    assert!(text.len() < 120 && !text.contains('\n'), "{text}");
}

#[test]
fn an_empty_desired_value_is_a_wish_for_text_alone() {
    let empty = Desired::default();
    assert_eq!(desired_value(&of_type("STRING"), &empty), Ok(Some("")));
    assert_eq!(desired_value(&of_type("INT"), &empty), Ok(None));
    let read_only = property(json!({ "name": "p", "type": "STRING", "accessMode": "ReadOnly" }));
    assert_eq!(desired_value(&read_only, &empty), Ok(None));
}

#[test]
fn a_device_that_fits_its_model_has_no_findings() {
    let model = model(
        &json!([{ "name": "t", "type": "INT", "accessMode": "ReadWrite", "maximum": "30" }, { "name": "u" }]),
    );
    let device = device(&json!({
        "deviceModelRef": { "name": "m" },
        "protocol": { "protocolName": "modbus" },
        "methods": [{ "name": "reset" }],
        "properties": [{ "name": "t", "desired": { "value": "30" }, "pushMethod": { "mqtt": {} } }, { "name": "u" }],
    }));
    assert_eq!(check(&device, Some(&model)), []);
}

#[test]
fn what_does_not_fit_is_found_property_by_property() {
    let model = model(&json!([
        { "name": "t", "type": "INT", "maximum": "30" },
        { "name": "r", "type": "INT", "accessMode": "ReadOnly" },
    ]));
    let device = device(&json!({
        "deviceModelRef": { "name": "m" },
        "properties": [
            { "name": "t", "desired": { "value": "31" } },
            { "name": "r", "desired": { "value": "1" } },
            { "name": "x", "desired": { "value": "1" } },
        ],
    }));
    assert_eq!(
        reasons(&device, Some(&model)),
        ["DesiredRefused", "DesiredRefused", "PropertyNotInModel"]
    );
    assert!(check(&device, Some(&model))[0].message.contains("maximum"));
    assert_eq!(reasons(&device, None), ["ModelMissing"]);
}

#[test]
fn a_wish_that_no_driver_can_carry_out_is_found() {
    let model = model(&json!([
        { "name": "a" }, { "name": "b", "visitors": { "configData": { "write": { "topic": "t" } } } }, { "name": "c" },
    ]));
    let with = |protocol: &str, visitor: Value| {
        let wished = |name: &str, visitor: &Value| json!({ "name": name, "desired": { "value": "1" }, "visitors": { "configData": visitor } });
        let device = device(&json!({
            "deviceModelRef": { "name": "m" },
            "protocol": { "protocolName": protocol },
            "properties": [wished("a", &visitor), wished("b", &visitor), { "name": "c", "desired": { "value": "" } }],
        }));
        check(&device, Some(&model))
            .into_iter()
            .map(|finding| finding.message)
            .collect::<Vec<_>>()
    };
    let refused = "the desired value of a is not delivered: visitors.configData has no write";
    for protocol in ["tombolo/mqtt", "tombolo/http"] {
        assert_eq!(
            with(protocol, json!({ "read": { "topic": "t" } })),
            [refused],
            "{protocol}"
        );
        assert!(
            with(protocol, json!({ "write": { "topic": "t" } })).is_empty(),
            "{protocol}"
        );
    }
    assert_eq!(
        with("tombolo/modbus", json!({ "register": "DiscreteInputRegister" })).len(),
        2
    );
    assert!(with("tombolo/modbus", json!({ "register": "HoldingRegister" })).is_empty());
    assert!(with("modbus", json!({})).is_empty(), "a mapper knows best");
}

#[test]
fn what_only_a_mapper_does_is_not_asked_of_a_device_without_one() {
    let model = model(&json!([{ "name": "t" }]));
    let device = device(&json!({
        "deviceModelRef": { "name": "m" },
        "protocol": { "protocolName": "tombolo/knx" },
        "methods": [{ "name": "reset" }],
        "properties": [{ "name": "t", "pushMethod": { "mqtt": {} } }],
    }));
    assert_eq!(
        reasons(&device, Some(&model)),
        ["ProtocolUnknown", "NeedsMapper", "NeedsMapper"]
    );
}
