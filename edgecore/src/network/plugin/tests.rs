//! The plugin against the kernel, in network namespaces of its own.

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command as Process;

use serde_json::{Value, json};

use super::addresses::Cables as _;
use super::*;
use crate::network::testing::{Elsewhere, in_a_namespace};

/// A device with the plugin.
struct Device {
    dir: PathBuf,
}

impl Device {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("tombolo-plugin-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("plugins")).unwrap();
        Self { dir }
    }

    fn configuration(&self, ports: &Value) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "tombolo", "type": NAME, "bridge": "tombolo0",
            "range": "10.86.0.0/28", "addresses": self.dir.join("addresses"), "capabilities": {"portMappings": true},
            "runtimeConfig": {"portMappings": ports},
        })
    }

    fn asked(&self, command: &str, pod: (&str, &str), ports: &Value) -> Result<Asked, PluginError> {
        let variable = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => pod.0,
                "CNI_NETNS" => pod.1,
                "CNI_IFNAME" => "eth0",
                "CNI_PATH" => return Some(self.dir.join("plugins").display().to_string()),
                _ => return None,
            };
            Some(value.to_owned())
        };
        let input = self.configuration(ports).to_string();
        call::parse(&variable, input.as_bytes())
    }

    fn ask(&self, command: &str, pod: (&str, &str), ports: &Value) -> Result<Value, PluginError> {
        let answer = serve(&self.asked(command, pod, ports)?)?;
        Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    fn add(&self, id: &str, pod: &Elsewhere) -> Value {
        self.ask("ADD", (id, &pod.path()), &json!([])).unwrap()
    }

    fn held(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("addresses")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut held: Vec<_> = names.filter(|name| name != "last").collect();
        held.sort();
        held
    }
}

fn address(result: &Value) -> IpAddr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.strip_suffix("/28").unwrap().parse().unwrap()
}

