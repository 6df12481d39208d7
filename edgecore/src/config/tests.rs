//! What a configuration file may say, and what an operator is told when it is wrong.

use std::time::Duration;

use super::*;
use crate::node::shortage::Soft;
use crate::node::thresholds::{Signal, Threshold};

const SMALL: &str = "node_name: pump-7\naddresses: [cloud.example.org]\n";

fn mistakes(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

#[test]
fn the_smallest_file_is_a_name_and_an_address() {
    let config = Config::parse(SMALL).unwrap();
    assert_eq!(config.node_name.to_string(), "pump-7");
    assert_eq!(config.addresses[0].to_string(), "cloud.example.org:10000");
    assert_eq!(config.zone, "pump-7");
    assert_eq!(config.max_pods, 110);
    assert_eq!(config.pod_cidr.to_string(), "10.86.0.0/16");
    assert_eq!(config.runtime_endpoint.to_string(), DEFAULT_RUNTIME_ENDPOINT);
}

#[test]
fn every_key_is_read_into_its_type() {
    let config = Config::parse(
        "node_name: pump-7\naddresses: ['198.18.0.1:31000', '[2001:db8::1]']\n\
         runtime_endpoint: /run/crio/crio.sock\ncgroup_root: /machine-e1\ncgroup_driver: systemd\ncluster_dns: 10.96.0.10\n\
         cluster_domain: corp.local\nresolv_conf: /etc/pods.conf\npod_cidr: 10.99.0.0/24\nlabels: {site: north, line: \"7\"}\n\
         taints: []\nmax_pods: 30\neviction: {memory.available: 64Mi}\nzone: plant-1\nregion: eu\n\
         budgets: {interactive: {day: 500Mi}}\ndevices: {journal_dir: /mnt/ram, topics: {hall: ['zigbee2mqtt/#']}, http_listen: '10.0.0.1:8090'}\n\
         dmi: {socket: /run/dmi.sock, group: plant}\n\
         mqtt: {address: 'mqtts://broker', credentials: broker}\n",
    )
    .unwrap();
    assert_eq!(config.addresses.len(), 2);
    assert_eq!(config.runtime_endpoint.socket(), Path::new("/run/crio/crio.sock"));
    assert_eq!(config.cgroup_root, "/machine-e1");
    assert_eq!(config.cgroup_driver, CgroupDriver::Systemd);
    assert_eq!(config.cluster_dns, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
    assert_eq!(config.resolv_conf.as_deref(), Some(Path::new("/etc/pods.conf")));
    assert_eq!(config.labels["line"], "7");
    assert!(config.taints.is_empty());
    assert_eq!(
        config.eviction.hard.get(Signal::Memory),
        Threshold::Amount(64 << 20)
    );
    assert_eq!(config.budgets[0].day, Some(500 << 20));
    assert_eq!(config.devices.journal_dir, Path::new("/mnt/ram"));
    assert_eq!(config.dmi.socket, Path::new("/run/dmi.sock"));
    assert_eq!(config.mqtt.address.to_string(), "mqtts://broker:8883");
    assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
    assert_eq!(
        (config.max_pods, config.zone.as_str(), config.region.as_str()),
        (30, "plant-1", "eu")
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one_and_its_line() {
    let told = mistakes(&format!("{SMALL}adresses: [x]\n"));
    assert_eq!(
        told,
        "  line 3: adresses is not a known key; did you mean addresses?"
    );
    let told = mistakes(&format!("{SMALL}colour: blue\n"));
    assert!(
        told.contains("colour is not a known key; the keys are node_name, addresses"),
        "{told}"
    );
}

#[test]
fn an_unknown_key_at_any_level_is_named_by_its_path_and_its_line() {
    let told = mistakes(&format!(
        "{SMALL}mqtt:\n  # where it is\n  adress: broker\n  credentials: a/b\ndmi: {{sokket: /x}}\n\
         devices:\n  topics: {{hall: 'a/#'}}\n  http_lisen: ''\n\
         budgets:\n  bulk:\n    secnd: 1Ki\n  interactiv: {{day: 1Mi}}\n  control: {{day: 1Mi}}\n"
    ));
    let lines: Vec<_> = told.lines().map(str::trim_start).collect();
    assert_eq!(
        lines,
        [
            "line 5: mqtt.adress is not a known key; did you mean address?",
            "line 6: mqtt.credentials: \"a/b\" must be an absolute path, or the name of a file in \
             /etc/tombolo/device-credentials",
            "line 7: dmi.sokket is not a known key; did you mean socket?",
            "line 10: devices.http_lisen is not a known key; did you mean http_listen?",
            "line 13: budgets.bulk.secnd is not a known key; did you mean second?",
            "line 14: budgets.interactiv is not a known key; did you mean interactive?",
            "line 15: budgets.control: cannot have a budget; interactive, messages_normal and bulk can",
        ]
    );
    for key in ["mqtt", "dmi", "devices", "budgets"] {
        let told = mistakes(&format!("{SMALL}{key}: 7\n"));
        assert_eq!(
            told,
            format!("  line 3: {key}: must be a mapping of keys to values")
        );
    }
}

#[test]
fn a_password_file_that_nothing_would_read_is_a_mistake() {
    let told = |proxy: &str| {
        let text = format!("{SMALL}{proxy}proxy_password_file: /etc/tombolo/proxy-password\n");
        Config::parse(&text).map_err(|mistakes| mistakes.to_string())
    };
    for (proxy, why) in [
        (
            "",
            "line 3: proxy_password_file: there is no proxy: add proxy: http://user@host:port, or remove",
        ),
        ("proxy:\n", "line 4: proxy_password_file: there is no proxy: add"),
        (
            "proxy: http://proxy:3128\n",
            "proxy_password_file: the proxy is asked as nobody: write proxy: http://user@",
        ),
    ] {
        let told = told(proxy).unwrap_err();
        assert!(told.contains(why), "{told}");
    }
    let config = told("proxy: http://user@proxy:3128\n").unwrap();
    let file = Some(PathBuf::from("/etc/tombolo/proxy-password"));
    assert_eq!(config.proxy.unwrap().password_file, file);
    let one = told("proxy: https://proxy\n").unwrap_err();
    assert_eq!(one.lines().count(), 1, "{one}");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let told = mistakes(
        "node_name: Pump_7\naddresses: ['cloud:0', 'ok', 'https://x']\nmax_pods: many\n\
         cluster_dns: [dns]\npod_cidr: 10.86.0.1/16\nlabels: {node-role.kubernetes.io/x: y, line: 7}\n\
         taints: [edge]\nzonne: a\n",
    );
    for (index, part) in [
        "line 1: node_name: ",
        "line 2: addresses: \"cloud:0\"",
        "line 2: addresses: \"https://x\"",
        "line 3: max_pods: must be a number from 1 to 1000",
        "line 4: cluster_dns: \"dns\" is not an IP address",
        "line 5: pod_cidr: ",
        "line 6: labels: ",
        "line 6: labels: ",
        "line 7: taints: ",
        "line 8: zonne is not a known key; did you mean zone?",
    ]
    .iter()
    .enumerate()
    {
        let line = told.lines().nth(index).unwrap_or_default();
        assert!(
            line.trim_start().starts_with(part),
            "{part} not in line {index} of\n{told}"
        );
    }
}

#[test]
fn what_must_be_there_is_named_when_it_is_missing() {
    let told = mistakes("");
    assert!(
        told.contains("node_name is missing") && told.contains("addresses is missing"),
        "{told}"
    );
    assert!(mistakes("node_name: a\naddresses: []\n").contains("at least one address"));
}

#[test]
fn text_that_is_no_mapping_or_no_yaml_is_refused() {
    assert!(mistakes("- a\n- b\n").contains("must be a mapping"));
    assert!(!mistakes("a: [b\n").is_empty());
    assert!(!mistakes(&format!("{SMALL}zone: a\nzone: b\n")).is_empty());
}

#[test]
fn a_written_configuration_reads_back_equal() {
    let mut config = Config::parse(SMALL).unwrap();
    assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
    config.labels.insert("line".to_owned(), "7".to_owned());
    config.taints.clear();
    config.cluster_dns.push("10.96.0.10".parse().unwrap());
    config.cgroup_root = "/machine-e1".to_owned();
    config.cgroup_driver = CgroupDriver::Systemd;
    config.zone = "true".to_owned();
    config.eviction.hard.set(Signal::Disk, Threshold::Percent(7));
    config.eviction.hard.set(Signal::Inodes, Threshold::Off);
    config.eviction.pod_grace_seconds = 45;
    assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
    let soft = Soft {
        threshold: Threshold::Amount(200 << 20),
        grace: Duration::from_secs(90),
    };
    config.eviction.soft.set(Signal::Memory, Some(soft));
    config
        .eviction
        .reclaim
        .set(Signal::Disk, Threshold::Amount(500 << 20));
    config.eviction.transition = Duration::from_mins(1);
    let mut proxy: Proxy = "http://user:p%40ss@proxy:3128".parse().unwrap();
    proxy.password_file = Some("/etc/tombolo/proxy-password".into());
    config.proxy = Some(proxy);
    assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
}

#[test]
fn a_device_that_has_not_joined_is_told_how_to() {
    let told = Config::load(Path::new("/nowhere/edgecore.yaml"))
        .unwrap_err()
        .to_string();
    assert!(told.contains("edgecore join ADDRESS --token-file FILE"), "{told}");
}
