//! What a second join was asked for and does not do: `edgecore.yaml` is the operator's by then. Pure.

use std::path::Path;

use super::JoinArgs;
use crate::config::{Config, Proxy};

/// The arguments that differ from what the device has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ignored {
    /// As they were written, and their keys in the configuration.
    settings: Vec<(&'static str, &'static str)>,
    /// Another pod range: no edit changes that.
    range: bool,
}

impl Ignored {
    /// An address that the device has too is no other one: those who join again name one of several.
    pub(super) fn of(args: &JoinArgs, proxy: Option<&Proxy>, held: &Config) -> Self {
        let has_label = |label: &String| {
            label
                .split_once('=')
                .is_some_and(|(key, value)| held.labels.get(key).is_some_and(|held| held == value))
        };
        let has_address = |address| held.addresses.contains(address);
        let differs = [
            ("ADDRESS", "addresses", !args.addresses.iter().all(has_address)),
            (
                "--proxy",
                "proxy",
                proxy.is_some() && proxy != held.proxy.as_ref(),
            ),
            ("--labels", "labels", !args.labels.iter().all(has_label)),
            (
                "--runtime-endpoint",
                "runtime_endpoint",
                is_other(args.runtime_endpoint.as_ref(), &held.runtime_endpoint),
            ),
            (
                "--cgroup-root",
                "cgroup_root",
                is_other(args.cgroup_root.as_ref(), &held.cgroup_root),
            ),
            (
                "--cluster-dns",
                "cluster_dns",
                !args.cluster_dns.is_empty() && args.cluster_dns != held.cluster_dns,
            ),
        ];
        let settings = differs.into_iter().filter(|(.., differs)| *differs);
        Self {
            settings: settings.map(|(flag, key, _)| (flag, key)).collect(),
            range: is_other(args.pod_cidr.as_ref(), &held.pod_cidr),
        }
    }

    /// What the operator is told, and how to have it nevertheless. Values are left out: a proxy's may be a secret.
    pub(super) fn told(&self, file: &Path) -> Vec<String> {
        let (flags, keys): (Vec<_>, Vec<_>) = self.settings.iter().copied().unzip();
        let settings = (!flags.is_empty()).then(|| {
            format!(
                "{file} keeps what it has, and {} of this command did not come into it; to change that, edit {} there \
                 and restart edgecore: pods are not touched",
                flags.join(", "),
                keys.join(", "),
                file = file.display(),
            )
        });
        let range = self.range.then(|| {
            "the pod range stays what it is, whatever --pod-cidr says; to change it: edgecore reset, and join"
                .to_owned()
        });
        settings.into_iter().chain(range).collect()
    }
}

fn is_other<T: PartialEq>(asked: Option<&T>, held: &T) -> bool {
    asked.is_some_and(|asked| asked != held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Config {
        let addresses = ["a.example", "b.example:30100"].map(|address| address.parse().unwrap());
        let mut held = Config::new("pump-7".parse().unwrap(), addresses.to_vec());
        held.labels.insert("site".to_owned(), "north".to_owned());
        held
    }

    fn told(change: impl FnOnce(&mut JoinArgs)) -> Vec<String> {
        let mut args = JoinArgs {
            addresses: vec!["b.example:30100".parse().unwrap()],
            ..JoinArgs::default()
        };
        change(&mut args);
        let proxy: Option<Proxy> = args.proxy.as_ref().map(|proxy| proxy.parse().unwrap());
        let ignored = Ignored::of(&args, proxy.as_ref(), &held());
        ignored.told(Path::new("/etc/tombolo/edgecore.yaml"))
    }

    #[test]
    fn whoever_asks_for_what_the_device_has_is_told_nothing() {
        assert_eq!(told(|_| {}), [""; 0]);
        let same = told(|args| {
            args.labels = vec!["site=north".to_owned()];
            args.pod_cidr = Some(held().pod_cidr);
            args.runtime_endpoint = Some(held().runtime_endpoint);
            args.cgroup_root = Some(held().cgroup_root);
        });
        assert_eq!(same, [""; 0]);
    }

    #[test]
    fn each_argument_that_is_not_taken_over_is_named_with_its_key() {
        type Change = fn(&mut JoinArgs);
        let asked: [(Change, &str, &str); 6] = [
            (
                |args| args.addresses.push("c.example".parse().unwrap()),
                "ADDRESS",
                "addresses",
            ),
            (
                |args| args.proxy = Some("http://u:secret@p".to_owned()),
                "--proxy",
                "proxy",
            ),
            (
                |args| args.labels = vec!["site=south".to_owned()],
                "--labels",
                "labels",
            ),
            (
                |args| args.runtime_endpoint = Some(crate::config::RuntimeEndpoint::parse("/run/x").unwrap()),
                "--runtime-endpoint",
                "runtime_endpoint",
            ),
            (
                |args| args.cgroup_root = Some("/edge".to_owned()),
                "--cgroup-root",
                "cgroup_root",
            ),
            (
                |args| args.cluster_dns = vec!["10.96.0.10".parse().unwrap()],
                "--cluster-dns",
                "cluster_dns",
            ),
        ];
        for (change, flag, key) in asked {
            let told = told(change);
            let [line] = &told[..] else { panic!("{told:?}") };
            assert!(line.starts_with("/etc/tombolo/edgecore.yaml keeps"), "{line}");
            assert!(line.contains(&format!("and {flag} of this command")), "{line}");
            assert!(line.contains(&format!("edit {key} there")), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn another_pod_range_needs_more_than_an_edit() {
        let told = told(|args| args.pod_cidr = Some("10.99.0.0/24".parse().unwrap()));
        let [line] = &told[..] else { panic!("{told:?}") };
        assert!(
            line.contains("--pod-cidr") && line.contains("edgecore reset"),
            "{line}"
        );
    }
}
