//! What a machine is told at boot: its name, its disk, its services. Written on the host, read by
//! its init.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Directories that are the machine's own by an overlay on the host's.
pub const OVERLAYS: [&str; 3] = ["/etc", "/var", PLUGINS];
/// Where Debian has network plugins, and where edgecore puts its own.
pub const PLUGINS: &str = "/usr/lib/cni";
/// Directories that are plain ones on the machine's disk: the kubelet measures the file system
/// under its root, and pods bind parts of them.
pub const BINDS: [&str; 7] = [
    "/etc/cni",
    "/etc/tombolo",
    "/var/lib/kubelet",
    "/var/lib/tombolo",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
];

/// A program that runs on a machine and is started again when it ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name, also that of its log.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables besides those that init gives to all.
    pub env: Vec<(String, String)>,
}

impl Service {
    /// A service without variables of its own.
    pub fn new<S: Into<String>>(name: &str, program: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let program = program.to_string_lossy().into_owned();
        let command = std::iter::once(program)
            .chain(args.into_iter().map(Into::into))
            .collect();
        Self {
            name: name.to_owned(),
            command,
            env: Vec::new(),
        }
    }

    /// The same with a variable more.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

/// The machine's record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Boot {
    /// The host name.
    pub hostname: String,
    /// The directory of the logs.
    pub logs: PathBuf,
    /// In the order of their start.
    pub services: Vec<Service>,
}

impl Boot {
    /// A machine without services.
    pub fn new(hostname: &str, logs: &Path) -> Self {
        Self {
            hostname: hostname.to_owned(),
            logs: logs.to_owned(),
            services: Vec::new(),
        }
    }

    /// Reads the record of the machine in `dir`.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("boot.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no boot record", path.display()))
    }

    /// Writes the record of the machine in `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let (path, draft) = (dir.join("boot.json"), dir.join("boot.json.new"));
        fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Where a file of the machine lies on the host.
pub fn on_disk(dir: &Path, path: &str) -> PathBuf {
    let bound = BINDS.iter().find(|bind| Path::new(path).starts_with(bind));
    let layer = if bound.is_some() { "bind" } else { "upper" };
    dir.join(layer).join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_directory_and_an_overlaid_one_lie_apart() {
        let dir = Path::new("/t/e1");
        assert_eq!(
            on_disk(dir, "/etc/cni/net.d"),
            Path::new("/t/e1/bind/etc/cni/net.d")
        );
        assert_eq!(
            on_disk(dir, "/etc/systemd/system"),
            Path::new("/t/e1/upper/etc/systemd/system")
        );
    }
}
