//! The custom resources, made from the Rust types: what `manifests/crds` and the chart hold.
//!
//! **Invariant:** the schemas are structural, keep what is free-form, and give no field a default,
//! so that what was applied is what is shown.

use std::collections::BTreeMap;

use protocol::devices::{DeviceModelSpec, DeviceSpec, DeviceStatusStatus, GROUP, LegacyStatus, VERSION};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

const KEEPS_UNKNOWN: &str = "x-kubernetes-preserve-unknown-fields";

/// A definition, and the file that it goes into.
pub(crate) struct Definition {
    pub(crate) file: &'static str,
    pub(crate) document: Value,
}

/// Every definition.
pub(crate) fn definitions() -> Vec<Definition> {
    vec![device(), device_model(), device_status()]
}

fn device() -> Definition {
    let mut spec = schema::<DeviceSpec>();
    unique_names(&mut spec);
    let mut status = schema::<LegacyStatus>();
    status[KEEPS_UNKNOWN] = json!(true);
    Definition {
        file: "devices.yaml",
        document: definition(
            &Names {
                kind: "Device",
                plural: "devices",
                short: "dev",
                older: true,
            },
            &[
                column("Node", "string", ".spec.nodeName"),
                column("Model", "string", ".spec.deviceModelRef.name"),
                column("Protocol", "string", ".spec.protocol.protocolName"),
                column("State", "string", ".status.state"),
                column("Age", "date", ".metadata.creationTimestamp"),
            ],
            &json!({ "spec": spec, "status": status }),
        ),
    }
}

fn device_model() -> Definition {
    let mut spec = schema::<DeviceModelSpec>();
    unique_names(&mut spec);
    Definition {
        file: "devicemodels.yaml",
        document: definition(
            &Names {
                kind: "DeviceModel",
                plural: "devicemodels",
                short: "devm",
                older: true,
            },
            &[
                column("Protocol", "string", ".spec.protocol"),
                column("Age", "date", ".metadata.creationTimestamp"),
            ],
            &json!({ "spec": spec }),
        ),
    }
}

fn device_status() -> Definition {
    let spec = json!({ "type": "object", KEEPS_UNKNOWN: true });
    let status = schema::<DeviceStatusStatus>();
    Definition {
        file: "devicestatuses.yaml",
        document: definition(
            &Names {
                kind: "DeviceStatus",
                plural: "devicestatuses",
                short: "devs",
                older: false,
            },
            &[
                column("State", "string", ".status.state"),
                column("Last Seen", "date", ".status.lastOnlineTime"),
                column("Values", "string", r".metadata.annotations.tombolo\.dev/values"),
            ],
            &json!({ "spec": spec, "status": status }),
        ),
    }
}

struct Names {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    /// Whether clusters may hold objects of an earlier version.
    older: bool,
}

fn definition(names: &Names, columns: &[Value], parts: &Value) -> Value {
    let Names {
        kind,
        plural,
        short,
        older,
    } = names;
    let mut properties = json!({
        "apiVersion": { "type": "string" },
        "kind": { "type": "string" },
        "metadata": { "type": "object" },
    });
    for (name, schema) in parts.as_object().into_iter().flatten() {
        properties[name] = schema.clone();
    }
    let mut versions = vec![json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": columns,
        // No status subresource: `kubectl apply` sets what manifests of an earlier API kept there.
        "schema": { "openAPIV3Schema": { "type": "object", "properties": properties } },
    })];
    if *older {
        versions.push(json!({
            "name": "v1alpha2",
            "served": false,
            "storage": false,
            "schema": { "openAPIV3Schema": { "type": "object", KEEPS_UNKNOWN: true } },
        }));
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{GROUP}") },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": kind.to_lowercase(),
                "shortNames": [short],
            },
            "versions": versions,
        },
    })
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({ "name": name, "type": kind, "jsonPath": path })
}

/// A property is named once: the API server refuses a second.
fn unique_names(spec: &mut Value) {
    let properties = &mut spec["properties"]["properties"];
    properties["x-kubernetes-list-type"] = json!("map");
    properties["x-kubernetes-list-map-keys"] = json!(["name"]);
}

