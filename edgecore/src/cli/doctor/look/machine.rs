//! Looks at the machine: files of the kernel, file systems, the network configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

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
            is_read_only: statvfs(existing).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY)),
        })
    };
    named.into_iter().filter_map(space).collect()
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
    if paths.is_machine() && conflist::left_to_us(&text).is_some() && !iptables::is_installed() {
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
