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
//! joined. What comes after it can be done again: a join that finds itself cut short there goes on.
//!
//! **Invariant:** a join that failed leaves the device as it was, also where it was to replace another
//! cluster, but for one case that it names: when the answer was lost, the key stays, for only the same
//! key may try again.

mod again;
mod before;
mod enrol;
mod finish;
mod group;
mod ignored;
mod machine;
mod network;
mod plan;
pub(super) mod service;

use std::path::Path;

use anyhow::Context as _;
use protocol::clock::Clock;
use protocol::join::NodeKey;

use super::record::Record;
use super::{JoinArgs, Paths};
use before::Before;
use enrol::Enrolled;
use machine::Network;
pub(super) use machine::{PLUGIN_DIRS, must_be_root};
use plan::{Plan, Standing};
use service::Systemctl;

/// Enrols this device and writes what it needs to run.
pub async fn join(args: JoinArgs, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    let site = Site {
        paths,
        clock,
        systemctl: service::manager(paths),
        program: &std::env::current_exe().context("the place of this program")?,
    };
    join_at(args, site).await
}

async fn join_at(args: JoinArgs, site: Site<'_>) -> anyhow::Result<()> {
    let Site { paths, clock, .. } = site;
    must_be_root(paths)?;
    let plan = match plan::standing(&args, paths, clock)? {
        Standing::Here { plan, unfit, ignored } => {
            again::again(&plan, unfit, paths, clock).await?;
            for told in ignored.told(&paths.config()) {
                warn(&told);
            }
            return finish::what_is_left(!args.no_service, site).await;
        }
        Standing::Free(plan) => *plan,
    };
    if plan.with_service && site.systemctl.is_some() {
        service::must_last(site.program)?;
    }
    let network = machine::look(&plan, paths).await?;
    let mut record = Record::open(&paths.record())?;
    let before = Before::read(&record, &network, paths)?;
    let done = enrol_and_write(&plan, &network, &mut record, site).await;
    if let Err(error) = done {
        take_back(&error, before, &mut record);
        return Err(error);
    }
    step(&format!(
        "{} has joined; see `edgecore status`",
        plan.config.node_name
    ));
    finish::finish(&plan, &mut record, site)
}

/// Where and when, and with what.
#[derive(Clone, Copy)]
struct Site<'a> {
    paths: &'a Paths,
    clock: &'a Clock,
    /// The machine's service manager, where there is one.
    systemctl: Option<&'a Systemctl<'a>>,
    /// This program.
    program: &'a Path,
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
    let key = key(plan, record, paths)?;
    let enrolled = enrol::enrol(plan, &key, site.clock).await?;
    // What is most likely to fail first, while the keys are still the old ones.
    network::write(plan, network, record, site)?;
    write(&key, &enrolled, record, (paths, plan.config.dmi.socket.as_path()))?;
    record.file(&paths.config(), plan.config.to_yaml().as_bytes(), 0o600)?;
    if plan.replaces {
        // Until the configuration is there, the device is the old cluster's, and its pods are not to be forgotten.
        record.file(&paths.replace_cluster(), enrolled.cluster_id.as_bytes(), 0o600)?;
    }
    step(&format!("wrote {}", paths.config().display()));
    Ok(())
}

/// The key of an attempt whose answer was lost, the one that the cluster has for this name, or a new one; on the disk
/// before it is used.
fn key(plan: &Plan, record: &mut Record, paths: &Paths) -> anyhow::Result<NodeKey> {
    let pending = finish::pending_key(paths);
    if let Ok(pem) = std::fs::read_to_string(&pending) {
        step("using the key of the last attempt");
        return NodeKey::from_pem(&pem).with_context(|| format!("the key {}", pending.display()));
    }
    // A join that was cut short behind the pending key has used the token up with this one.
    let own = std::fs::read_to_string(paths.key())
        .ok()
        .filter(|_| plan.keeps_key);
    if let Some(key) = own.and_then(|pem| NodeKey::from_pem(&pem).ok()) {
        return Ok(key);
    }
    let key = NodeKey::generate()?;
    record.file(&pending, key.expose_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn write(
    key: &NodeKey,
    enrolled: &Enrolled,
    record: &mut Record,
    (paths, socket): (&Paths, &Path),
) -> anyhow::Result<()> {
    record.file(&paths.key(), key.expose_pem().as_bytes(), 0o600)?;
    record.file(&paths.certificate(), enrolled.certificate.as_bytes(), 0o600)?;
    record.file(&paths.authority(), enrolled.authority.as_bytes(), 0o600)?;
    record.tree(&paths.state_dir(), 0o700)?;
    // Where the daemon puts the mappers' socket, it makes what is missing; noted here, it goes with the rest.
    if let Some(dir) = paths.at(socket).parent() {
        record.directory(dir, 0o755)?;
    }
    Ok(())
}

fn take_back(error: &anyhow::Error, before: Before, record: &mut Record) {
    let lost = error
        .downcast_ref::<enrol::EnrolError>()
        .is_some_and(enrol::EnrolError::may_have_counted);
    if lost {
        return;
    }
    let left = before.restore(record);
    for trouble in left.troubles.iter().chain(&left.kept) {
        warn(trouble);
    }
    if !left.troubles.is_empty() {
        warn("half of the join is written: run the same command again");
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
