//! `/etc/hosts` and the hostname of a pod, as the kubelet makes them.
//!
//! [`render`] and [`host_name`] are pure; [`write()`] puts the file under the pod's directory.
//!
//! **Invariant:** the file belongs to this module: a pod that wrote into it finds it whole again when its
//! next container starts.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use super::spec::{self, NodeFacts};
use super::volumes::file;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
const HOSTNAME_MAX: usize = 63;

/// A pod's host name and domain (empty when it has no subdomain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// At most 63 characters.
    pub name: String,
    /// `sub.ns.svc.cluster.local`, or empty.
    pub domain: String,
}

impl HostName {
    /// What the kernel is told.
    pub fn for_kernel(&self, pod: &Pod) -> String {
        let as_fqdn = spec::spec(pod).and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
        if as_fqdn && !self.domain.is_empty() {
            format!("{}.{}", self.name, self.domain)
        } else {
            self.name.clone()
        }
    }
}

/// The pod's host name: `spec.hostname`, else its own name, cut to what a host name may be.
pub fn host_name(pod: &Pod, cluster_domain: &str) -> HostName {
    let spec = spec::spec(pod);
    let wanted = spec
        .and_then(|spec| spec.hostname.as_deref())
        .filter(|name| !name.is_empty());
    let subdomain = spec
        .and_then(|spec| spec.subdomain.as_deref())
        .filter(|name| !name.is_empty());
    let namespace = spec::namespace(pod);
    let domain = subdomain
        .map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"))
        .unwrap_or_default();
    HostName {
        name: truncated(wanted.unwrap_or(spec::name(pod))),
        domain,
    }
}

/// What the hosts file says. `device` is the device's own file, for pods on the host network: it is copied as it is,
/// in whatever encoding somebody wrote a comment there.
pub fn render(pod: &Pod, pod_ips: &[String], cluster_domain: &str, device: &[u8]) -> Vec<u8> {
    let mut text = if spec::host_network(pod) {
        [HEADER_HOST_NETWORK.as_bytes(), device].concat()
    } else {
        let HostName { name, domain } = host_name(pod, cluster_domain);
        let full = if domain.is_empty() {
            String::new()
        } else {
            format!("{name}.{domain}\t")
        };
        let mut text = [HEADER, LOCAL].concat();
        for ip in pod_ips {
            let _ = writeln!(text, "{ip}\t{full}{name}");
        }
        text.into_bytes()
    };
    let named = spec::spec(pod).and_then(|spec| spec.host_aliases.as_deref());
    text.extend(aliases(named.unwrap_or_default()).into_bytes());
    text
}

/// Writes the pod's hosts file and says where it is.
pub fn write(facts: &NodeFacts, pod: &Pod, pod_ips: &[String]) -> io::Result<PathBuf> {
    let device = if spec::host_network(pod) {
        std::fs::read(&facts.hosts_file)?
    } else {
        Vec::new()
    };
    let text = render(pod, pod_ips, &facts.cluster_domain, &device);
    let path = facts.pod_dir(spec::uid(pod)).join("etc-hosts");
    file::overwrite(&path, &text, 0o644)?;
    Ok(path)
}

fn aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

fn truncated(name: &str) -> String {
    match name.get(..HOSTNAME_MAX) {
        Some(cut) if name.len() > HOSTNAME_MAX => cut.trim_end_matches(['-', '.']).to_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::testing::{facts, pod};
    use super::super::volumes::testing::Scratch;
    use super::*;

    fn text(pod: &Pod, device: &str) -> String {
        let ips = ["10.0.0.5".to_owned()];
        String::from_utf8(render(pod, &ips, "cluster.local", device.as_bytes())).unwrap()
    }

    #[test]
    fn a_managed_file_names_the_pod_and_its_aliases() {
        let pod = pod(
            r#"{"hostname":"db","subdomain":"sub","hostAliases":[{"ip":"1.2.3.4","hostnames":["a","b"]}]}"#,
        );
        let expected = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
            fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
            10.0.0.5\tdb.sub.ns.svc.cluster.local\tdb\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n";
        assert_eq!(text(&pod, ""), expected);
    }

    #[test]
    fn a_pod_on_the_host_network_sees_the_devices_file() {
        let pod = pod(r#"{"hostNetwork":true}"#);
        assert_eq!(
            text(&pod, "127.0.0.1 me\n"),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n"
        );
    }

    #[test]
    fn a_comment_in_another_encoding_costs_no_pod_its_hosts_file() {
        let pod = pod(r#"{"hostNetwork":true,"hostAliases":[{"ip":"1.2.3.4","hostnames":["a"]}]}"#);
        let scratch = Scratch::new("hosts");
        let facts = NodeFacts {
            root_dir: scratch.path().to_owned(),
            hosts_file: scratch.path().join("hosts"),
            ..facts()
        };
        let device = b"10.0.0.1 sps # M\xfcller\n";
        std::fs::write(&facts.hosts_file, device).unwrap();
        std::fs::create_dir_all(facts.pod_dir(spec::uid(&pod))).unwrap();
        let written = std::fs::read(write(&facts, &pod, &[]).unwrap()).unwrap();
        let aliases = b"\n# Entries added by HostAliases.\n1.2.3.4\ta\n";
        assert_eq!(
            written,
            [HEADER_HOST_NETWORK.as_bytes(), device, aliases].concat()
        );
    }

    #[test]
    fn host_names_are_cut_to_what_the_kernel_takes() {
        let mut long = pod("{}");
        long.metadata.name = Some(format!("{}-.x{}", "a".repeat(61), "b".repeat(20)));
        assert_eq!(host_name(&long, "cluster.local").name, "a".repeat(61));
        assert_eq!(
            host_name(&pod("{}"), "cluster.local"),
            HostName {
                name: "web-0".to_owned(),
                domain: String::new()
            }
        );
        let fqdn = pod(r#"{"subdomain":"s","setHostnameAsFQDN":true}"#);
        assert_eq!(
            host_name(&fqdn, "cluster.local").for_kernel(&fqdn),
            "web-0.s.ns.svc.cluster.local"
        );
    }
}
