//! Looks at the machine: files of the kernel, file systems, the network configuration.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statvfs::{FsFlags, statvfs};
use protocol::clock::{Clock, build_time};

use super::super::facts::{Machine, Network, Resolved, Space};
use super::{others, whole};
use crate::cli::Paths;
use crate::cli::join::PLUGIN_DIRS;
use crate::config::PodCidr;
use crate::network::{conflist, iptables, routes};
use crate::node::observe::{self, disk};
use crate::pods::cgroups::{CGROUP_TOP, controllers_below};
use crate::pods::resolver::Resolver;

/// What else is needed to look.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Where everything is.
    pub(super) paths: Paths,
    /// The range of our pod network.
    pub(super) range: PodCidr,
    /// The runtime's own configuration.
    pub(super) told: String,
    /// Where the runtime has its images.
    pub(super) images: Option<PathBuf>,
    /// The resolver file that the configuration names.
    pub(super) resolv_conf: Option<PathBuf>,
    /// The process that answers at the control socket.
    pub(super) daemon: Option<i32>,
}

/// Everything. May block.
pub(super) fn look(given: &Given, clock: &Clock) -> Machine {
    let Given { paths, .. } = given;
    let controllers = controllers_below(CGROUP_TOP.as_ref());
    Machine {
        clock_is_behind: clock.machine_time() < build_time(),
        controllers: controllers.map_err(|error| error.to_string()),
        swap: observe::swap(&paths.at("/")),
        resolver: resolved(given),
        others: others::running(&paths.at("/proc"), given.daemon),
        spaces: spaces(paths, given.images.as_deref()),
        network: network(given),
    }
}

fn resolved(given: &Given) -> Resolved {
    let chosen = given.resolv_conf.as_deref();
    let read = Resolver::new(chosen, |path| given.paths.at(path)).read();
    Resolved {
        file: read.file.display().to_string(),
        servers: read.config.servers,
    }
}

fn spaces(paths: &Paths, images: Option<&Path>) -> Vec<Space> {
    let (store, pods) = (paths.state_dir(), paths.kubelet_dir());
    let named = [
        ("the store", Some(store.as_path())),
        ("pods", Some(pods.as_path())),
        ("images", images),
    ];
    let space = |(of, path): (&'static str, Option<&Path>)| {
        let path = path?;
        let existing = path.ancestors().find(|part| part.exists())?;
        Some(Space {
            of,
            path: path.display().to_string(),
            disk: disk(path)?,
            is_read_only: is_read_only(paths, existing),
        })
    };
    named.into_iter().filter_map(space).collect()
}

fn is_read_only(paths: &Paths, path: &Path) -> bool {
    let says_so = statvfs(path).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY));
    let mounts = fs::read_to_string(paths.at("proc/self/mountinfo")).unwrap_or_default();
    let device = fs::metadata(path).map(|seen| (major(seen.dev()), minor(seen.dev())));
    says_so || device.is_ok_and(|device| has_failed(&mounts, device))
}

/// Whether the kernel takes no writes to the file system of a device (major, minor) because it has failed: a newer one
/// says so nowhere else.
fn has_failed(mounts: &str, (major, minor): (u64, u64)) -> bool {
    let device = format!("{major}:{minor}");
    mounts.lines().any(|line| {
        let mut words = line.split(' ');
        let options = words.next_back().unwrap_or_default();
        words.nth(2) == Some(&device) && options.split(',').any(|option| option == "emergency_ro")
    })
}

fn network(given: &Given) -> Network {
    let paths = &given.paths;
    let (conf_dir, mut bins) = conflist::directories(&given.told);
    let dir = paths.at(conf_dir.unwrap_or_else(|| PathBuf::from(conflist::DEFAULT_CONF_DIR)));
    if bins.is_empty() {
        bins = PLUGIN_DIRS.iter().map(|dir| paths.at(dir)).collect();
    }
    match conflist::look(&dir) {
        Ok(conflist::Found::Ours) => Network::Ours {
            missing: missing(paths, &dir, &bins),
            collides: collision(paths, given.range),
        },
        Ok(conflist::Found::Before(file)) => Network::Before(file.display().to_string()),
        Ok(conflist::Found::Foreign(file)) => Network::Foreign(file.display().to_string()),
        Ok(conflist::Found::Nothing) => Network::Missing(dir.display().to_string()),
        Err(error) => Network::Unread(format!("{}: {}", dir.display(), whole(&error))),
    }
}

/// What the network that join wrote into `dir` needs and the machine has not.
fn missing(paths: &Paths, dir: &Path, bins: &[PathBuf]) -> Vec<&'static str> {
    let text = fs::read_to_string(dir.join(conflist::FILE)).unwrap_or_default();
    let plugins = conflist::plugins_of(&text);
    let mut missing = plugins.map_or_else(Vec::new, |plugins| conflist::missing_plugins(&plugins, bins));
    if paths.is_machine() && !conflist::left_to_us(&text).is_empty() && !iptables::is_installed() {
        missing.push("iptables");
    }
    missing
}

fn collision(paths: &Paths, range: PodCidr) -> Option<String> {
    let routes = routes::read(&paths.at("/proc")).ok()?;
    let route = routes::collision(&routes, range, conflist::BRIDGE)?;
    Some(format!("the route {} of {}", route.to, route.device))
}

/// Those of the files that others than root may read.
pub(super) fn open_to_others(files: &[PathBuf]) -> Vec<String> {
    let is_open =
        |file: &&PathBuf| fs::metadata(file).is_ok_and(|data| data.permissions().mode() & 0o077 != 0);
    let open = files.iter().filter(is_open);
    open.map(|file| file.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_has_failed_is_told_by_its_device() {
        let mounts = "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
                      53 29 7:0 / /var/lib/tombolo rw,relatime - ext4 /dev/loop0 rw,errors=remount-ro,emergency_ro\n";
        assert!(has_failed(mounts, (7, 0)));
        assert!(!has_failed(mounts, (254, 0)));
        assert!(!has_failed("", (7, 0)));
    }
}
