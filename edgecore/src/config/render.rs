//! The configuration as a file that a person reads and edits.
//!
//! Only what differs from the defaults is written; the rest stands there as comments, so that
//! a later default reaches a device that never chose otherwise.

use std::fmt::{Display, Write as _};

use super::{Config, DmiConfig, Taint, eviction, written};

const HEADER: &str = "\
# Tombolo: the configuration of this edge node. Restart edgecore after a change
# (systemctl restart edgecore). Unknown keys are refused.
";

/// The text of edgecore.yaml.
pub(super) fn yaml(config: &Config) -> String {
    let default = Config::new(config.node_name.clone(), config.addresses.clone());
    let mut out = String::from(HEADER);
    line(&mut out, "node_name", &quoted(&config.node_name), true);
    list(&mut out, "addresses", &config.addresses, true);
    proxy(&mut out, config);
    scalars(&mut out, config, &default);
    resolv_conf(&mut out, config);
    list(
        &mut out,
        "cluster_dns",
        &config.cluster_dns,
        config.cluster_dns != default.cluster_dns,
    );
    labels(&mut out, config);
    list::<Taint>(
        &mut out,
        "taints",
        &config.taints,
        config.taints != default.taints,
    );
    budgets(&mut out, config);
    devices(&mut out, config, &default);
    dmi(&mut out, config, &default);
    mqtt(&mut out, config, &default);
    out
}

fn proxy(out: &mut String, config: &Config) {
    let Some(proxy) = &config.proxy else {
        return line(
            out,
            "proxy",
            "none, for example http://user:password@host:port",
            false,
        );
    };
    line(out, "proxy", &quoted(&proxy.expose()), true);
    if let Some(path) = &proxy.password_file {
        line(out, "proxy_password_file", &quoted(&path.display()), true);
    }
}

fn scalars(out: &mut String, config: &Config, default: &Config) {
    let endpoint = quoted(&config.runtime_endpoint);
    line(
        out,
        "runtime_endpoint",
        &endpoint,
        config.runtime_endpoint != default.runtime_endpoint,
    );
    line(
        out,
        "cgroup_root",
        &quoted(&config.cgroup_root),
        config.cgroup_root != default.cgroup_root,
    );
    line(
        out,
        "cgroup_driver",
        config.cgroup_driver.as_str(),
        config.cgroup_driver != default.cgroup_driver,
    );
    let domain = quoted(&config.cluster_domain);
    line(
        out,
        "cluster_domain",
        &domain,
        config.cluster_domain != default.cluster_domain,
    );
    line(
        out,
        "pod_cidr",
        &quoted(&config.pod_cidr),
        config.pod_cidr != default.pod_cidr,
    );
    line(
        out,
        "max_pods",
        &config.max_pods.to_string(),
        config.max_pods != default.max_pods,
    );
    line(
        out,
        "image_gc_high_percent",
        &config.image_gc_high_percent.to_string(),
        config.image_gc_high_percent != default.image_gc_high_percent,
    );
    let chosen = config.eviction != default.eviction;
    line(
        out,
        "eviction",
        &eviction::written(&config.eviction, chosen),
        chosen,
    );
    line(out, "zone", &quoted(&config.zone), config.zone != default.zone);
    line(
        out,
        "region",
        &quoted(&config.region),
        config.region != default.region,
    );
}

fn resolv_conf(out: &mut String, config: &Config) {
    match &config.resolv_conf {
        Some(path) => line(out, "resolv_conf", &quoted(&path.display()), true),
        None => line(
            out,
            "resolv_conf",
            "the device's, for example /etc/resolv.conf",
            false,
        ),
    }
}

fn labels(out: &mut String, config: &Config) {
    if config.labels.is_empty() {
        return line(out, "labels", "{}", false);
    }
    out.push_str("labels:\n");
    for (key, value) in &config.labels {
        let _ = writeln!(out, "  {}: {}", quoted(key), quoted(value));
    }
}

fn budgets(out: &mut String, config: &Config) {
    if config.budgets.is_empty() {
        let example = "none, for example {interactive: {day: 500Mi, second: 64Ki}}";
        return line(out, "budgets", example, false);
    }
    out.push_str("budgets:\n");
    for budget in &config.budgets {
        let limits = [("day", budget.day), ("second", budget.second)];
        let limits: Vec<_> = limits
            .into_iter()
            .filter_map(|(key, bytes)| Some(format!("{key}: {}", written(bytes?))))
            .collect();
        let _ = writeln!(out, "  {}: {{{}}}", budget.class.name(), limits.join(", "));
    }
}

fn devices(out: &mut String, config: &Config, default: &Config) {
    let mut keys = vec![format!(
        "journal_dir: {}",
        quoted(&config.devices.journal_dir.display())
    )];
    let filters = |filters: &[String]| filters.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let given: Vec<String> = config
        .devices
        .topics
        .iter()
        .map(|(namespace, of_it)| format!("{}: [{}]", quoted(namespace), filters(of_it)))
        .collect();
    if !given.is_empty() {
        keys.push(format!("topics: {{{}}}", given.join(", ")));
    }
    if let Some(listen) = config.devices.http_listen {
        keys.push(format!("http_listen: {}", quoted(&listen)));
    }
    line(
        out,
        "devices",
        &format!("{{{}}}", keys.join(", ")),
        config.devices != default.devices,
    );
}

fn dmi(out: &mut String, config: &Config, default: &Config) {
    let DmiConfig { socket, group } = &config.dmi;
    let value = format!(
        "{{socket: {}, group: {}}}",
        quoted(&socket.display()),
        quoted(group)
    );
    line(out, "dmi", &value, config.dmi != default.dmi);
}

fn mqtt(out: &mut String, config: &Config, default: &Config) {
    let mqtt = &config.mqtt;
    let mut keys = vec![format!("address: {}", quoted(&mqtt.address))];
    if let Some(path) = &mqtt.credentials {
        keys.push(format!("credentials: {}", quoted(&path.display())));
    }
    if let Some(client_id) = &mqtt.client_id {
        keys.push(format!("client_id: {}", quoted(client_id)));
    }
    let value = format!("{{{}}}", keys.join(", "));
    line(out, "mqtt", &value, *mqtt != default.mqtt);
}

fn list<T: Display>(out: &mut String, key: &str, items: &[T], chosen: bool) {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    line(out, key, &format!("[{}]", items.join(", ")), chosen);
}

fn line(out: &mut String, key: &str, value: &str, chosen: bool) {
    let mark = if chosen { "" } else { "# " };
    let _ = writeln!(out, "{mark}{key}: {value}");
}

/// A double-quoted YAML scalar; JSON strings are a subset of those.
fn quoted(value: &impl Display) -> String {
    serde_json::Value::String(value.to_string()).to_string()
}
