//! The device's own resolver configuration: what pods resolve names with where the cluster has no DNS for them.
//!
//! With systemd-resolved `/etc/resolv.conf` names a server that only the device itself reaches, and the real ones
//! stand in another file. The kubelet is told of that one by whoever installs it; here it is found.
//!
//! A device whose power comes back before its router starts its pods before it has a name server, and a runtime writes the
//! resolver file of a pod once, when it makes the pod's sandbox. So the last servers are kept (`last`), and such pods
//! ask them: at a site they are the same as before as a rule. To wait for the network would hold up every device that is
//! started offline, and to mount a file of ours into each container, which could follow the device's, would be
//! seen by whoever looks at its mounts, and differ from what a kubelet does.
//!
//! **Invariant:** a file that the operator has named is the one that is read, whatever is in it.

mod last;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_cri::v1::DnsConfig;

use super::dns::set_option;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The servers that systemd-resolved asks itself.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Where the device's resolver configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    file: PathBuf,
    /// Read in its place where that one names only servers on the device itself.
    behind: Option<PathBuf>,
    /// What it was when there last were servers.
    last: Option<PathBuf>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// From there.
    pub file: PathBuf,
    /// What is in it.
    pub config: DnsConfig,
    /// Whether there are no servers now, and these are those that there were last.
    pub is_last: bool,
}

impl Resolver {
    /// The file that the operator has `chosen`, or the device's, which are `at` their places.
    pub fn new(chosen: Option<&Path>, at: impl Fn(&str) -> PathBuf) -> Self {
        let automatic = || (at(RESOLV_CONF), Some(at(BEHIND_RESOLVED)));
        let (file, behind) = chosen.map_or_else(automatic, |file| (file.to_owned(), None));
        let last = None;
        Self { file, behind, last }
    }

    /// Keeps the last servers in `file`, unless the operator has chosen where they are read.
    #[must_use]
    pub fn keeping(self, file: PathBuf) -> Self {
        let last = self.behind.is_some().then_some(file);
        Self { last, ..self }
    }

    /// Reads it. A file that is not there counts as an empty one; a comment that is not UTF-8 costs nothing else of
    /// the file.
    pub fn read(&self) -> Read {
        self.read_for(false)
    }

    /// As [`Self::read`], for a pod that may be on the host's network. There the device's stub answers, and follows when the
    /// device changes networks.
    pub fn read_for(&self, on_host: bool) -> Read {
        let now = self.read_now(on_host);
        let Some(last) = &self.last else {
            return now;
        };
        if now.config.servers.is_empty() {
            return last::recall(last).unwrap_or(now);
        }
        if !is_here_only(&now.config.servers) {
            last::keep(last, &now.config);
        }
        now
    }

    fn read_now(&self, on_host: bool) -> Read {
        let read = |file: &Path| {
            let text = std::fs::read(file).ok()?;
            Some(Read {
                file: file.to_owned(),
                config: parse(&String::from_utf8_lossy(&text)),
                is_last: false,
            })
        };
        let first = read(&self.file);
        let here_only = first
            .as_ref()
            .is_some_and(|first| is_here_only(&first.config.servers));
        let behind = self
            .behind
            .as_deref()
            .filter(|_| here_only && !on_host)
            .and_then(read);
        behind.or(first).unwrap_or_else(|| Read {
            file: self.file.clone(),
            ..Read::default()
        })
    }
}

/// Whether there are servers, and nobody but the device itself reaches one of them.
pub fn is_here_only(servers: &[String]) -> bool {
    let is_loopback = |server: &String| server.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    !servers.is_empty() && servers.iter().all(is_loopback)
}

