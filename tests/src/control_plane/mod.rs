//! The control plane: etcd, the API server, the controllers and the scheduler, on the host.
//!
//! They serve on the bridge's address, so that the Service `kubernetes` works from pods. The Node
//! authorizer and `NodeRestriction` are on.

mod daemon;
mod flags;
pub mod kubeconfig;
pub mod pki;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use parking_lot::Mutex;
use serde_json::Value;

use self::{daemon::Daemon, pki::Authority};
use crate::{
    audit::Audit,
    cache::Cache,
    ground::Ground,
    network::Network,
    wait::{Look, until},
};

/// How soon the controllers lose patience with a silent node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Kubernetes' own defaults: 50 s until a node is Unknown, 300 s until its pods are evicted.
    Default,
    /// 16 s and [`SHORT_TOLERATION`], so that a test need not wait.
    Short,
}

/// What the control plane has to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// The newest programs as they are by default.
    New,
    /// Debian's etcd, with which there are no streaming lists, and an API server with classic
    /// impersonation alone.
    Old,
}

/// In what a control plane may differ from others.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// With silent nodes.
    pub patience: Patience,
    /// Of its programs.
    pub age: Age,
}

/// What admission lets every pod tolerate of a node that is gone, with [`Patience::Short`].
pub const SHORT_TOLERATION: Duration = Duration::from_secs(30);

/// A running control plane.
pub struct ControlPlane {
    ground: Arc<Ground>,
    dir: PathBuf,
    server: String,
    authority: Authority,
    client: kube::Client,
    daemons: Mutex<Vec<Daemon>>,
}

impl ControlPlane {
    /// Starts everything and returns when the API server is ready.
    pub async fn start(ground: &Arc<Ground>, network: &Network, cache: &Cache, style: Style) -> Result<Self> {
        let dir = ground.dir().join("control-plane");
        fs::create_dir_all(&dir)?;
        let server = format!("https://{}:{}", network.host(), flags::API_PORT);
        let authority = write_certificates(&dir, network)?;
        write_kubeconfigs(&dir, &server, &authority)?;
        fs::write(dir.join("audit-policy.json"), flags::AUDIT_POLICY)?;

        let cache = match style.age {
            Age::New => cache.clone(),
            Age::Old => cache.older()?,
        };
        let start = |name: &str, args| Daemon::start(ground, &cache, name, args);
        let etcd = start("etcd", flags::etcd(network, &dir, style.age))?;
        let api = start("kube-apiserver", flags::api_server(network, &dir, style))?;
        let client = client(&dir.join("admin.kubeconfig")).await?;
        let daemons = Mutex::new(vec![etcd, api]);
        let plane = Self {
            ground: ground.clone(),
            dir,
            server,
            authority,
            client,
            daemons,
        };
        plane.wait_ready().await?;
        let controllers = start(
            "kube-controller-manager",
            flags::controllers(network, &plane.dir, style.patience),
        )?;
        let scheduler = start("kube-scheduler", flags::scheduler(network, &plane.dir))?;
        plane.daemons.lock().extend([controllers, scheduler]);
        Ok(plane)
    }

    async fn wait_ready(&self) -> Result<()> {
        let what = "the API server";
        until(what, Duration::from_mins(1), || async {
            if let Err(error) = self.check() {
                return Ok(Look::Hopeless(error));
            }
            let request = http::Request::get("/readyz").body(Vec::new())?;
            self.client.request_text(request).await?;
            Ok(Look::Done(()))
        })
        .await
        .with_context(|| format!("its log is {}", self.ground.log("kube-apiserver").display()))
    }

    /// An error when one of the programs has ended.
    pub fn check(&self) -> Result<()> {
        self.daemons.lock().iter_mut().try_for_each(Daemon::check)
    }

    /// Lets the programs have only the processor that nobody else on the machine wants, or their share
    /// again: what a node takes is seen as if they ran somewhere else. A busy machine starves them.
    pub fn step_aside(&self, aside: bool) -> Result<()> {
        let daemons = self.daemons.lock();
        daemons.iter().try_for_each(|daemon| daemon.step_aside(aside))
    }

    /// An administrator's client.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// The API server's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The cluster's CA certificate, as a file.
    pub fn authority_file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A kubeconfig for a user and its groups.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<Value> {
        let identity = self.authority.client(user, groups)?;
        Ok(kubeconfig::kubeconfig(
            &self.server,
            &self.authority.identity.certificate,
            &identity,
        ))
    }

    /// What the API server has recorded.
    pub fn audit(&self) -> Audit {
        Audit::at(self.dir.join("audit.log"))
    }

    /// `kill -9` of the API server, which stays down.
    pub fn kill_api_server(&self) -> Result<()> {
        let mut daemons = self.daemons.lock();
        daemons.get_mut(1).context("no API server")?.kill()
    }

    /// Starts it again as it was, and returns when it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let started = {
            let mut daemons = self.daemons.lock();
            let api = daemons.get_mut(1).context("no API server")?;
            api.restart(&self.ground)
        };
        started?;
        self.wait_ready().await
    }
}

fn write_certificates(dir: &Path, network: &Network) -> Result<Authority> {
    let authority = Authority::new("testbed")?;
    authority.identity.save(dir, "ca")?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let addresses = [network.host(), network.kubernetes_service()];
    authority
        .server("kube-apiserver", &addresses, &names)?
        .save(dir, "apiserver")?;
    authority
        .client("kube-apiserver-kubelet-client", &["system:masters"])?
        .save(dir, "kubelet-client")?;
    let accounts = rcgen::KeyPair::generate()?;
    fs::write(dir.join("service-accounts.key"), accounts.serialize_pem())?;
    fs::write(dir.join("service-accounts.pub"), accounts.public_key_pem())?;
    Ok(authority)
}

fn write_kubeconfigs(dir: &Path, server: &str, authority: &Authority) -> Result<()> {
    let users: [(&str, &str, &[&str]); 3] = [
        ("admin", "admin", &["system:masters"]),
        ("controllers", "system:kube-controller-manager", &[]),
        ("scheduler", "system:kube-scheduler", &[]),
    ];
    for (file, user, groups) in users {
        let identity = authority.client(user, groups)?;
        let config = kubeconfig::kubeconfig(server, &authority.identity.certificate, &identity);
        kubeconfig::save(&dir.join(format!("{file}.kubeconfig")), &config)?;
    }
    Ok(())
}

async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    // Nothing stands between the host and a testbed on it, whatever $HTTPS_PROXY says.
    config.proxy_url = None;
    Ok(kube::Client::try_from(config)?)
}
