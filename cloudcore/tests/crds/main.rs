//! The custom resource definitions: the files are those of the types, and existing manifests fit them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod definitions;

use std::fs;
use std::path::{Path, PathBuf};

use protocol::devices::check::check;
use protocol::devices::{Device, DeviceModel, DeviceStatus};
use serde_json::{Value, json};

use definitions::{Definition, definitions, plain, template, yaml};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn samples() -> Vec<(String, Vec<Value>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crds/samples");
    let mut samples: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let objects = text
                .split("\n---\n")
                .map(|text| serde_saphyr::from_str(text).unwrap());
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                objects.collect(),
            )
        })
        .collect();
    samples.sort_by(|(one, _), (other, _)| one.cmp(other));
    samples
}

fn schema_of(kind: &Value) -> Value {
    let of_kind = |definition: &Definition| definition.document["spec"]["names"]["kind"] == *kind;
    let definition = definitions().into_iter().find(of_kind).unwrap();
    definition.document["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// What the API server would refuse or cut away.
fn misfits(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    if schema["enum"].is_array() && !schema["enum"].as_array().unwrap().contains(value) {
        found.push(format!("{path}: {value} is none of {}", schema["enum"]));
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        _ => false,
    };
    if !fits {
        found.push(format!("{path}: {value} is not of type {}", schema["type"]));
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        if let Some(schema) = schema["properties"]
            .get(key)
            .or_else(|| schema.get("additionalProperties"))
        {
            misfits(value, schema, &path, found);
        } else if schema["x-kubernetes-preserve-unknown-fields"] != true
            && path != ".metadata"
            && !path.starts_with(".metadata.")
        {
            found.push(format!("{path} is unknown"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        misfits(item, &schema["items"], &format!("{path}[]"), found);
    }
}

/// Where a schema says what a structural one may not.
fn unstructural(schema: &Value, path: &str, found: &mut Vec<String>) {
    const ALLOWED: [&str; 12] = [
        "type",
        "description",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "enum",
        "format",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "nullable",
    ];
    let object = schema
        .as_object()
        .unwrap_or_else(|| panic!("{path} is no schema"));
    let odd = object.keys().filter(|key| !ALLOWED.contains(&key.as_str()));
    found.extend(odd.map(|key| format!("{path}: {key}")));
    if !schema["type"].is_string() {
        found.push(format!("{path} has no type"));
    }
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_some() {
        found.push(format!("{path}: properties exclude additionalProperties"));
    }
    for (name, nested) in schema["properties"].as_object().into_iter().flatten() {
        unstructural(nested, &format!("{path}.{name}"), found);
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(nested) = schema.get(nested) {
            unstructural(nested, &format!("{path}[]"), found);
        }
    }
}

#[test]
fn the_files_are_those_of_the_types() {
    for definition in definitions() {
        let files = [
            ("manifests/crds", plain(&definition)),
            ("manifests/charts/cloudcore/templates/crds", template(&definition)),
        ];
        for (dir, expected) in files {
            let path = root().join(dir).join(definition.file);
            let text = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                text == expected,
                "{} differs from the types; write it again: cargo run -p cloudcore --example crds",
                path.display()
            );
        }
    }
}

#[test]
fn what_is_written_is_read_back_as_it_was() {
    for definition in definitions() {
        let read: Value = serde_saphyr::from_str(&yaml(&definition.document)).unwrap();
        assert_eq!(read, definition.document);
    }
}

#[test]
fn the_schemas_are_structural_and_default_nothing() {
    for kind in ["Device", "DeviceModel", "DeviceStatus"] {
        let mut found = Vec::new();
        unstructural(&schema_of(&json!(kind)), "", &mut found);
        assert!(found.is_empty(), "{kind}: {found:#?}");
    }
}

#[test]
fn existing_manifests_fit_and_lose_nothing() {
    let samples = samples();
    assert!(samples.len() >= 3);
    for (file, objects) in samples {
        for object in objects {
            let mut found = Vec::new();
            misfits(&object, &schema_of(&object["kind"]), "", &mut found);
            assert!(found.is_empty(), "{file}: {found:#?}");
            let read: Value = match object["kind"].as_str() {
                Some("Device") => json!(serde_json::from_value::<Device>(object.clone()).unwrap()),
                Some("DeviceModel") => json!(serde_json::from_value::<DeviceModel>(object.clone()).unwrap()),
                _ => json!(serde_json::from_value::<DeviceStatus>(object.clone()).unwrap()),
            };
            assert_eq!(read["spec"], object["spec"], "{file}: the types lose a field");
        }
    }
}

#[test]
fn the_devices_of_existing_manifests_fit_their_models() {
    for (file, objects) in samples() {
        let of_kind = |kind: &'static str| {
            objects
                .iter()
                .filter(move |object| object["kind"] == kind)
                .cloned()
        };
        for device in of_kind("Device") {
            let device: Device = serde_json::from_value(device).unwrap();
            let models =
                of_kind("DeviceModel").map(|model| serde_json::from_value::<DeviceModel>(model).unwrap());
            let model = models
                .into_iter()
                .find(|model| model.metadata.name.as_deref() == device.model_name());
            assert_eq!(check(&device, model.as_ref()), [], "{file}");
        }
    }
}

#[test]
fn what_does_not_fit_is_noticed() {
    let bad = json!({ "kind": "Device", "spec": { "properties": [{ "name": 1, "colour": "red" }] } });
    let mut found = Vec::new();
    misfits(&bad, &schema_of(&json!("Device")), "", &mut found);
    assert_eq!(found.len(), 2, "{found:#?}");
}
