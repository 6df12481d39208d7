//! What a join does once the configuration is written. All of it can be done again, so a join that finds the
//! device joined does what an earlier one was kept from: by a power cut, or a service manager that was not up yet.

use std::io;
use std::path::PathBuf;

use super::super::control::{self, ControlError};
use super::super::record::Record;
use super::plan::Plan;
use super::{Paths, Site, group, service, step, warn};
use crate::config::Config;

/// The key before the cluster has said yes to it.
pub(super) fn pending_key(paths: &Paths) -> PathBuf {
    paths.pki().join("pending.key")
}

/// Ends a join that has just written everything else.
pub(super) fn finish(plan: &Plan, record: &mut Record, site: Site<'_>) -> anyhow::Result<()> {
    remove_pending_key(site.paths);
    group::ensure(&plan.config, site.paths);
    if !plan.with_service {
        step("the service was not asked for; start the node with `edgecore run`");
        return Ok(());
    }
    let Some(systemctl) = site.systemctl else {
        step("systemd does not run here; start the node with `edgecore run`");
        return Ok(());
    };
    service::install(site.program, record, site.paths, systemctl)
}

/// Ends a join that wrote everything else some time ago.
pub(super) async fn what_is_left(with_service: bool, site: Site<'_>) -> anyhow::Result<()> {
    let paths = site.paths;
    remove_pending_key(paths);
    group::ensure(&Config::load(&paths.config())?, paths);
    let Some(systemctl) = site.systemctl.filter(|_| with_service) else {
        return Ok(());
    };
    if service::is_enabled(systemctl) {
        return service::renew(paths, systemctl);
    }
    let nobody = matches!(
        control::ask(&paths.control_socket()).await,
        Err(ControlError::NotRunning(_))
    );
    if !paths.unit().exists() && !nobody {
        warn("edgecore runs, and not as the service that join installs; that is left alone");
        return Ok(());
    }
    service::must_last(site.program)?;
    service::install(
        site.program,
        &mut Record::open(&paths.record())?,
        paths,
        systemctl,
    )
}

/// It is a second copy of the node's key.
fn remove_pending_key(paths: &Paths) {
    let path = pending_key(paths);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn(&format!("{} could not be removed: {error}", path.display()));
        }
        _ => {}
    }
}
