//! The Node document beside what a stock kubelet of the same version registers.

use super::*;
use crate::node::{Disk, Load};
use serde_json::{Value, json};

const ADDRESS: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 7)));

fn identity() -> Identity {
    Identity {
        name: "pump-7".to_owned(),
        labels: BTreeMap::from([("site".to_owned(), "north".to_owned())]),
        taints: vec![(
            "node-role.kubernetes.io/edge".to_owned(),
            String::new(),
            "NoSchedule".to_owned(),
        )],
        max_pods: 110,
        zone: "pump-7".to_owned(),
        region: "edge".to_owned(),
    }
}

fn seen() -> Observation {
    let image = |n: u64| Image {
        names: vec![format!("registry.example/i:{n:03}")],
        size: 1000 - n / 2,
    };
    Observation {
        machine: Machine {
            machine_id: "m1".to_owned(),
            system_uuid: "u1".to_owned(),
            boot_id: "b1".to_owned(),
            kernel_version: "6.1.0".to_owned(),
            os_image: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            cpus: 2,
            memory: 16_384_256 * 1024,
            swap: 0,
            huge_pages: vec![(2 << 20, 0)],
        },
        load: Load {
            disk: Some(Disk {
                bytes: 61_202_244 * 1024,
                ..Disk::default()
            }),
            ..Load::default()
        },
        runtime: Ok(RuntimeFacts {
            name: "containerd".to_owned(),
            version: "2.4.2".to_owned(),
            handlers: vec![
                Handler::default(),
                Handler {
                    name: "runc".to_owned(),
                    ..Handler::default()
                },
            ],
            images: (0..60).map(image).collect(),
            ..RuntimeFacts::default()
        }),
        device_address: ADDRESS,
    }
}

fn document() -> Value {
    serde_json::to_value(node(&identity(), &seen(), ADDRESS, Vec::new())).unwrap()
}

#[test]
fn the_document_has_the_shape_that_a_kubelet_registers() {
    let node = document();
    assert_eq!(node["kind"], "Node");
    assert_eq!(
        node["status"]["capacity"],
        json!({"cpu": "2", "ephemeral-storage": "61202244Ki", "hugepages-2Mi": "0", "memory": "16384256Ki", "pods": "110"})
    );
    assert_eq!(
        node["status"]["allocatable"],
        json!({"cpu": "2", "ephemeral-storage": "56403987978", "hugepages-2Mi": "0", "memory": "16281856Ki", "pods": "110"})
    );
    let info = &node["status"]["nodeInfo"];
    assert_eq!(info["containerRuntimeVersion"], "containerd://2.4.2");
    assert_eq!(
        info["kubeletVersion"],
        format!("v1.36.3+tombolo.{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        (&info["kubeProxyVersion"], &info["operatingSystem"]),
        (&json!(""), &json!("linux"))
    );
}

#[test]
fn labels_and_taints_keep_ordinary_pods_and_load_balancers_away() {
    let node = document();
    let labels = &node["metadata"]["labels"];
    assert_eq!(labels["kubernetes.io/hostname"], "pump-7");
    assert_eq!(labels["topology.kubernetes.io/region"], "edge");
    assert_eq!(labels["tombolo.dev/autonomy"], "true");
    assert_eq!(
        labels["node.kubernetes.io/exclude-from-external-load-balancers"],
        ""
    );
    assert_eq!(labels["site"], "north");
    assert_eq!(
        node["spec"]["taints"],
        json!([{"key": "node-role.kubernetes.io/edge", "effect": "NoSchedule"}])
    );
}

#[test]
fn what_is_cloudcores_is_not_in_the_document() {
    let node = document();
    assert_eq!(node["status"].get("addresses"), None);
    assert_eq!(node["status"].get("daemonEndpoints"), None);
    assert_eq!(
        node["metadata"]["labels"].get("node-role.kubernetes.io/edge"),
        None
    );
    assert_eq!(
        node["metadata"]["annotations"],
        json!({"tombolo.dev/device-address": "198.18.0.7"})
    );
}

#[test]
fn the_fifty_largest_images_are_listed_in_an_order_that_does_not_change() {
    let images = document()["status"]["images"].clone();
    assert_eq!(images.as_array().unwrap().len(), 50);
    assert_eq!(images[0]["names"][0], "registry.example/i:000");
    let mut shuffled = seen();
    if let Ok(facts) = &mut shuffled.runtime {
        facts.images.reverse();
    }
    let again = serde_json::to_value(node(&identity(), &shuffled, ADDRESS, Vec::new())).unwrap();
    assert_eq!(again["status"]["images"], images);
}

#[test]
fn a_label_of_the_configuration_can_switch_autonomy_off() {
    let mut identity = identity();
    identity
        .labels
        .insert("tombolo.dev/autonomy".to_owned(), "false".to_owned());
    let node = node(&identity, &seen(), ADDRESS, Vec::new());
    assert_eq!(node.metadata.labels.unwrap()["tombolo.dev/autonomy"], "false");
}

#[test]
fn a_device_without_a_runtime_still_says_what_it_is() {
    let seen = Observation {
        runtime: Err("no socket".to_owned()),
        ..seen()
    };
    let node = serde_json::to_value(node(&identity(), &seen, ADDRESS, Vec::new())).unwrap();
    assert_eq!(
        node["status"]["nodeInfo"]["containerRuntimeVersion"],
        "unknown://Unknown"
    );
    assert_eq!(node["status"]["capacity"]["cpu"], "2");
    assert_eq!(node["status"].get("images"), None);
}

#[test]
fn a_configuration_without_taints_says_so_instead_of_saying_nothing() {
    let identity = Identity {
        taints: Vec::new(),
        ..identity()
    };
    let node = serde_json::to_value(node(&identity, &seen(), ADDRESS, Vec::new())).unwrap();
    assert_eq!(node["spec"]["taints"], json!([]));
}
