//! The default pod network: a bridge, by [`super::plugin`], which is this program; published ports by portmap.
//!
//! Written as `90-tombolo.conflist` where the runtime looks, and only when nothing else is
//! there: a network that someone chose is better than ours. Where the runtime does not say where it has its plugins, or
//! none can be put there, the network is that of the CNI project's plugins, bridge and host-local, as it is on devices
//! that joined before there was a plugin of ours. Masquerading is not left to them either: [`super::nat`] says why.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plugin;
use super::pod_cidr::{InvalidPodCidr, PodCidr};

/// The name of our file. 90: any other configuration sorts before it and wins.
pub const FILE: &str = "90-tombolo.conflist";
/// The bridge that pods hang on.
pub const BRIDGE: &str = "tombolo0";
/// The plugin that the runtime runs for every pod, whatever the network.
const LOOPBACK: &str = "loopback";
/// Where containerd and CRI-O look unless told otherwise.
pub const DEFAULT_CONF_DIR: &str = "/etc/cni/net.d";

/// What stands in the runtime's configuration directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: ours is to be written.
    Nothing,
    /// Ours, and the runtime takes it.
    Ours,
    /// Ours, perhaps put aside, and someone else's that the runtime takes in its place.
    Before(PathBuf),
    /// Someone else's alone; the first, which the runtime takes.
    Foreign(PathBuf),
}

/// Who connects pods to the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugins {
    /// This program, which hands out addresses in a directory.
    Own {
        /// On a file system that a boot empties.
        addresses: PathBuf,
    },
    /// The CNI project's plugins.
    Common {
        /// Whether bridge masquerades too: it has other means where the agent finds no iptables, and says so where it
        /// has none.
        masquerade: bool,
    },
}

/// The text of the network configuration.
pub fn render(range: PodCidr, plugins: &Plugins) -> String {
    let ports = json!({"portMappings": true});
    let plugins = match plugins {
        Plugins::Own { addresses } => json!([{
            "type": plugin::NAME,
            "bridge": BRIDGE,
            "range": range.to_string(),
            "addresses": addresses,
            "capabilities": ports,
        }]),
        Plugins::Common { masquerade } => {
            json!([bridge(range, *masquerade), {"type": "portmap", "capabilities": ports}])
        }
    };
    // 1.0.0 is known to every plugin since 2021 (Debian 12 has 1.1.1 of them).
    let list = json!({"cniVersion": "1.0.0", "name": "tombolo", "plugins": plugins});
    format!("{list:#}\n")
}

/// Whose plugins a configuration of ours names.
pub fn plugins_of(text: &str) -> Option<Plugins> {
    let list: Value = serde_json::from_str(text).ok()?;
    let first = &list["plugins"][0];
    match first["type"].as_str()? {
        plugin::NAME => Some(Plugins::Own {
            addresses: first["addresses"].as_str()?.into(),
        }),
        "bridge" => Some(Plugins::Common {
            masquerade: first["ipMasq"] != json!(false),
        }),
        _ => None,
    }
}

