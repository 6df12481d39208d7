//! dnsPolicy and dnsConfig: which resolver configuration a pod gets.
//!
//! [`pod_dns`] reads the device's resolver file; the rest is pure. **Invariant:** the result keeps glibc's
//! limits (3 servers, 32 domains, 2048 characters), and what was left out is told in a warning.

use std::collections::BTreeSet;

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use super::spec::{self, NodeFacts};

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_DOMAIN: usize = 253;
/// The runtime writes a sandbox's resolver file once, when it makes the sandbox.
const NO_SERVERS: &str = "The device knows no name server now, as before its network is up. The pod resolves no names, \
    not even later: delete it once the device has one, or name servers of its own in dnsConfig.";

/// What a pod resolves names with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodDns {
    /// For the sandbox.
    pub config: DnsConfig,
    /// What to say in events of type Warning: (reason, message).
    pub warnings: Vec<(&'static str, String)>,
}

/// The pod's resolver configuration.
pub fn pod_dns(facts: &NodeFacts, pod: &Pod) -> PodDns {
    let read = facts.resolver.read_for(spec::host_network(pod));
    let last = read.is_last.then(|| read.config.servers.join(", "));
    let mut dns = decide(facts, pod, read.config);
    if let Some(servers) = last.filter(|_| asks_device(facts, pod)) {
        dns.warnings.push(("LastNameServers", last_servers(&servers)));
    }
    dns
}

/// Whether the device's own servers are among those that the pod asks.
fn asks_device(facts: &NodeFacts, pod: &Pod) -> bool {
    match source(pod) {
        Source::Nobody => false,
        Source::Device => true,
        Source::Cluster => facts.cluster_dns.is_empty(),
    }
}

fn last_servers(servers: &str) -> String {
    format!(
        "The device knows no name server now, as before its network is up. The pod asks those that it knew last ({servers}): \
         delete it if the device comes to have others."
    )
}

fn decide(facts: &NodeFacts, pod: &Pod, device: DnsConfig) -> PodDns {
    let mut dns = PodDns {
        config: device,
        warnings: Vec::new(),
    };
    match source(pod) {
        Source::Nobody => dns.config = DnsConfig::default(),
        Source::Device => {}
        Source::Cluster if facts.cluster_dns.is_empty() => {
            dns.warnings.push(("MissingClusterDNS", missing_cluster_dns(pod)));
        }
        Source::Cluster => {
            dns.config.servers = facts.cluster_dns.iter().map(ToString::to_string).collect();
            dns.config.searches = cluster_searches(&facts.cluster_domain, pod, &dns.config.searches);
            dns.config.options = vec!["ndots:5".to_owned()];
        }
    }
    if let Some(own) = spec::spec(pod).and_then(|spec| spec.dns_config.as_ref()) {
        add_own(&mut dns.config, own);
    }
    if dns.config.servers.is_empty() && !matches!(source(pod), Source::Nobody) {
        dns.warnings.push(("NoNameServers", NO_SERVERS.to_owned()));
    }
    keep_limits(&mut dns);
    dns
}

/// Whom a pod asks before its own configuration is added.
enum Source {
    Nobody,
    Device,
    Cluster,
}

fn source(pod: &Pod) -> Source {
    match spec::spec(pod).and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => Source::Nobody,
        Some("Default") => Source::Device,
        Some("ClusterFirstWithHostNet") => Source::Cluster,
        _ if spec::host_network(pod) => Source::Device,
        _ => Source::Cluster,
    }
}

/// The pod's servers and domains follow, each once; its options replace those of the same name.
fn add_own(config: &mut DnsConfig, own: &PodDNSConfig) {
    let append = |to: &mut Vec<String>, more: &Option<Vec<String>>| {
        to.extend(more.iter().flatten().cloned());
        let mut seen = BTreeSet::new();
        to.retain(|entry| seen.insert(entry.clone()));
    };
    append(&mut config.servers, &own.nameservers);
    append(&mut config.searches, &own.searches);
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        match option.value.as_deref() {
            None | Some("") => set_option(&mut config.options, name),
            Some(value) => set_option(&mut config.options, &format!("{name}:{value}")),
        }
    }
}

fn missing_cluster_dns(pod: &Pod) -> String {
    let pod = format!("{}_{}({})", spec::name(pod), spec::namespace(pod), spec::uid(pod));
    format!(
        "pod: {pod:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using \
         \"ClusterFirst\" policy. Falling back to \"Default\" policy."
    )
}

