//! One testbed: a control plane, an ordinary node, and as many edge machines as a test asks for.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, ServiceAccount},
};
use kube::{Api, Client};

use crate::{
    cache::Cache,
    cluster_node::ClusterNode,
    command,
    control_plane::{Age, ControlPlane, Patience, Style},
    ground::Ground,
    network::Network,
    programs::Programs,
    wait::{Look, until},
};

/// Everything that runs; dropping it tears all of it down.
pub struct Testbed {
    /// The cluster's ordinary node.
    pub node: ClusterNode,
    /// The control plane.
    pub plane: ControlPlane,
    /// The machines' network.
    pub network: Arc<Network>,
    /// Where binaries and images are.
    pub cache: Cache,
    /// The programs under test.
    pub programs: Programs,
    /// Last, so that it is dropped last.
    pub ground: Arc<Ground>,
}

impl Testbed {
    /// Starts the control plane and one ordinary node, `w1`, and waits until it is Ready.
    pub async fn start(patience: Patience) -> Result<Self> {
        let age = Age::New;
        Self::start_as(Style { patience, age }).await
    }

    /// The same with a control plane that is older.
    pub async fn start_old() -> Result<Self> {
        let (patience, age) = (Patience::Default, Age::Old);
        Self::start_as(Style { patience, age }).await
    }

    async fn start_as(style: Style) -> Result<Self> {
        let (cache, programs) = (Cache::open()?, Programs::find()?);
        let ground = Arc::new(Ground::take()?);
        let built = Self::build(cache, programs, &ground, style).await;
        if built.is_err() {
            ground.keep_logs();
        }
        built
    }

    async fn build(cache: Cache, programs: Programs, ground: &Arc<Ground>, style: Style) -> Result<Self> {
        let network = Arc::new(Network::lay(ground.clone())?);
        let plane = ControlPlane::start(ground, &network, &cache, style).await?;
        let node = ClusterNode::start("w1", (ground, &network), (&plane, &cache)).await?;
        node.ready(&plane).await?;
        default_account(&plane.client()).await?;
        Ok(Self {
            node,
            plane,
            network,
            cache,
            programs,
            ground: ground.clone(),
        })
    }

    /// An administrator's client.
    pub fn client(&self) -> Client {
        self.plane.client()
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl<S: AsRef<std::ffi::OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let mut command = tokio::process::Command::new(self.cache.program("kubectl")?);
        command
            .env("KUBECONFIG", self.plane.admin_kubeconfig())
            .args(words);
        command::run_within(Duration::from_mins(2), command).await
    }

    /// Applies a file or a directory of manifests.
    pub async fn apply(&self, path: &Path) -> Result<String> {
        self.kubectl([Path::new("apply"), Path::new("-f"), path]).await
    }
}

/// Pods are refused until the controllers have made their namespace's service account.
async fn default_account(client: &Client) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let look = || async {
        accounts
            .get("default")
            .await
            .map(|_| Look::Done(()))
            .map_err(Into::into)
    };
    until("the default service account", Duration::from_mins(1), look).await
}

/// Waits until a node is Ready.
pub async fn node_ready(client: &Client, name: &str, limit: Duration) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    until(&format!("node {name} Ready"), limit, || async {
        let node = nodes.get(name).await?;
        let ready = condition(&node, "Ready");
        Ok(Look::when(ready.starts_with("True"), || ready.clone()))
    })
    .await
}

/// Waits until a node is Ready and its lease was renewed after now: what the API server showed
/// before a cut is not proof that the link is back.
pub async fn node_back(client: &Client, name: &str, limit: Duration) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let start = jiff::Timestamp::now();
    until(&format!("a renewed lease of node {name}"), limit, || async {
        let renewed = leases.get(name).await?.spec.and_then(|spec| spec.renew_time);
        let fresh = renewed.as_ref().is_some_and(|time| time.0 > start);
        Ok(Look::when(fresh, || format!("last renewed {renewed:?}")))
    })
    .await?;
    node_ready(client, name, limit).await
}

/// A node's condition as `status (reason: message)`.
pub fn condition(node: &Node, kind: &str) -> String {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map_or_else(
            || format!("no condition {kind}"),
            |c| {
                let (reason, message) = (
                    c.reason.as_deref().unwrap_or(""),
                    c.message.as_deref().unwrap_or(""),
                );
                format!("{} ({reason}: {message})", c.status)
            },
        )
}