/// Reads a resolver file: servers add up, the last search line counts, an option counts once.
pub(super) fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let domains = words
                    .filter(|word| *word != ".")
                    .map(|word| word.trim_end_matches('.').to_owned());
                config.searches = domains.collect();
            }
            Some("options") => words.for_each(|option| set_option(&mut config.options, option)),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::super::volumes::testing::Scratch;
    use super::*;

    /// The resolver of a device with these files, which last as long as what is returned beside it.
    fn device(files: &[(&str, &str)], chosen: Option<&str>) -> (Resolver, Scratch) {
        let scratch = Scratch::new("resolver");
        let at = |path: &str| scratch.path().join(path.trim_start_matches('/'));
        for (path, text) in files {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), text).unwrap();
        }
        let chosen = chosen.map(at);
        (Resolver::new(chosen.as_deref(), at), scratch)
    }

    /// What is read of it.
    fn servers(files: &[(&str, &str)], chosen: Option<&str>) -> Vec<String> {
        let (resolver, _files) = device(files, chosen);
        resolver.read().config.servers
    }

    const STUB: (&str, &str) = (RESOLV_CONF, "nameserver 127.0.0.53\nsearch lan\n");
    const REAL: (&str, &str) = (BEHIND_RESOLVED, "nameserver 192.168.1.1\n");

    #[test]
    fn behind_a_stub_that_only_the_device_reaches_stand_the_servers_that_pods_reach() {
        assert_eq!(servers(&[STUB, REAL], None), ["192.168.1.1"]);
        let both = (RESOLV_CONF, "nameserver ::1\nnameserver 127.0.0.1\n");
        assert_eq!(servers(&[both, REAL], None), ["192.168.1.1"]);
    }

    #[test]
    fn on_the_hosts_network_the_devices_stub_answers() {
        let (resolver, _files) = device(&[STUB, REAL], None);
        assert_eq!(resolver.read_for(true).config.servers, ["127.0.0.53"]);
        assert_eq!(resolver.read_for(false).config.servers, ["192.168.1.1"]);
    }

    #[test]
    fn a_server_that_pods_reach_or_the_lack_of_another_file_leaves_it_at_the_devices() {
        let other = (RESOLV_CONF, "nameserver 127.0.0.1\nnameserver 10.0.0.1\n");
        assert_eq!(servers(&[other, REAL], None), ["127.0.0.1", "10.0.0.1"]);
        assert_eq!(servers(&[STUB], None), ["127.0.0.53"]);
        assert_eq!(servers(&[(RESOLV_CONF, "search lan\n"), REAL], None), [""; 0]);
        assert_eq!(servers(&[REAL], None), [""; 0]);
    }

    #[test]
    fn the_file_that_the_operator_names_is_read_whatever_is_in_it() {
        let own = ("/etc/pods.conf", "nameserver 127.0.0.1\n");
        assert_eq!(servers(&[STUB, REAL, own], Some(own.0)), ["127.0.0.1"]);
        assert_eq!(servers(&[STUB, REAL], Some("/etc/pods.conf")), [""; 0]);
    }

    #[test]
    fn before_its_network_is_up_a_device_asks_the_servers_that_it_knew_last() {
        let (resolver, files) = device(&[STUB, REAL], None);
        let resolver = resolver.keeping(files.path().join("last"));
        let behind = files.path().join(BEHIND_RESOLVED.trim_start_matches('/'));
        let read = |text: &str| {
            std::fs::write(&behind, text).unwrap();
            let read = resolver.read();
            (read.config.servers, read.config.searches, read.is_last)
        };
        let no_servers = "# No DNS servers known.\n";
        assert_eq!(read(no_servers), (vec![], vec![], false), "none was ever known");
        let known = (vec!["10.0.0.1".to_owned()], vec!["site".to_owned()]);
        let text = "nameserver 10.0.0.1\nsearch site\noptions rotate\n";
        assert_eq!(read(text), (known.0.clone(), known.1.clone(), false));
        assert_eq!(read(no_servers), (known.0, known.1, true));
        assert_eq!(resolver.read().config, parse(text));
        assert_eq!(
            read("nameserver 10.0.0.2\n"),
            (vec!["10.0.0.2".to_owned()], vec![], false)
        );
        assert_eq!(read(no_servers).0, ["10.0.0.2"]);
        // A pod on the host's network asks the stub, which follows the device.
        assert_eq!(resolver.read_for(true).config.servers, ["127.0.0.53"]);
        assert_eq!(read(no_servers).0, ["10.0.0.2"], "a stub is not kept");
    }

    #[test]
    fn of_a_file_that_the_operator_names_no_servers_are_kept() {
        let own = ("/etc/pods.conf", "nameserver 10.0.0.1\n");
        let (resolver, files) = device(&[own], Some(own.0));
        let resolver = resolver.keeping(files.path().join("last"));
        assert_eq!(resolver.read().config.servers, ["10.0.0.1"]);
        std::fs::write(files.path().join("etc/pods.conf"), "").unwrap();
        assert_eq!(resolver.read().config.servers, [""; 0]);
    }

    #[test]
    fn the_devices_file_is_read_as_the_resolver_reads_it() {
        let config = parse(
            "# c\nnameserver 9.9.9.9\nsearch old\nsearch home. lan .\noptions ndots:1 rotate\noptions ndots:2\n",
        );
        assert_eq!(config.servers, ["9.9.9.9"]);
        assert_eq!(config.searches, ["home", "lan"]);
        assert_eq!(config.options, ["rotate", "ndots:2"]);
    }

    #[test]
    fn a_comment_in_another_encoding_costs_nothing_else_of_the_file() {
        let scratch = Scratch::new("resolver-comment");
        let file = scratch.path().join("resolv.conf");
        std::fs::write(&file, b"# M\xfcller\nnameserver 9.9.9.9\n").unwrap();
        let resolver = Resolver::new(Some(&file), |path| path.into());
        assert_eq!(resolver.read().config.servers, ["9.9.9.9"]);
    }
}
