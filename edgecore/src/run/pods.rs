//! The pods' task: waits for the runtime, learns what depends on it, and runs the manager.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Parts;
use super::address::LastAddress;
use super::reports::PodReports;
use crate::node::{address, capacity, observe};
use crate::pods::cgroups::{CgroupDriver, CgroupLayout, Cgroups, driver};
use crate::pods::images::PullRecords;
use crate::pods::manager::{self, Manager};
use crate::pods::resolver::Resolver;
use crate::pods::spec::NodeFacts;
use crate::pods::volumes::Volumes;
use crate::pods::volumes::tokens::{ApiTokens, StoredTokens, TokenCache};
use crate::supervise::BoxError;

/// How often a node that waits for its runtime says that it is well.
const WAITING: Duration = Duration::from_secs(1);
/// How long it may take to say what it can do.
const ABILITIES: Duration = Duration::from_secs(20);
/// How often the device's name servers are looked at.
const NAME_SERVERS: Duration = Duration::from_mins(1);

/// Runs the pods until `stop`.
pub(super) async fn run(parts: &Arc<Parts>, stop: CancellationToken) -> Result<(), BoxError> {
    let driver = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        driver = driver(parts) => driver,
    };
    let mut last = last_address(parts).await;
    let facts = Arc::new(facts(parts, driver));
    let resolver = facts.resolver.clone();
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = learn_abilities(parts) => {}
    }
    let cgroups = Cgroups::detect(facts.cgroups.clone())
        .inspect_err(|error| tracing::error!(%error, "pods get no cgroups of their own"))
        .ok()
        .map(Arc::new);
    let link = Arc::new(parts.link.clone());
    let clock = parts.clock.clone();
    let tokens = TokenCache::open(
        Arc::new(ApiTokens::new(link)),
        Arc::new(StoredTokens::new(parts.stores.meta.clone())),
        Arc::new(move || clock.now()),
    );
    let objects = Arc::new(parts.desired.clone());
    let manager = Manager::new(manager::Parts {
        runtime: Arc::clone(&parts.runtime),
        source: Arc::clone(&objects) as _,
        objects: Arc::clone(&objects) as _,
        report: Arc::new(PodReports {
            reporter: Arc::clone(&parts.reporter),
            flow: Arc::clone(&parts.flow),
            frost: parts.stores.frost.clone(),
        }),
        volumes: Volumes::new(Arc::clone(&facts), objects, Arc::new(tokens.await)),
        pulls: PullRecords::open(parts.stores.meta.clone()).await,
        cgroups,
        facts,
        link_dir: parts.paths.log_links(),
        parallel_starts: parallel_starts(),
        image_gc_high_percent: parts.config.image_gc_high_percent,
        eviction: parts.config.eviction,
        load: Arc::new({
            let (root, pods) = (parts.paths.at("/"), parts.paths.kubelet_dir().join("pods"));
            let images = parts.images.clone();
            move || observe::load(&root, &pods, images.dir())
        }),
        clock: parts.clock.clone(),
    });
    tokio::select! {
        () = manager.counting(parts.progress.clone()).run(stop) => {}
        () = last.follow(&parts.host_ip) => {}
        () = keep_name_servers(&resolver) => {}
    }
    last.keep(parts.host_ip.last()).await;
    Ok(())
}

/// Has the resolver keep the device's name servers, also of those that come after the pods; for ever.
async fn keep_name_servers(resolver: &Resolver) {
    let mut look = tokio::time::interval(NAME_SERVERS);
    loop {
        look.tick().await;
        resolver.read();
    }
}

/// A burst is bound by CPU: about two starts a core.
fn parallel_starts() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get() * 2)
}

/// The runtime's cgroup driver, once it answers.
async fn driver(parts: &Parts) -> CgroupDriver {
    let mut beat = tokio::time::interval(WAITING);
    let mut answer = std::pin::pin!(driver::agreed(&*parts.runtime, parts.config.cgroup_driver));
    loop {
        tokio::select! {
            driver = &mut answer => return driver,
            _ = beat.tick() => parts.progress.step(),
        }
    }
}

/// Asks the runtime what it can do, before the first pod is judged: one that needs what the runtime is not
/// known to do fails for ever. Later the node's report keeps it fresh. A runtime that does not tell holds up
/// no pods for long.
async fn learn_abilities(parts: &Parts) {
    let asked = async {
        loop {
            match observe::runtime(&*parts.runtime).await {
                Ok(seen) => {
                    parts.abilities.learn(seen.known());
                    let images = &parts.images;
                    return images.learn(&*parts.runtime, &parts.paths.kubelet_dir()).await;
                }
                Err(error) => tracing::warn!(%error, "the runtime does not say what it can do"),
            }
            parts.progress.step();
            tokio::time::sleep(WAITING).await;
        }
    };
    if tokio::time::timeout(ABILITIES, asked).await.is_err() {
        tracing::warn!("the pods start without knowing what the runtime can do");
    }
}

/// What pods are told of the device's address: the last known one where there is no network now. From here on
/// the node's report keeps it fresh.
async fn last_address(parts: &Parts) -> LastAddress {
    let last = LastAddress::load(parts.stores.meta.clone()).await;
    parts.host_ip.learn(address::of_device(parts.peers()()).await);
    if parts.host_ip.last().is_none() {
        parts.host_ip.learn(last.kept());
    }
    last
}

fn facts(parts: &Parts, driver: CgroupDriver) -> NodeFacts {
    let paths = &parts.paths;
    let machine = observe::machine(&paths.at("/"));
    let disk = observe::disk(&paths.kubelet_dir().join("pods"));
    NodeFacts {
        node_name: parts.config.node_name.to_string(),
        host_ip: parts.host_ip.clone(),
        root_dir: paths.kubelet_dir(),
        log_dir: paths.pod_logs(),
        hosts_file: PathBuf::from("/etc/hosts"),
        resolver: Resolver::new(parts.config.resolv_conf.as_deref(), |path| paths.at(path))
            .keeping(paths.state_dir().join("resolv.conf")),
        cluster_dns: parts.config.cluster_dns.clone(),
        cluster_domain: parts.config.cluster_domain.clone(),
        cgroups: CgroupLayout::new(&parts.config.cgroup_root, driver),
        memory_capacity: machine.memory,
        huge_page_sizes: machine.huge_pages.iter().map(|(size, _)| *size).collect(),
        kernel: observe::kernel_numbers(&machine.kernel_version),
        app_armor: observe::app_armor(&paths.at("/")),
        selinux: observe::selinux(&paths.at("/")),
        abilities: parts.abilities.clone(),
        pressures: parts.pressures.clone(),
        allocatable: capacity::allocatable(&machine, disk, parts.config.max_pods),
    }
}