fn ip(args: &str) -> String {
    let output = Process::new("ip").args(args.split(' ')).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn cables() -> usize {
    ip("-o link show type veth").lines().count()
}

#[test]
#[ignore = "needs a network namespace of its own; the test at the end makes one and runs this in it"]
fn pods_reach_each_other_the_device_and_themselves() {
    let device = Device::new();
    let (a, b) = (Elsewhere::new(), Elsewhere::new());
    let (first, second) = (device.add("a", &a), device.add("b", &b));
    assert_eq!(address(&first).to_string(), "10.86.0.2");
    assert_eq!(first["interfaces"][2]["mac"], "0a:58:0a:56:00:02");
    let bridge = ip("-o link show tombolo0");
    assert!(bridge.contains("0a:58:0a:56:00:01"), "{bridge}");

    let here = TcpListener::bind("10.86.0.1:0").unwrap();
    a.inside(|| TcpStream::connect(here.local_addr().unwrap()).unwrap());
    let there = b.inside(|| TcpListener::bind(SocketAddr::new(address(&second), 0)).unwrap());
    let met = a.inside(|| TcpStream::connect(there.local_addr().unwrap()).unwrap());
    assert_eq!(met.local_addr().unwrap().ip(), address(&first));
    // Everything else goes by the gateway.
    let routes = a.inside(|| ip("route"));
    assert!(routes.starts_with("default via 10.86.0.1 dev eth0"), "{routes}");
    let port = first["interfaces"][1]["name"].as_str().unwrap();
    assert!(ip(&format!("-d -o link show {port}")).contains("hairpin on"));

    // A pod that comes puts right what somebody did to the bridge.
    ip("addr flush dev tombolo0");
    let c = Elsewhere::new();
    device.add("c", &c);
    assert!(
        a.inside(|| TcpStream::connect(("10.86.0.1", here.local_addr().unwrap().port())))
            .is_ok()
    );
    std::fs::remove_dir_all(&device.dir).unwrap();
}

#[test]
#[ignore = "needs a network namespace of its own; the test at the end makes one and runs this in it"]
fn a_pod_that_goes_leaves_nothing_and_may_go_twice() {
    let device = Device::new();
    let (a, b) = (Elsewhere::new(), Elsewhere::new());
    device.add("a", &a);
    device.add("b", &b);
    let check = |id| device.ask("CHECK", (id, &a.path()), &json!([]));
    check("a").unwrap();
    for _ in 0..2 {
        device.ask("DEL", ("a", &a.path()), &json!([])).unwrap();
    }
    assert!(check("a").unwrap_err().to_string().contains("a/eth0"));
    assert!(a.inside(|| ip("-o link show eth0")).is_empty());
    // Its namespace may be gone before it.
    device.ask("DEL", ("b", ""), &json!([])).unwrap();
    assert_eq!((device.held(), cables()), (Vec::new(), 0));
    std::fs::remove_dir_all(&device.dir).unwrap();
}

#[test]
#[ignore = "needs a network namespace of its own; the test at the end makes one and runs this in it"]
fn a_pod_that_cannot_be_connected_leaves_nothing() {
    let device = Device::new();
    let a = Elsewhere::new();
    device.add("a", &a);
    let twice = device.ask("ADD", ("again", &a.path()), &json!([]));
    assert!(twice.is_err(), "it has an eth0");
    let nowhere = device.ask("ADD", ("lost", "/proc/none"), &json!([])).unwrap_err();
    assert!(nowhere.to_string().contains("/proc/none"), "{nowhere}");
    assert_eq!((device.held(), cables()), (vec!["10.86.0.2".to_owned()], 1));
    std::fs::remove_dir_all(&device.dir).unwrap();
}

#[test]
#[ignore = "needs a network namespace of its own; the test at the end makes one and runs this in it"]
fn a_second_add_leaves_the_first_one_s_pod_as_it_is() {
    let device = Device::new();
    let (a, other) = (Elsewhere::new(), Elsewhere::new());
    device.add("a", &a);
    for namespace in [a.path(), other.path(), "/proc/none".to_owned()] {
        let again = device.ask("ADD", ("a", &namespace), &json!([]));
        let told = again.unwrap_err().to_string();
        assert!(
            told.contains("DEL comes first") || told.contains("/proc/none"),
            "{told}"
        );
        assert_eq!((device.held(), cables()), (vec!["10.86.0.2".to_owned()], 1));
    }
    let here = TcpListener::bind("10.86.0.1:0").unwrap();
    assert!(
        a.inside(|| TcpStream::connect(here.local_addr().unwrap()))
            .is_ok()
    );
    std::fs::remove_dir_all(&device.dir).unwrap();
}

#[test]
#[ignore = "needs a network namespace of its own; the test at the end makes one and runs this in it"]
fn a_living_pod_keeps_its_address_when_the_directory_is_lost() {
    let device = Device::new();
    let (a, b, c) = (Elsewhere::new(), Elsewhere::new(), Elsewhere::new());
    device.add("a", &a);
    device.add("b", &b);
    device.ask("DEL", ("a", &a.path()), &json!([])).unwrap();
    std::fs::remove_dir_all(device.dir.join("addresses")).unwrap();
    let living = cable::Kernel.living().unwrap();
    assert_eq!(living.len(), 1);
    assert!(!cable::Kernel.is_gone(&living[0].1) && cable::Kernel.is_gone("veth0"));
    // Somebody's own, one with the address of a cable's end and one with what could be such.
    for (name, mac) in [("vlan", "0a:59:0a:56:00:03"), ("other", "0a:59:0a:56:00:05")] {
        ip(&format!("link add {name} address {mac} type bridge"));
        assert!(ip(&format!("-o link show {name}")).contains(mac));
    }
    assert_eq!(address(&device.add("c", &c)).to_string(), "10.86.0.2");
    let held = ["10.86.0.2", "10.86.0.3"].map(str::to_owned);
    assert_eq!((device.held(), cables()), (held.to_vec(), 2));
    device.ask("CHECK", ("b", &b.path()), &json!([])).unwrap();
    for (pod, left) in [("b", 1), ("c", 0)] {
        device.ask("DEL", (pod, ""), &json!([])).unwrap();
        assert_eq!((device.held().len(), cables()), (left, left));
    }
    std::fs::remove_dir_all(&device.dir).unwrap();
}

#[test]
#[ignore = "needs a network namespace of its own; the test at the end makes one and runs this in it"]
fn a_pod_that_comes_while_the_directory_is_lost_shares_its_address_with_nobody() {
    let device = Device::new();
    let (a, b, c) = (Elsewhere::new(), Elsewhere::new(), Elsewhere::new());
    let addresses = Addresses::at(&device.dir.join("addresses"));
    // Each has its address, and no cable yet.
    let begun = |id: &str, pod: &Elsewhere| {
        let asked = device.asked("ADD", (id, &pod.path()), &json!([])).unwrap();
        let Asked::Of(call) = asked else { unreachable!() };
        let taken = addresses.take(call.network.range, &call.owner(), &cable::Kernel);
        std::fs::remove_dir_all(device.dir.join("addresses")).unwrap();
        (call, taken.unwrap())
    };
    let (call, first) = begun("a", &a);
    assert_eq!(address(&device.add("b", &b)), first);
    let told = connect(&call, &addresses, first).unwrap_err().to_string();
    assert!(told.contains("another pod was given 10.86.0.2"), "{told}");
    assert_eq!((device.held(), cables()), (vec!["10.86.0.2".to_owned()], 1));

    let (call, second) = begun("c", &c);
    connect(&call, &addresses, second).unwrap();
    assert_eq!((device.held().len(), cables()), (2, 2));
    for pod in ["b", "c"] {
        device.ask("CHECK", (pod, &a.path()), &json!([])).unwrap();
        device.ask("DEL", (pod, ""), &json!([])).unwrap();
    }
    assert_eq!((device.held(), cables()), (Vec::new(), 0));
    std::fs::remove_dir_all(&device.dir).unwrap();
}

#[test]
#[ignore = "needs a network namespace of its own; the test at the end makes one and runs this in it"]
fn published_ports_are_portmaps() {
    let device = Device::new();
    let a = Elsewhere::new();
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let ask = |command| device.ask(command, ("a", &a.path()), &ports);
    assert!(ask("ADD").unwrap_err().to_string().contains("apt install"));

    let (portmap, said) = (device.dir.join("plugins/portmap"), device.dir.join("said"));
    let install = |script: &str| {
        std::fs::write(&portmap, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&portmap, Permissions::from_mode(0o755)).unwrap();
    };
    install(r#"cat > /dev/null; echo '{"code": 5, "msg": "no such table"}'; exit 1"#);
    let refused = ask("ADD").unwrap_err().to_string();
    assert!(refused.contains("no such table"), "{refused}");
    // The runtime asks again for another sandbox, and never again for this one.
    assert_eq!((cables(), device.held()), (0, Vec::new()));

    install(&format!(
        "cat > {}.$CNI_COMMAND; ip -o link show tombolo0 > /dev/null",
        said.display()
    ));
    ask("ADD").unwrap();
    let told = std::fs::read(said.with_extension("ADD")).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["runtimeConfig"]["portMappings"], ports);
    assert_eq!(told["prevResult"]["ips"][0]["address"], "10.86.0.4/28");
    ask("DEL").unwrap();
    assert!(said.with_extension("DEL").exists());
    std::fs::remove_dir_all(&device.dir).unwrap();
}

#[test]
fn each_of_these_holds_in_a_namespace_of_its_own() {
    for name in [
        "pods_reach_each_other_the_device_and_themselves",
        "a_pod_that_goes_leaves_nothing_and_may_go_twice",
        "a_pod_that_cannot_be_connected_leaves_nothing",
        "a_second_add_leaves_the_first_one_s_pod_as_it_is",
        "a_living_pod_keeps_its_address_when_the_directory_is_lost",
        "a_pod_that_comes_while_the_directory_is_lost_shares_its_address_with_nobody",
        "published_ports_are_portmaps",
    ] {
        in_a_namespace(&format!("network::plugin::tests::{name}"));
    }
}

#[test]
fn what_is_asked_is_checked() {
    let told = |command: &str, id: &str, version: &str| {
        let variable = |name: &str| {
            Some(match name {
                "CNI_COMMAND" => command.to_owned(),
                "CNI_CONTAINERID" => id.to_owned(),
                "CNI_IFNAME" => "eth0".to_owned(),
                _ => return None,
            })
        };
        let mut input = Device { dir: "/run/x".into() }.configuration(&json!([]));
        input["cniVersion"] = json!(version);
        let asked = call::parse(&variable, input.to_string().as_bytes());
        asked.map_or_else(|error| error.answer(), |_| "well".to_owned())
    };
    assert_eq!(told("DEL", "4f.2-a_", "1.0.0"), "well");
    assert!(told("ADD", "4f", "1.0.0").contains("CNI_NETNS"));
    assert!(told("DEL", "../4f", "1.0.0").contains("CNI_CONTAINERID"));
    assert!(told("GC", "4f", "1.0.0").contains("CNI_COMMAND"));
    assert!(told("DEL", "4f", "0.2.0").contains(r#""code":1"#));
    assert_eq!(told("VERSION", "", "0.2.0"), "well");
}

#[test]
fn the_bridges_end_of_a_cable_has_a_name_that_depends_on_the_pod_alone() {
    let end = |id: &str| {
        let variable = |name: &str| {
            let set = [
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", id),
                ("CNI_IFNAME", "eth0"),
            ];
            set.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let input = Device { dir: "/run/x".into() }
            .configuration(&json!([]))
            .to_string();
        match call::parse(&variable, input.as_bytes()).unwrap() {
            Asked::Of(call) => call.host_end(),
            Asked::Version => unreachable!(),
        }
    };
    assert_eq!(end("a"), end("a"));
    assert_ne!(end("a"), end("b"));
    assert_eq!(end("a").len(), 15);
    assert!(call::is_cable(&end("a")) && call::is_cable(&end("b")));
    for other in ["tombolo0", "veth0", "veth012345678.5", "lxc0123456789ab"] {
        assert!(!call::is_cable(other), "{other}");
    }
}
