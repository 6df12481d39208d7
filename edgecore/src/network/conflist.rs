//! The default pod network: a bridge, addresses by host-local, published ports by portmap.
//!
//! Written as `90-tombolo.conflist` where the runtime looks, and only when nothing else is
//! there: a network that someone chose is better than ours. Masquerading is not left to the bridge
//! plugin: [`super::nat`] says why.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::pod_cidr::PodCidr;

/// The name of our file. 90: any other configuration sorts before it and wins.
pub const FILE: &str = "90-tombolo.conflist";
/// The bridge that pods hang on.
pub const BRIDGE: &str = "tombolo0";
/// The plugins that the configuration names; the runtime itself adds `loopback`.
pub const PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];
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

/// The text of the network configuration. `we_masquerade` says whether the agent can: the plugin has other means
/// where there is no iptables, and says so where it has none.
pub fn render(range: PodCidr, we_masquerade: bool) -> String {
    let list = json!({
        // 1.0.0 is known to every plugin since 2021 (Debian 12 has 1.1.1 of them).
        "cniVersion": "1.0.0",
        "name": "tombolo",
        "plugins": [bridge(range, !we_masquerade), {"type": "portmap", "capabilities": {"portMappings": true}}],
    });
    format!("{list:#}\n")
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

/// The range whose pods `text`, a configuration of ours, leaves for the agent to masquerade. One that an
/// older version wrote, or join where there was no iptables, has the bridge plugin do it.
pub fn left_to_us(text: &str) -> Option<PodCidr> {
    let list: Value = serde_json::from_str(text).ok()?;
    let bridge = &list["plugins"][0];
    if bridge["ipMasq"] != json!(false) {
        return None;
    }
    bridge["ipam"]["ranges"][0][0]["subnet"].as_str()?.parse().ok()
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

/// Those of our plugins that `dirs` lack.
pub fn missing_plugins(dirs: &[PathBuf]) -> Vec<&'static str> {
    PLUGINS
        .into_iter()
        .filter(|name| !dirs.iter().any(|dir| dir.join(name).is_file()))
        .collect()
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

    #[test]
    fn the_network_has_the_configured_range() {
        let list: Value = serde_json::from_str(&render("10.99.0.0/24".parse().unwrap(), true)).unwrap();
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
        assert_eq!(left_to_us(&render(range, true)), Some(range));
        assert_eq!(left_to_us(&render(range, false)), None);
        assert_eq!(left_to_us("{}"), None);
        assert_eq!(left_to_us("half"), None);
    }

    #[test]
    fn plugins_that_are_not_installed_are_named() {
        let dir = dir("bin");
        for name in ["bridge", "host-local", "loopback"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        assert_eq!(missing_plugins(std::slice::from_ref(&dir)), ["portmap"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
