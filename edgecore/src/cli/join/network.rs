//! Writes the pod network of a device that has none: its configuration, and the link by which the runtime finds our plugin.

use std::path::{Path, PathBuf};

use super::machine::{Network, PLUGIN_DIRS};
use super::plan::Plan;
use super::{Paths, Site, step, warn};
use crate::cli::record::{Record, RecordError};
use crate::network::conflist::{self, Plugins};
use crate::network::{iptables, plugin};

/// Writes it where it is ours.
pub(super) fn write(
    plan: &Plan,
    network: &Network,
    record: &mut Record,
    site: Site<'_>,
) -> anyhow::Result<()> {
    let Network::Ours { file, plugin_dirs } = network else {
        return Ok(());
    };
    let there = std::fs::read_to_string(file).ok();
    let there = there.and_then(|text| conflist::plugins_of(&text));
    let plugins = match (there, conflist::plugin_dir(plugin_dirs)) {
        // Its pods may still run, and only it knows which addresses they have.
        (Some(Plugins::Own { addresses }), dir) => {
            // Whoever put the file there may not have put the link.
            if let Err(error) = dir.map_or(Ok(()), |dir| link(dir, record, site)) {
                warn(&format!("{error:#}: no pod starts without it"));
            }
            Plugins::Own { addresses }
        }
        (Some(there), _) => there,
        (None, Some(dir)) if iptables::is_installed() => own(dir, record, site),
        (None, _) => common(),
    };
    let range = plan.config.pod_cidr;
    record.shared(file, conflist::render(range, &plugins).as_bytes(), 0o644)?;
    step(&format!("wrote the pod network {} ({range})", file.display()));
    tell(&plugins, plugin_dirs.clone(), site.paths);
    Ok(())
}

/// Ours, where the runtime will find it.
fn own(dir: &Path, record: &mut Record, site: Site<'_>) -> Plugins {
    match link(dir, record, site) {
        Ok(()) => Plugins::Own {
            addresses: site.paths.addresses(),
        },
        Err(error) => {
            warn(&format!(
                "{error:#}; pods are connected by the network plugins that are there"
            ));
            common()
        }
    }
}

fn link(dir: &Path, record: &mut Record, site: Site<'_>) -> Result<(), RecordError> {
    record.link(&dir.join(plugin::NAME), site.program)
}

fn common() -> Plugins {
    Plugins::Common {
        masquerade: !iptables::is_installed(),
    }
}

fn tell(plugins: &Plugins, mut dirs: Vec<PathBuf>, paths: &Paths) {
    if !iptables::is_installed() {
        warn(
            "iptables is not installed: pods may reach nothing outside of this device until it is (apt install iptables)",
        );
    }
    if dirs.is_empty() {
        dirs = PLUGIN_DIRS.iter().map(|dir| paths.at(dir)).collect();
    }
    let missing = conflist::missing_plugins(plugins, &dirs);
    if missing.is_empty() {
        return;
    }
    let places: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    warn(&format!(
        "network plugins are missing in {}: {}; the node is not Ready until they are installed \
         (apt install containernetworking-plugins)",
        places.join(" and "),
        missing.join(", ")
    ));
}
