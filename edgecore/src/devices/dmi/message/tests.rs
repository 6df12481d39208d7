//! What a mapper is told of a device, field by field.

use protocol::devices::{Device, DeviceModel};
use serde_json::json;

use super::*;
use crate::devices::merge;

fn served() -> Served {
    let device: Device = serde_json::from_value(json!({
        "metadata": {"name": "s1", "namespace": "hall", "uid": "u"},
        "spec": {
            "deviceModelRef": {"name": "sensor"},
            "protocol": {"protocolName": "modbus", "configData":
                {"ip": "10.0.0.9", "port": 502, "ratio": 0.5, "tls": true, "gone": null, "units": [1, 2]}},
            "properties": [
                {"name": "temperature", "collectCycle": 500, "reportToCloud": true,
                 "visitors": {"protocolName": "modbus", "configData": {"offset": 7}},
                 "pushMethod": {"dbMethod": {"TDEngine": {"TDEngineClientConfig": {"addr": "db", "dbName": "x"}}},
                                "http": {"hostName": "h", "port": 80, "requestPath": "/p"}}},
                {"name": "odd"}
            ],
            "methods": [{"name": "set", "propertyNames": ["temperature"]}]
        },
        "status": {"reportToCloud": true, "reportCycle": 1000}
    }))
    .unwrap();
    let model: DeviceModel = serde_json::from_value(json!({
        "metadata": {"name": "sensor", "namespace": "hall"},
        "spec": {"properties": [
            {"name": "temperature", "type": "INT", "accessMode": "ReadOnly", "maximum": "90",
             "visitors": {"configData": {"register": "Holding"}}},
            {"name": "humidity", "type": "DOUBLE", "description": "wet", "unit": "%"}
        ]}
    }))
    .unwrap();
    merge(&device, Some(&model))
}

#[test]
fn settings_travel_as_the_four_types_that_mappers_decode() {
    let protocol = device(&served(), &BTreeMap::new())
        .spec
        .unwrap()
        .protocol
        .unwrap();
    let data = protocol.config_data.unwrap().data;
    assert_eq!(data["ip"].to_msg::<String>().unwrap(), "10.0.0.9");
    assert_eq!(data["port"].to_msg::<i64>().unwrap(), 502);
    assert!((data["ratio"].to_msg::<f32>().unwrap() - 0.5).abs() < f32::EPSILON);
    assert!(data["tls"].to_msg::<bool>().unwrap());
    assert_eq!(data["units"].to_msg::<String>().unwrap(), "[1,2]");
    assert!(!data.contains_key("gone"));
    assert_eq!(
        data["port"].type_url,
        "type.googleapis.com/google.protobuf.Int64Value"
    );
}

#[test]
fn what_mappers_follow_without_asking_is_always_there() {
    let wish = Wish {
        value: "30".to_owned(),
        version: 1,
        met: false,
        done: false,
        in_doubt: false,
    };
    let sent = device(&served(), &BTreeMap::from([("temperature".to_owned(), wish)]));
    let spec = sent.spec.unwrap();
    // What the model lacks has no type: it is left out.
    let names: Vec<_> = spec
        .properties
        .iter()
        .map(|property| property.name.as_str())
        .collect();
    assert_eq!(names, ["temperature", "humidity"]);
    for property in &spec.properties {
        let visitors = property.visitors.as_ref().unwrap();
        assert_eq!(visitors.protocol_name, "modbus");
        assert!(visitors.config_data.is_some() && property.desired.is_some());
    }
    let temperature = &spec.properties[0];
    assert_eq!(temperature.desired.as_ref().unwrap().value, "30");
    assert_eq!(temperature.desired.as_ref().unwrap().metadata["type"], "int");
    assert_eq!((temperature.collect_cycle, temperature.report_cycle), (500, 0));
    let visitor = temperature.visitors.clone().unwrap().config_data.unwrap().data;
    assert_eq!(visitor.keys().collect::<Vec<_>>(), ["offset", "register"]);
    assert!(temperature.report_to_cloud && !spec.properties[1].report_to_cloud);
    let push = temperature.push_method.clone().unwrap();
    let td_engine = push
        .db_method
        .unwrap()
        .tdengine
        .unwrap()
        .td_engine_client_config
        .unwrap();
    assert_eq!((td_engine.addr.as_str(), td_engine.dbname.as_str()), ("db", "x"));
    assert_eq!(push.http.unwrap().requestpath, "/p");
    let status = sent.status.unwrap();
    assert!(status.report_to_cloud && status.report_cycle == 1000);
}

#[test]
fn the_digest_of_a_device_follows_what_it_starts_with_and_nothing_else() {
    let digest = |served: &Served| Digest::of_device(&device(served, &BTreeMap::new()), &model(served));
    let before = digest(&served());
    assert_eq!(before, digest(&served()));

    let mut described = served();
    described.properties[0].description = "warm".to_owned();
    assert_eq!(before, digest(&described));
    assert_ne!(
        Digest::of_model(&model(&served())),
        Digest::of_model(&model(&described))
    );

    let mut narrowed = served();
    narrowed.properties[0].maximum = Some("80".to_owned());
    assert_ne!(before, digest(&narrowed));
}

pub(in crate::devices::dmi) fn digest(text: &str) -> Digest {
    Digest(text.to_owned())
}
