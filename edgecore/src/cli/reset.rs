//! `edgecore reset`: the way out. Stops the node's pods and removes what join wrote.
//!
//! The cluster is not told: the Node turns not ready, and `cloudcore node remove` deletes it.

mod pods;

use std::io::{BufRead as _, Write as _};

use anyhow::bail;

use super::control::{self, ControlError};
use super::join::{self, service};
use super::record::{Entry, Record};
use super::{Paths, ResetArgs};
use crate::config::{Config, DEFAULT_RUNTIME_ENDPOINT};
use crate::network::conflist;

/// Leaves the cluster.
pub(super) async fn reset(args: &ResetArgs, paths: &Paths) -> anyhow::Result<()> {
    join::must_be_root(paths)?;
    let mut record = Record::open(&paths.record())?;
    if record.entries().is_empty() {
        println!("this device has not joined a cluster; nothing is to be removed");
        return Ok(());
    }
    if !args.yes && !confirmed(&record)? {
        bail!("nothing was changed");
    }
    stop_service(&record, paths).await?;
    let endpoint = Config::load(&paths.config()).map(|config| config.runtime_endpoint.to_string());
    pods::stop_all(
        &endpoint.unwrap_or_else(|_| DEFAULT_RUNTIME_ENDPOINT.to_owned()),
        paths,
    )
    .await?;
    if has_network(&record) {
        pods::remove_network(paths);
    }
    let had_service = has_service(&record);
    let left = record.undo(0);
    if had_service && service::systemd_runs(paths) {
        service::forget()?;
    }
    tell(&left);
    Ok(())
}

fn tell(left: &[String]) {
    for trouble in left {
        println!("[!!] {trouble}");
    }
    println!("[ok] what join wrote is removed");
    println!("     delete the node in the cluster with:");
    println!("     kubectl -n tombolo-system exec deploy/cloudcore -- cloudcore node remove NAME");
}

fn has_service(record: &Record) -> bool {
    record
        .entries()
        .iter()
        .any(|entry| matches!(entry, Entry::Service { .. }))
}

/// Whether the pod network is the one that join wrote.
fn has_network(record: &Record) -> bool {
    record.entries().iter().any(|entry| {
        entry
            .path()
            .file_name()
            .is_some_and(|name| name == conflist::FILE)
    })
}

fn confirmed(record: &Record) -> anyhow::Result<bool> {
    println!("this stops every pod of this node and removes:");
    for entry in record.entries() {
        println!("  {}", entry.path().display());
    }
    print!("go on? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A running node would start again what is stopped here.
async fn stop_service(record: &Record, paths: &Paths) -> anyhow::Result<()> {
    if has_service(record) && service::systemd_runs(paths) {
        service::disable()?;
        println!("[ok] the service edgecore is stopped");
    }
    match control::ask(&paths.control_socket()).await {
        Err(ControlError::NotRunning(_)) => Ok(()),
        _ => bail!("edgecore still runs, and not as the service that join installed: stop it first"),
    }
}