/// The schema of a type, as Kubernetes wants it.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = Value::from(schema);
    structural(&mut schema);
    schema
}

/// Turns what schemars says into what a structural schema may say.
fn structural(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    for gone in [
        "$schema",
        "title",
        "default",
        "nullable",
        "components",
        "definitions",
        "$defs",
    ] {
        object.remove(gone);
    }
    lines_joined(object);
    one_type(object);
    enumerated(object);
    // Settings whose keys are somebody else's.
    if object.get("additionalProperties") == Some(&Value::Bool(true)) {
        object.remove("additionalProperties");
        object.insert(KEEPS_UNKNOWN.into(), json!(true));
    }
    for nested in ["items", "additionalProperties"] {
        object.get_mut(nested).into_iter().for_each(structural);
    }
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    properties
        .into_iter()
        .flat_map(Map::values_mut)
        .for_each(structural);
}

/// A documentation comment is broken into lines for its source alone.
fn lines_joined(object: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

/// An option is its type: whoever writes null gets the field removed.
fn one_type(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get("type") {
        let first = types.iter().find(|kind| **kind != "null").cloned();
        object.insert("type".into(), json!(first));
    }
    for wrapper in ["allOf", "anyOf"] {
        let Some(Value::Array(parts)) = object.get(wrapper) else {
            continue;
        };
        let real: Vec<Value> = parts
            .iter()
            .filter(|part| part["type"] != "null" && part["enum"] != json!([null]))
            .cloned()
            .collect();
        if let [Value::Object(only)] = real.as_slice() {
            let only = only.clone();
            object.remove(wrapper);
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
}

/// Documented variants are a list of one-word schemas; Kubernetes wants the words.
fn enumerated(object: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = object.get("oneOf") else {
        return;
    };
    let words: Vec<Value> = variants
        .iter()
        .filter_map(|variant| {
            let word = variant.get("const").or_else(|| variant.get("enum")?.get(0))?;
            Some(word.clone())
        })
        .collect();
    if words.len() == variants.len() {
        object.remove("oneOf");
        object.insert("type".into(), json!("string"));
        object.insert("enum".into(), words.into());
    }
}

/// The document as YAML, its keys in alphabetical order, whatever the parser's order is.
pub(crate) fn yaml(document: &Value) -> String {
    let mut text = String::new();
    write_value(document, 0, &mut text);
    text
}

fn write_value(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object.iter().collect::<BTreeMap<_, _>>() {
                text.extend([indent.as_str(), key, ":"]);
                if is_nested(value) {
                    text.push('\n');
                    write_value(value, depth + 1, text);
                } else {
                    text.extend([" ", &scalar(value), "\n"]);
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut nested = String::new();
                write_value(item, depth + 1, &mut nested);
                text.extend([indent.as_str(), "- ", nested.trim_start()]);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => text.extend([indent.as_str(), &scalar(value), "\n"]),
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(object) => !object.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A word stands as it is; JSON's other scalars are YAML's.
fn scalar(value: &Value) -> String {
    let plain = |text: &&str| {
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
        let is_keyword = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
        begins
            && !is_keyword.contains(&text.to_lowercase().as_str())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "./-".contains(c))
    };
    match value.as_str().filter(plain) {
        Some(word) => word.to_owned(),
        None => value.to_string(),
    }
}

/// The first line of every file.
const HEAD: &str = "# Made from the Rust types: cargo run -p cloudcore --example crds\n";

/// What `manifests/crds` holds of a definition.
pub(crate) fn plain(definition: &Definition) -> String {
    format!("{HEAD}{}", yaml(&definition.document))
}

/// What the chart holds of it: a template, so that an upgrade brings it up to date, which `helm
/// uninstall` leaves, for the devices would go with it.
pub(crate) fn template(definition: &Definition) -> String {
    let mut document = definition.document.clone();
    document["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
    format!(
        "{{{{- if .Values.crds.install }}}}\n{HEAD}{}{{{{- end }}}}\n",
        yaml(&document)
    )
}