fn cluster_searches(domain: &str, pod: &Pod, device: &[String]) -> Vec<String> {
    if domain.is_empty() {
        return device.to_vec();
    }
    let mut searches = vec![
        format!("{}.svc.{domain}", spec::namespace(pod)),
        format!("svc.{domain}"),
        domain.to_owned(),
    ];
    for search in device {
        if !searches.contains(search) {
            searches.push(search.clone());
        }
    }
    searches
}

fn keep_limits(dns: &mut PodDns) {
    let PodDns { config, warnings } = dns;
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        warnings.push((
            "DNSConfigForming",
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                config.servers.join(" ")
            ),
        ));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|domain| domain.len() <= MAX_DOMAIN);
    while config.searches.join(" ").len() > MAX_SEARCH_CHARS {
        config.searches.pop();
    }
    if config.searches.len() < before {
        warnings.push((
            "DNSConfigForming",
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                config.searches.join(" ")
            ),
        ));
    }
}

pub(super) fn set_option(options: &mut Vec<String>, option: &str) {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    options.retain(|old| name(old) != name(option));
    options.push(option.to_owned());
}

#[cfg(test)]
mod tests {
    use super::super::resolver::parse;
    use super::super::spec::testing::{facts, pod};
    use super::*;

    fn device() -> DnsConfig {
        parse(
            "# c\nnameserver 9.9.9.9\nsearch old\nsearch home. lan .\noptions ndots:1 rotate\noptions ndots:2\n",
        )
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_searches_its_domains() {
        let dns = decide(&facts(), &pod(r#"{"dnsPolicy":"ClusterFirst"}"#), device());
        assert_eq!(dns.config.servers, ["10.96.0.10"]);
        assert_eq!(
            dns.config.searches,
            [
                "ns.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "home",
                "lan"
            ]
        );
        assert_eq!(dns.config.options, ["ndots:5"]);
        assert_eq!(dns.warnings, []);
    }

    #[test]
    fn without_cluster_dns_the_device_answers_and_the_kubelets_event_says_so() {
        let mut facts = facts();
        facts.cluster_dns.clear();
        let dns = decide(&facts, &pod(r#"{"dnsPolicy":"ClusterFirst"}"#), device());
        assert_eq!(dns.config, device());
        let expected = "pod: \"web-0_ns(u-1)\". kubelet does not have ClusterDNS IP configured and cannot create Pod \
            using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
        assert_eq!(dns.warnings, [("MissingClusterDNS", expected.to_owned())]);
    }

    #[test]
    fn a_pod_that_starts_before_the_device_has_a_name_server_says_that_it_will_never_have_one() {
        let warned = |spec: &str, device: DnsConfig| {
            let dns = decide(&facts(), &pod(spec), device);
            dns.warnings.iter().any(|(reason, _)| *reason == "NoNameServers")
        };
        let default = r#"{"dnsPolicy":"Default"}"#;
        assert!(warned(default, DnsConfig::default()));
        assert!(warned(r#"{"hostNetwork":true}"#, DnsConfig::default()));
        assert!(!warned(default, device()));
        assert!(!warned(r#"{"dnsPolicy":"ClusterFirst"}"#, DnsConfig::default()));
        assert!(!warned(r#"{"dnsPolicy":"None"}"#, DnsConfig::default()));
        let own = r#"{"dnsPolicy":"Default","dnsConfig":{"nameservers":["1.1.1.1"]}}"#;
        assert!(!warned(own, DnsConfig::default()));
    }

    #[test]
    fn a_pod_that_asks_the_servers_that_the_device_knew_last_says_so() {
        let scratch = super::super::volumes::testing::Scratch::new("dns-last");
        let last = scratch.path().join("last");
        std::fs::write(&last, "nameserver 10.0.0.1\n").unwrap();
        let mut facts = facts();
        let nowhere = |path: &str| scratch.path().join(path.trim_start_matches('/'));
        facts.resolver = super::super::resolver::Resolver::new(None, nowhere).keeping(last);
        let reasons = |facts: &NodeFacts, spec: &str| {
            let dns = pod_dns(facts, &pod(spec));
            let reasons = dns.warnings.iter().map(|(reason, _)| *reason);
            (dns.config.servers.clone(), reasons.collect::<Vec<_>>())
        };
        let device = |reasons: &[&'static str]| (vec!["10.0.0.1".to_owned()], reasons.to_vec());
        let default = r#"{"dnsPolicy":"Default"}"#;
        assert_eq!(reasons(&facts, default), device(&["LastNameServers"]));
        assert_eq!(reasons(&facts, r#"{"dnsPolicy":"None"}"#).1, [""; 0]);
        assert_eq!(reasons(&facts, "{}").1, [""; 0], "the cluster's answer");
        facts.cluster_dns.clear();
        assert_eq!(
            reasons(&facts, "{}"),
            device(&["MissingClusterDNS", "LastNameServers"])
        );
    }

    #[test]
    fn pods_on_the_host_network_ask_the_device_unless_they_say_otherwise() {
        let dns = |spec: &str| decide(&facts(), &pod(spec), device()).config.servers;
        assert_eq!(
            dns(r#"{"dnsPolicy":"ClusterFirst","hostNetwork":true}"#),
            ["9.9.9.9"]
        );
        assert_eq!(
            dns(r#"{"dnsPolicy":"ClusterFirstWithHostNet","hostNetwork":true}"#),
            ["10.96.0.10"]
        );
        assert_eq!(dns(r#"{"dnsPolicy":"Default"}"#), ["9.9.9.9"]);
    }

    const OWN: &str = r#""dnsConfig":{"nameservers":["1.1.1.1","9.9.9.9"],"searches":["lan","example.org"],
        "options":[{"name":"ndots","value":"3"},{"name":"edns0"},{"name":"rotate","value":""}]}"#;

    #[test]
    fn a_pod_that_asks_nobody_has_what_it_brings_and_nothing_else() {
        let dns = decide(
            &facts(),
            &pod(&format!(r#"{{"dnsPolicy":"None",{OWN}}}"#)),
            device(),
        );
        assert_eq!(dns.config.servers, ["1.1.1.1", "9.9.9.9"]);
        assert_eq!(dns.config.searches, ["lan", "example.org"]);
        assert_eq!(dns.config.options, ["ndots:3", "edns0", "rotate"]);
        let nothing = decide(&facts(), &pod(r#"{"dnsPolicy":"None"}"#), device());
        assert_eq!(nothing.config, DnsConfig::default());
    }

    #[test]
    fn what_a_pod_brings_is_added_once_and_its_options_win() {
        let of_cluster = decide(&facts(), &pod(&format!("{{{OWN}}}")), device()).config;
        assert_eq!(of_cluster.servers, ["10.96.0.10", "1.1.1.1", "9.9.9.9"]);
        assert_eq!(of_cluster.searches[3..], ["home", "lan", "example.org"]);
        assert_eq!(of_cluster.options, ["ndots:3", "edns0", "rotate"]);
        let spec = format!(r#"{{"dnsPolicy":"Default",{OWN}}}"#);
        let of_device = decide(&facts(), &pod(&spec), device()).config;
        assert_eq!(of_device.servers, ["9.9.9.9", "1.1.1.1"]);
        assert_eq!(of_device.searches, ["home", "lan", "example.org"]);
    }

    #[test]
    fn what_a_pod_brings_counts_towards_the_limits() {
        let spec = r#"{"dnsConfig":{"nameservers":["1.1.1.1","1.1.1.2","1.1.1.3"]}}"#;
        let dns = decide(&facts(), &pod(spec), device());
        assert_eq!(dns.config.servers, ["10.96.0.10", "1.1.1.1", "1.1.1.2"]);
        let told = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
            10.96.0.10 1.1.1.1 1.1.1.2";
        assert_eq!(dns.warnings, [("DNSConfigForming", told.to_owned())]);
    }

    #[test]
    fn what_glibc_cannot_take_is_left_out_and_told() {
        let mut text = "nameserver 1.1.1.1\n".repeat(5);
        text.push_str("search");
        for n in 0..40 {
            text.push_str(" d");
            text.push_str(&n.to_string());
        }
        let dns = decide(&facts(), &pod(r#"{"dnsPolicy":"Default"}"#), parse(&text));
        assert_eq!((dns.config.servers.len(), dns.config.searches.len()), (3, 32));
        assert_eq!(dns.warnings.len(), 2);
    }
}
