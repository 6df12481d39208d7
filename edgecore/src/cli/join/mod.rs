//! `edgecore join`: from a bare machine to an enrolled node.
//!
//! ```text
//! plan (arguments) -> look (machine) -> enrol (cluster) -> write (disk) -> service
//! ```
//!
//! A device that has joined already is `again`'s: it is enrolled anew, with the key that it has, where the cluster
//! does not take it any more.
//!
//! Nothing but the device's key is written before the cluster said yes, and everything written
//! is in the record. The configuration is written last: while it is missing, the device has not
//! joined.
//!
//! **Invariant:** a join that failed leaves the device as it was, but for one case that it
//! names: when the answer was lost, the key stays, for only the same key may try again.

mod again;
mod enrol;
mod group;
mod machine;
mod plan;
pub(super) mod service;

use std::path::Path;

use anyhow::Context as _;
use protocol::clock::Clock;
use protocol::join::NodeKey;

use super::record::Record;
use super::{JoinArgs, Paths};
use enrol::Enrolled;
use machine::Network;
pub(super) use machine::{PLUGIN_DIRS, must_be_root};
use plan::{Plan, Standing};

/// Enrols this device and writes what it needs to run.
pub async fn join(args: JoinArgs, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    must_be_root(paths)?;
    let plan = match plan::standing(&args, paths, clock)? {
        Standing::Here { plan, unfit } => return again::again(&plan, unfit, paths, clock).await,
        Standing::Free(plan) => *plan,
    };
    let network = machine::look(&plan, paths).await?;
    let mut record = Record::open(&paths.record())?;
    let before = record.entries().len();
    let done = enrol_and_write(&plan, &network, &mut record, Site { paths, clock }).await;
    if let Err(error) = done {
        take_back(&error, &plan, &mut record, before);
        return Err(error);
    }
    group::ensure(&plan, paths);
    service::install(&plan, &mut record, paths)?;
    step(&format!(
        "{} has joined; see `edgecore status`",
        plan.config.node_name
    ));
    Ok(())
}

/// Where and when.
#[derive(Clone, Copy)]
struct Site<'a> {
    paths: &'a Paths,
    clock: &'a Clock,
}

async fn enrol_and_write(
    plan: &Plan,
    network: &Network,
    record: &mut Record,
    site: Site<'_>,
) -> anyhow::Result<()> {
    let paths = site.paths;
    record.directory(&paths.config_dir(), 0o755)?;
    record.directory(&paths.pki(), 0o700)?;
    let pending = paths.pki().join("pending.key");
    let key = pending_key(&pending, record)?;
    let enrolled = enrol::enrol(plan, &key, site.clock).await?;
    write(plan, &key, &enrolled, record, paths)?;
    write_network(plan, network, record)?;
    record.file(&paths.config(), plan.config.to_yaml().as_bytes(), 0o600)?;
    std::fs::remove_file(&pending).context("the pending key")?;
    step(&format!("wrote {}", paths.config().display()));
    Ok(())
}

/// The key of an attempt whose answer was lost, or a new one; on the disk before it is used.
fn pending_key(pending: &Path, record: &mut Record) -> anyhow::Result<NodeKey> {
    if let Ok(pem) = std::fs::read_to_string(pending) {
        step("using the key of the last attempt");
        return NodeKey::from_pem(&pem).with_context(|| format!("the key {}", pending.display()));
    }
    let key = NodeKey::generate()?;
    record.file(pending, key.expose_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn write(
    plan: &Plan,
    key: &NodeKey,
    enrolled: &Enrolled,
    record: &mut Record,
    paths: &Paths,
) -> anyhow::Result<()> {
    record.file(&paths.key(), key.expose_pem().as_bytes(), 0o600)?;
    record.file(&paths.certificate(), enrolled.certificate.as_bytes(), 0o600)?;
    record.file(&paths.authority(), enrolled.authority.as_bytes(), 0o600)?;
    record.tree(&paths.state_dir(), 0o700)?;
    if plan.replaces {
        record.file(&paths.replace_cluster(), enrolled.cluster_id.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn write_network(plan: &Plan, network: &Network, record: &mut Record) -> anyhow::Result<()> {
    let Network::Ours(file) = network else {
        return Ok(());
    };
    record.shared(
        file,
        crate::network::conflist::render(plan.config.pod_cidr).as_bytes(),
        0o644,
    )?;
    step(&format!(
        "wrote the pod network {} ({})",
        file.display(),
        plan.config.pod_cidr
    ));
    Ok(())
}

fn take_back(error: &anyhow::Error, plan: &Plan, record: &mut Record, before: usize) {
    let lost = error
        .downcast_ref::<enrol::EnrolError>()
        .is_some_and(enrol::EnrolError::may_have_counted);
    // What a replaced cluster's join had written is still in use.
    if lost || plan.replaces {
        return;
    }
    let left = record.undo(before);
    for trouble in left.troubles.iter().chain(&left.kept) {
        warn(trouble);
    }
}

/// One line of progress.
fn step(text: &str) {
    println!("[ok] {text}");
}

/// Something that works, but not as it should.
fn warn(text: &str) {
    println!("[!!] {text}");
}

#[cfg(test)]
mod tests;