fn bridge(range: PodCidr, masquerades: bool) -> Value {
    json!({
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": true,
        "ipMasq": masquerades,
        // A pod must reach itself through a published port.
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": range.to_string()}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    })
}

/// The ranges whose pods `text`, a configuration of ours, leaves for the agent to masquerade. One that an
/// older version wrote, or join where there was no iptables, has the bridge plugin do it. A range that cannot be read
/// does not cut off the pods of the others.
pub fn left_to_us(text: &str) -> Vec<PodCidr> {
    match plugins_of(text) {
        Some(Plugins::Own { .. } | Plugins::Common { masquerade: false }) => {
            read_ranges(text).into_iter().flatten().collect()
        }
        Some(Plugins::Common { masquerade: true }) | None => Vec::new(),
    }
}

/// The ranges of which `text`, a configuration of ours, has pods' addresses handed out. Somebody may have added some
/// to the one that join wrote; those of IPv6 say nothing of the others. Where one cannot be read, none is known.
pub fn ranges_of(text: &str) -> Vec<PodCidr> {
    let ranges = read_ranges(text).into_iter();
    ranges.collect::<Result<_, _>>().unwrap_or_default()
}

fn read_ranges(text: &str) -> Vec<Result<PodCidr, InvalidPodCidr>> {
    let list: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let first = &list["plugins"][0];
    let own = Some(&first["range"]).filter(|range| !range.is_null());
    let ipam = &first["ipam"];
    // host-local takes a single range as it is, too.
    let single = Some(&ipam["subnet"]).filter(|subnet| !subnet.is_null());
    let sets = ipam["ranges"].as_array().into_iter().flatten();
    let in_sets = sets.flat_map(|set| set.as_array().into_iter().flatten());
    let texts = own
        .into_iter()
        .chain(single)
        .chain(in_sets.map(|range| &range["subnet"]))
        .map(|range| range.as_str().unwrap_or_default());
    texts
        .filter(|range| !range.contains(':'))
        .map(str::parse)
        .collect()
}

/// Looks at what the runtime would read in `dir`; a directory that is missing is empty.
pub fn look(dir: &Path) -> io::Result<Found> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    // Some networks put every other file aside, under a longer name.
    let has_ours = paths.iter().any(|path| name(path).starts_with(FILE));
    paths.retain(|path| is_configuration(path));
    paths.sort();
    Ok(match paths.into_iter().next() {
        None => Found::Nothing,
        Some(first) if name(&first) == FILE => Found::Ours,
        Some(first) if has_ours => Found::Before(first),
        Some(first) => Found::Foreign(first),
    })
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

fn is_configuration(path: &Path) -> bool {
    path.extension()
        .is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json")
}

/// The plugins which the network needs that `dirs` lack.
pub fn missing_plugins(plugins: &Plugins, dirs: &[PathBuf]) -> Vec<&'static str> {
    // The runtime itself adds loopback.
    let needed: &[&'static str] = match plugins {
        Plugins::Own { .. } => &[plugin::NAME, "portmap", LOOPBACK],
        Plugins::Common { .. } => &["bridge", "host-local", "portmap", LOOPBACK],
    };
    let is_missing = |name: &&&str| !dirs.iter().any(|dir| dir.join(name).is_file());
    needed.iter().filter(is_missing).copied().collect()
}

/// The one of the runtime's directories in which it has its plugins.
pub fn plugin_dir(dirs: &[PathBuf]) -> Option<&Path> {
    let has_plugins = |dir: &&PathBuf| dir.join(LOOPBACK).is_file();
    dirs.iter()
        .find(has_plugins)
        .or(dirs.first())
        .map(PathBuf::as_path)
}

/// The directories of the runtime's own configuration, from its verbose status: where it
/// reads network configurations, and where it has plugins.
pub fn directories(config: &str) -> (Option<PathBuf>, Vec<PathBuf>) {
    let config: Value = serde_json::from_str(config).unwrap_or(Value::Null);
    let cni = &config["cni"];
    let path = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from);
    // containerd 2.x has a list, older ones a single directory.
    let list = cni["binDirs"].as_array().into_iter().flatten().filter_map(path);
    let bins = list.chain(path(&cni["binDir"])).collect();
    (path(&cni["confDir"]), bins)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tombolo-conflist-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    const COMMON: Plugins = Plugins::Common { masquerade: false };

    fn own() -> Plugins {
        let addresses = "/run/tombolo-addresses".into();
        Plugins::Own { addresses }
    }

    #[test]
    fn the_network_has_the_configured_range() {
        let range = "10.99.0.0/24".parse().unwrap();
        let list: Value = serde_json::from_str(&render(range, &own())).unwrap();
        assert_eq!(list["plugins"][0]["range"], "10.99.0.0/24");
        assert_eq!(list["plugins"][0]["capabilities"]["portMappings"], true);
        let list: Value = serde_json::from_str(&render(range, &COMMON)).unwrap();
        assert_eq!(
            list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.99.0.0/24"
        );
        assert_eq!(list["plugins"][1]["type"], "portmap");
        assert!(BRIDGE.len() <= 15, "interface names are short");
    }

    #[test]
    fn an_empty_or_missing_directory_is_ours_to_fill() {
        assert_eq!(look(Path::new("/nowhere")).unwrap(), Found::Nothing);
        let dir = dir("empty");
        std::fs::write(dir.join("README.txt"), "").unwrap();
        assert_eq!(look(&dir).unwrap(), Found::Nothing);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_configuration_of_someone_else_is_named_and_whether_it_stands_before_ours() {
        let dir = dir("foreign");
        let calico = dir.join("10-calico.conflist");
        std::fs::write(&calico, "{}").unwrap();
        assert_eq!(look(&dir).unwrap(), Found::Foreign(calico.clone()));
        std::fs::write(dir.join(FILE), "{}").unwrap();
        assert_eq!(look(&dir).unwrap(), Found::Before(calico.clone()));
        let aside = dir.join("90-tombolo.conflist.cilium_bak");
        std::fs::rename(dir.join(FILE), &aside).unwrap();
        assert_eq!(look(&dir).unwrap(), Found::Before(calico.clone()), "put aside");
        std::fs::rename(aside, dir.join(FILE)).unwrap();
        std::fs::rename(calico, dir.join("99-loopback.conf")).unwrap();
        assert_eq!(look(&dir).unwrap(), Found::Ours, "the runtime takes the first");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_runtime_says_where_it_looks() {
        let old = r#"{"cni": {"binDir": "/usr/lib/cni", "confDir": "/etc/cni/net.d"}}"#;
        let new = r#"{"cni": {"binDir": "", "binDirs": ["/opt/cni/bin"], "confDir": "/run/cni"}}"#;
        assert_eq!(
            directories(old),
            (Some("/etc/cni/net.d".into()), vec!["/usr/lib/cni".into()])
        );
        assert_eq!(
            directories(new),
            (Some("/run/cni".into()), vec!["/opt/cni/bin".into()])
        );
        assert_eq!(directories("not json"), (None, Vec::new()));
    }

    #[test]
    fn the_agent_masquerades_unless_the_bridge_plugin_was_told_to() {
        let range = "10.99.0.0/24".parse().unwrap();
        let bridges = Plugins::Common { masquerade: true };
        for (plugins, left) in [(own(), vec![range]), (COMMON, vec![range]), (bridges, Vec::new())] {
            let text = render(range, &plugins);
            assert_eq!(ranges_of(&text), [range]);
            assert_eq!((left_to_us(&text), plugins_of(&text)), (left, Some(plugins)));
        }
        assert_eq!(left_to_us("{}"), []);
        assert_eq!(left_to_us("half"), []);
    }

    #[test]
    fn ranges_that_somebody_added_are_known_too_and_all_or_none() {
        let both = |ipam: Value| {
            let bridge = json!({"type": "bridge", "ipMasq": false, "ipam": ipam});
            let text = json!({"plugins": [bridge, {"type": "portmap"}]}).to_string();
            let texts = |ranges: Vec<PodCidr>| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
            (texts(ranges_of(&text)), texts(left_to_us(&text)))
        };
        let of = |ipam: Value| {
            let (known, left) = both(ipam);
            assert_eq!(known, left);
            known
        };
        let (one, two) = (
            json!({"subnet": "10.99.0.0/24"}),
            json!({"subnet": "10.98.0.0/24"}),
        );
        let v6 = json!({"subnet": "fd00::/64"});
        assert_eq!(
            of(json!({"ranges": [[one, two]]})),
            ["10.99.0.0/24", "10.98.0.0/24"],
            "one set"
        );
        assert_eq!(
            of(json!({"ranges": [[one], [two]]})),
            ["10.99.0.0/24", "10.98.0.0/24"]
        );
        assert_eq!(
            of(json!({"ranges": [[one], [v6]]})),
            ["10.99.0.0/24"],
            "both families"
        );
        assert_eq!(of(one.clone()), ["10.99.0.0/24"], "a subnet only");
        for none in [
            json!({}),
            json!({"ranges": []}),
            json!({"ranges": [[v6]]}),
            json!({"subnet": 7}),
        ] {
            assert!(of(none.clone()).is_empty(), "{none}");
        }
        for unread in ["10.97.0.0/29", "10.97.0.1/24", "half"] {
            let (known, left) = both(json!({"ranges": [[{"subnet": unread}], [one]]}));
            assert!(known.is_empty(), "half of them are not all: {unread}");
            assert_eq!(left, ["10.99.0.0/24"], "its pods are not cut off for {unread}");
        }
    }

    #[test]
    fn plugins_that_are_not_installed_are_named() {
        let dir = dir("bin");
        for name in ["bridge", "host-local", "loopback"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        let dirs = ["/nowhere".into(), dir.clone()];
        assert_eq!(missing_plugins(&COMMON, &dirs), ["portmap"]);
        assert_eq!(missing_plugins(&own(), &dirs), ["tombolo", "portmap"]);
        assert_eq!(plugin_dir(&dirs), Some(dir.as_path()));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
