//! Devices for people: one line for each property. Pure.

use std::time::Duration;

use protocol::tls::human;

use super::{DeviceView, PropertyView};
use crate::cli::status::table;

/// Longer values are cut: their place is the JSON.
const CELL: usize = 40;

/// The whole text.
pub(super) fn render(devices: &[DeviceView], is_running: bool) -> String {
    let mut out = String::new();
    if !is_running {
        out.push_str(
            "edgecore does not run; this is what its journal holds (start it: systemctl start edgecore)\n\n",
        );
    }
    if devices.is_empty() {
        out.push_str("No devices.\n");
        return out;
    }
    let head = [
        "NAMESPACE",
        "DEVICE",
        "PROTOCOL",
        "STATE",
        "PROPERTY",
        "VALUE",
        "QUALITY",
        "AGE",
        "DESIRED",
    ];
    table(&mut out, head, devices.iter().flat_map(rows));
    out
}

fn rows(device: &DeviceView) -> Vec<[String; 9]> {
    let protocol = if device.protocol.is_empty() {
        "mqtt"
    } else {
        &device.protocol
    };
    let head = [&device.namespace, &device.name, protocol, &device.state].map(str::to_owned);
    let none = PropertyView::default();
    let properties: Vec<&PropertyView> = if device.properties.is_empty() {
        vec![&none]
    } else {
        device.properties.iter().collect()
    };
    let row = |(number, property): (usize, &&PropertyView)| {
        let [namespace, name, protocol, state] = if number == 0 {
            head.clone()
        } else {
            Default::default()
        };
        let [property, value, quality, age, desired] = cells(property);
        [
            namespace, name, protocol, state, property, value, quality, age, desired,
        ]
    };
    properties.iter().enumerate().map(row).collect()
}

fn cells(property: &PropertyView) -> [String; 5] {
    let quality = if property.reason.is_empty() {
        property.quality.clone()
    } else {
        format!("{}: {}", property.quality, property.reason)
    };
    let age = property
        .age_seconds
        .map(|seconds| human(Duration::from_secs(seconds)));
    [
        property.name.clone(),
        property.value.as_deref().map(cell).unwrap_or_default(),
        cell(&quality),
        age.unwrap_or_default(),
        property.desired.as_deref().map(cell).unwrap_or_default(),
    ]
}

fn cell(text: &str) -> String {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(CELL + 1).collect();
    match shown.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}
