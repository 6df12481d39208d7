//! `edgecore reset`: the way out. Stops the node's pods and removes what join wrote.
//!
//! The cluster is not told: the Node turns not ready, and `cloudcore node remove` deletes it.
//!
//! **Invariant:** until everything is gone, the record says what is left: a reset that was cut short or met
//! with trouble can be repeated. It succeeds only when nothing of ours is left.

mod pods;

use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use protocol::name::NodeName;

use super::control::{self, ControlError};
use super::join;
use super::join::service::{self, Systemctl};
use super::record::{Entry, Left, Record};
use super::{Paths, ResetArgs};
use crate::config::{Config, ConfigError, DEFAULT_RUNTIME_ENDPOINT, RuntimeEndpoint};
use crate::network::api::{Note, NoteError};
use crate::network::{conflist, iptables};
use crate::runtime::{Cri, Runtime};

/// How long the runtime may take to introduce itself: after a boot it has other things to do.
const PATIENCE: Duration = Duration::from_mins(1);

/// Leaves the cluster.
pub(super) async fn reset(args: &ResetArgs, paths: &Paths) -> anyhow::Result<()> {
    let site = Site {
        paths,
        systemctl: service::manager(paths),
        patience: PATIENCE,
    };
    if let Some(removal) = leave(args, site).await? {
        println!("     delete the node in the cluster with:");
        println!("     {removal}");
    }
    Ok(())
}

/// Where, and with what.
#[derive(Clone, Copy)]
struct Site<'a> {
    paths: &'a Paths,
    /// The machine's service manager, where there is one.
    systemctl: Option<&'a Systemctl<'a>>,
    /// How long the runtime may be silent.
    patience: Duration,
}

/// Gives back the command that removes the node in the cluster; nothing where the device had not joined.
async fn leave(args: &ResetArgs, site: Site<'_>) -> anyhow::Result<Option<String>> {
    let paths = site.paths;
    join::must_be_root(paths)?;
    let mut record = Record::open(&paths.record())?;
    if record.entries().is_empty() {
        println!("this device has not joined a cluster; nothing is to be removed");
        return Ok(None);
    }
    if !args.yes && !confirmed(&record)? {
        bail!("nothing was changed");
    }
    let runtime = match runtime(site).await {
        Err(error) if args.force => {
            println!("[!!] {error:#}");
            None
        }
        runtime => runtime?,
    };
    stop_service(&record, site).await?;
    remove_pods(args, runtime.as_ref(), &record, paths).await?;
    let had_service = has_service(&record);
    let name = Config::load(&paths.config()).ok().map(|config| config.node_name);
    let left = record.undo(0);
    if let Some(systemctl) = site.systemctl.filter(|_| had_service)
        && let Err(error) = service::forget(systemctl)
    {
        println!("[!!] {error:#}");
    }
    service::settle(paths);
    tell(&left)?;
    Ok(Some(removal(name.as_ref())))
}

/// The runtime that the configuration names.
async fn runtime(site: Site<'_>) -> anyhow::Result<Option<Cri>> {
    let endpoint = match Config::load(&site.paths.config()) {
        Ok(config) => config.runtime_endpoint,
        // An earlier reset came as far as that, when the pods were stopped.
        Err(ConfigError::NotJoined(_)) => RuntimeEndpoint::parse(DEFAULT_RUNTIME_ENDPOINT)?,
        Err(error) => {
            return Err(error).context(
                "which container runtime has the pods is not known, and nothing was changed: mend the \
                 configuration, or add --force",
            );
        }
    };
    pods::runtime(&endpoint, site.patience).await
}

async fn remove_pods(
    args: &ResetArgs,
    runtime: Option<&Cri>,
    record: &Record,
    paths: &Paths,
) -> anyhow::Result<()> {
    let mut troubles = Vec::new();
    // The agent takes it back where it ends by itself. The note goes with what else stands there.
    match Note::at(&paths.api_server()).take_back() {
        // Nobody could mend that, and a repeated reset would find no note.
        Err(error @ NoteError::Unread { .. }) => println!("[!!] {error}"),
        Err(error) => troubles.push(format!("{:#}", anyhow::Error::from(error))),
        Ok(()) => {}
    }
    let runtime = runtime.map(|runtime| runtime as &dyn Runtime);
    match pods::stop_all(runtime, paths, &mut troubles).await {
        Err(error) if args.force => troubles.push(format!("{error:#}")),
        stopped => stopped?,
    }
    if has_network(record) {
        pods::remove_network(paths, &mut troubles);
    }
    if paths.is_machine() {
        iptables::remove().await;
    }
    // Whoever has lost the configuration does not know whose cgroups these are.
    if paths.is_machine()
        && let Ok(config) = Config::load(&paths.config())
    {
        pods::remove_cgroups(&config.cgroup_root).await;
    }
    for trouble in &troubles {
        println!("[!!] {trouble}");
    }
    if !troubles.is_empty() && !args.force {
        bail!(
            "not everything of the pods is removed, and nothing of the node yet; its service is stopped\n\
             \x20 mend what is named above, and run this again\n\
             \x20 to leave that where it is: add --force"
        );
    }
    Ok(())
}

fn tell(left: &Left) -> anyhow::Result<()> {
    for kept in &left.kept {
        println!("     {kept}");
    }
    for trouble in &left.troubles {
        println!("[!!] {trouble}");
    }
    if !left.troubles.is_empty() {
        bail!("not everything that join wrote is removed; mend what is named above, and run this again");
    }
    println!("[ok] what join wrote is removed");
    Ok(())
}

/// What removes the node in the cluster. A reset that goes on where another stopped may not know the name any more.
fn removal(name: Option<&NodeName>) -> String {
    let name = name.map_or("NAME", NodeName::as_str);
    format!("kubectl -n tombolo-system exec deploy/cloudcore -- cloudcore node remove {name}")
}

fn has_service(record: &Record) -> bool {
    record
        .entries()
        .iter()
        .any(|entry| matches!(entry, Entry::Service { .. }))
}

/// Whether the pod network is the one that join wrote.
fn has_network(record: &Record) -> bool {
    record.named(conflist::FILE).is_some()
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
async fn stop_service(record: &Record, site: Site<'_>) -> anyhow::Result<()> {
    let paths = site.paths;
    if let Some(systemctl) = site.systemctl.filter(|_| has_service(record)) {
        service::disable(systemctl, &paths.unit())?;
        println!("[ok] the service edgecore is stopped");
    }
    match control::ask(&paths.control_socket()).await {
        Err(ControlError::NotRunning(_)) => Ok(()),
        _ => bail!("edgecore still runs, and not as the service that join installed: stop it first"),
    }
}

#[cfg(test)]
mod tests;
