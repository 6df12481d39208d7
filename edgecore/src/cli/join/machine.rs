//! What the machine has: the right user, a runtime, a network for pods.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::plan::Plan;
use super::{Paths, step, warn};
use crate::config::PodCidr;
use crate::network::{conflist, routes};
use crate::runtime::{Cri, Runtime as _};

/// How long the runtime may take to introduce itself.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where plugins are when the runtime does not say: upstream's place and Debian's.
pub(in crate::cli) const PLUGIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Whose the pod network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// Ours.
    Ours {
        /// The file to write.
        file: PathBuf,
        /// Where the runtime has its plugins, as far as it says so.
        plugin_dirs: Vec<PathBuf>,
    },
    /// Someone else's.
    Foreign,
}

/// Keys, mounts and services are root's.
pub(in crate::cli) fn must_be_root(paths: &Paths) -> anyhow::Result<()> {
    if paths.is_machine() && !nix::unistd::geteuid().is_root() {
        bail!("edgecore must be root for this: try sudo");
    }
    Ok(())
}

/// Looks at the machine before anything is asked of the cluster.
pub(super) async fn look(plan: &Plan, paths: &Paths) -> anyhow::Result<Network> {
    let told = ask_runtime(plan).await;
    let (conf_dir, plugin_dirs) = conflist::directories(told.as_deref().unwrap_or_default());
    let dir = paths.at(conf_dir.unwrap_or_else(|| PathBuf::from(conflist::DEFAULT_CONF_DIR)));
    let found =
        conflist::look(&dir).with_context(|| format!("the network configurations in {}", dir.display()))?;
    if let conflist::Found::Foreign(file) | conflist::Found::Before(file) = found {
        step(&format!(
            "pods use the network that is configured in {}; it is left alone",
            file.display()
        ));
        return Ok(Network::Foreign);
    }
    must_be_free(plan.config.pod_cidr)?;
    let file = dir.join(conflist::FILE);
    Ok(Network::Ours { file, plugin_dirs })
}

/// The runtime's own configuration, when it is up. A device may join before its runtime runs.
async fn ask_runtime(plan: &Plan) -> Option<String> {
    let endpoint = &plan.config.runtime_endpoint;
    let cri = Cri::new(&endpoint.to_string()).ok()?;
    let asked = timeout(PATIENCE, async {
        Ok::<_, crate::runtime::RuntimeError>((cri.version().await?, cri.status(true).await?))
    });
    let why = match asked.await {
        Ok(Ok((version, mut status))) => {
            step(&format!(
                "the container runtime is {} {}",
                version.runtime_name, version.runtime_version
            ));
            return status.info.remove("config");
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    warn(&format!("no container runtime answers at {endpoint} ({why})"));
    warn(
        "the node will join, and wait for it: install one (apt install containerd), start it, or name its \
          socket with --runtime-endpoint",
    );
    None
}

fn must_be_free(range: PodCidr) -> anyhow::Result<()> {
    let routes = routes::read("/proc".as_ref()).context("the routes of this machine")?;
    if let Some(route) = routes::collision(&routes, range, conflist::BRIDGE) {
        bail!(
            "the pod range {range} overlaps the route {} of {}: pods could not reach that network; \
             choose another with --pod-cidr",
            route.to,
            route.device
        );
    }
    Ok(())
}
