//! Manifests of ours and of `KubeEdge`'s kind, and their mistakes.

use serde_json::{Value, json};

use super::*;
use crate::devices::merge;

fn manifest(config: &Value, visitor: &Value) -> Served {
    let device = json!({
        "metadata": {"name": "meter", "namespace": "hall"},
        "spec": {
            "deviceModelRef": {"name": "m"},
            "protocol": {"protocolName": "tombolo/modbus", "configData": config},
            "properties": [{"name": "p", "collectCycle": 500, "visitors": {"configData": visitor}}]
        }
    });
    merge(&serde_json::from_value(device).unwrap(), None)
}

fn tcp() -> Value {
    json!({"ip": "10.0.0.7"})
}

fn property(visitor: &Value) -> Result<Property, String> {
    let reading = read(&manifest(&tcp(), visitor));
    let told: Vec<_> = reading
        .mistakes
        .iter()
        .map(|mistake| mistake.text.clone())
        .collect();
    let found = reading.good.unwrap().1.properties.remove("p");
    found.ok_or_else(|| told.join("; "))
}

#[test]
fn existing_manifests_are_read() {
    let served = manifest(
        &json!({"ip": "10.0.0.7", "port": "5502", "slaveID": "3"}),
        &json!({"register": "HoldingRegister", "offset": "2", "limit": 2, "scale": "0.1", "isSwap": true, "isRegisterSwap": "false"}),
    );
    let Reading { good, mistakes } = read(&served);
    assert_eq!(mistakes, []);
    let (endpoint, settled) = good.unwrap();
    assert_eq!(endpoint.to_string(), "10.0.0.7:5502");
    assert_eq!(settled.unit, 3);
    let property = &settled.properties["p"];
    assert_eq!((property.table, property.address), (Table::Holding, 2));
    assert_eq!(property.layout.kind, Kind::Unsigned(2));
    assert!(property.layout.swap_bytes && !property.layout.swap_words);
    assert_eq!(property.cycle, Duration::from_millis(500));
}

#[test]
fn tables_have_the_names_that_people_write() {
    for (text, table) in [
        ("CoilRegister", Table::Coil),
        ("DiscreteInputRegister", Table::Discrete),
        ("HoldingRegister", Table::Holding),
        ("InputRegister", Table::Input),
        ("holding", Table::Holding),
        ("coil", Table::Coil),
    ] {
        assert_eq!(Table::parse(text), Some(table), "{text}");
    }
    assert_eq!(Table::parse("Register"), None);
}

#[test]
fn a_serial_line_is_read() {
    let served = manifest(
        &json!({"serialPort": "/dev/ttyUSB0", "baudRate": 19200, "parity": "E", "stopBits": 2, "slaveID": 9}),
        &json!({"register": "coil", "offset": 0}),
    );
    let (endpoint, _) = read(&served).good.unwrap();
    let Endpoint::Rtu(line) = endpoint else {
        panic!("{endpoint}")
    };
    assert_eq!(
        (line.baud, line.data_bits, line.parity, line.stop_bits),
        (19200, 8, Parity::Even, 2)
    );
}

#[test]
fn only_what_can_be_set_is_written() {
    let write = |register: &str| {
        property(&json!({"register": register, "offset": 0}))
            .unwrap()
            .write
    };
    assert!(write("coil").is_some() && write("holding").is_some());
    assert!(write("discrete").is_none() && write("input").is_none());
}

#[test]
fn mistakes_are_named() {
    for (visitor, part) in [
        (json!({"offset": 1}), "visitors.configData.register is missing"),
        (
            json!({"register": "holding"}),
            "visitors.configData.offset is missing",
        ),
        (
            json!({"register": "holding", "offset": 70000}),
            "visitors.configData.offset must be a whole number",
        ),
        (
            json!({"register": "holding", "offset": 65535, "type": "int32"}),
            "lead beyond 65535",
        ),
        (
            json!({"register": "holding", "offset": 1, "type": "int24"}),
            "visitors.configData.type",
        ),
        (
            json!({"register": "holding", "offset": 1, "type": "int16", "limit": 2}),
            "visitors.configData.type",
        ),
        (
            json!({"register": "holding", "offset": 1, "bit": 16}),
            "visitors.configData.bit",
        ),
        (
            json!({"register": "holding", "offset": 1, "scal": 2}),
            "did you mean scale?",
        ),
    ] {
        let wrong = property(&visitor).unwrap_err();
        assert!(wrong.contains(part), "{part} in {wrong}");
    }
    for (config, part) in [
        (
            json!({}),
            "protocol.configData.ip and serialPort are both missing",
        ),
        (
            json!({"ip": "a", "serialPort": "/dev/ttyS0"}),
            "exclude each other",
        ),
        (json!({"serialPort": "/etc/passwd"}), "must be a file below /dev"),
        (json!({"ip": "a", "slaveID": 300}), "protocol.configData.slaveID"),
        (
            json!({"ip": "a", "password": "x"}),
            "protocol.configData.password is not read",
        ),
    ] {
        let reading = read(&manifest(&config, &json!({"register": "coil", "offset": 0})));
        assert!(reading.good.is_none());
        assert!(
            reading.mistakes.iter().any(|mistake| mistake.text.contains(part)),
            "{part}"
        );
    }
}
