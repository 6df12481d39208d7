//! An edge machine: a device that can reach cloudcore's port and nothing else.

use std::{fs, net::SocketAddrV4, time::Duration};

use anyhow::{Context, Result};

use crate::{
    cache::Cache,
    cloudcore::NODE_PORT,
    cluster_node::IMAGES,
    command::run_within,
    containerd,
    machine::{Cable, Machine, Reach, Service, disk::Disk},
    testbed::Testbed,
};

/// Signed seconds that the programs add to the system's clock.
const OFFSET_VARIABLE: &str = "TOMBOLO_TEST_CLOCK_OFFSET";

/// What edgecore's `eviction` says so that no device judges the disk that it shares with the host.
pub const DISK_IGNORED: &str = "nodefs.available: disabled, nodefs.inodesFree: disabled, \
                                imagefs.available: disabled, imagefs.inodesFree: disabled";

/// A device.
#[derive(Debug)]
pub struct EdgeMachine {
    /// The machine under it.
    pub machine: Machine,
    testbed: Parts,
}

/// What an edge machine needs of its testbed after it was built.
#[derive(Clone, Debug)]
struct Parts {
    cache: Cache,
    programs: crate::programs::Programs,
    /// Where cloudcore is dialled.
    cloudcore: SocketAddrV4,
}

/// In what a device may differ from others.
#[derive(Clone, Debug)]
pub struct Outfit {
    /// Its programs.
    pub cache: Cache,
    /// The one port that it can reach.
    pub cloudcore: SocketAddrV4,
    /// A disk of its own; without one it shares the host's.
    pub disk: Option<Disk>,
}

impl Outfit {
    /// The newest programs, and cloudcore's port on the cluster's node.
    pub fn usual(testbed: &Testbed) -> Self {
        Self {
            cache: testbed.cache.clone(),
            cloudcore: SocketAddrV4::new(testbed.node.machine.address(), NODE_PORT),
            disk: None,
        }
    }
}

impl EdgeMachine {
    /// Builds and boots a device with containerd and the images, but not yet a node.
    pub async fn start(testbed: &Testbed, name: &str) -> Result<Self> {
        Self::start_with(testbed, name, Outfit::usual(testbed)).await
    }

    /// The same for a device that is not as others.
    pub async fn start_with(testbed: &Testbed, name: &str, outfit: Outfit) -> Result<Self> {
        let Outfit {
            cache,
            cloudcore,
            disk,
        } = outfit;
        let machine = Machine::build_with(name, &testbed.ground, &testbed.network, disk)?;
        containerd::install(&machine, &cache)?;
        let reach = Reach::OnePort(*cloudcore.ip(), cloudcore.port());
        machine.restrict(reach).await?;
        machine.boot(Cable::Plugged).await?;
        containerd::ready(&machine, &cache).await?;
        for image in IMAGES {
            containerd::import(&machine, &cache, &cache.image(image)?).await?;
        }
        let parts = Parts {
            cache,
            programs: testbed.programs.clone(),
            cloudcore,
        };
        Ok(Self {
            machine,
            testbed: parts,
        })
    }

    /// Lets UDP through to cloudcore's port, or drops it.
    pub async fn let_udp_through(&self, through: bool) -> Result<()> {
        let reach = if through {
            Reach::OnePort
        } else {
            Reach::OneTcpPort
        };
        let cloudcore = self.testbed.cloudcore;
        self.machine
            .restrict(reach(*cloudcore.ip(), cloudcore.port()))
            .await
    }

    /// `edgecore join`, and nothing after it.
    pub async fn enrol(&self, token: &str, words: &[&str]) -> Result<String> {
        self.enrol_at(0, token, words).await
    }

    /// The same with a clock that is some seconds ahead, or behind when they are negative.
    pub async fn enrol_at(&self, offset: i64, token: &str, words: &[&str]) -> Result<String> {
        let mut command = self.machine.command(&self.testbed.programs.edgecore)?;
        command
            .env("TOMBOLO_TOKEN", token)
            .env(OFFSET_VARIABLE, offset.to_string())
            .args(["join", &self.testbed.cloudcore.to_string()]);
        command
            .args(["--cgroup-root", self.machine.cgroup().path()])
            .args(words);
        let said = run_within(Duration::from_mins(1), command)
            .await
            .with_context(|| format!("on machine {}", self.machine.name()))?;
        self.ignore_the_hosts_disk()?;
        Ok(said)
    }

    /// How full the host's disk is is not the testbed's to judge: a Node under pressure takes no pods.
    fn ignore_the_hosts_disk(&self) -> Result<()> {
        self.configure("image_gc_high_percent", "100")?;
        self.configure("eviction", &format!("{{{DISK_IGNORED}}}"))
    }

    /// Sets a key of edgecore's configuration, for its next start; the value stands on one line.
    pub fn configure(&self, key: &str, value: &str) -> Result<()> {
        let path = self.machine.file("/etc/tombolo/edgecore.yaml");
        let config = fs::read_to_string(&path)?;
        let others = config
            .lines()
            .filter(|line| !line.starts_with(&format!("{key}:")));
        let mut lines: Vec<_> = others.map(str::to_owned).collect();
        lines.extend([format!("{key}: {value}"), String::new()]);
        fs::write(&path, lines.join("\n"))?;
        Ok(())
    }

    /// `edgecore join`, and `edgecore run` as a service from then on.
    pub async fn join(&self, token: &str, words: &[&str]) -> Result<String> {
        let said = self.enrol(token, words).await?;
        self.install_service()?;
        Ok(said)
    }

    /// Makes `edgecore run` a service, as the unit that join writes does where systemd runs.
    pub fn install_service(&self) -> Result<()> {
        self.install_service_at(0)
    }

    /// The same with a clock that is some seconds ahead, or behind when they are negative.
    pub fn install_service_at(&self, offset: i64) -> Result<()> {
        let service = Service::new("edgecore", &self.testbed.programs.edgecore, ["run"])
            .with_env("PATH", containerd::path(&self.testbed.cache))
            .with_env(OFFSET_VARIABLE, offset.to_string());
        self.machine.install(service)
    }

    /// Runs edgecore with other words, such as `status`.
    pub async fn edgecore(&self, words: &[&str]) -> Result<String> {
        let mut command = self.machine.command(&self.testbed.programs.edgecore)?;
        command.args(words);
        run_within(Duration::from_mins(1), command).await
    }

    /// The running containers of pods whose name in the pod is `container`.
    pub async fn running(&self, container: &str) -> Result<Vec<String>> {
        containerd::running_named(&self.machine, &self.testbed.cache, container).await
    }

    /// All containers of pods whose name in the pod is `container`, ended ones too.
    pub async fn containers(&self, container: &str) -> Result<Vec<String>> {
        containerd::named(&self.machine, &self.testbed.cache, container).await
    }

    /// The running containers of that name in the pod with that UID.
    pub async fn running_of(&self, uid: &str, container: &str) -> Result<Vec<String>> {
        let (mut running, of_pod) = (self.running(container).await?, self.of_pod(uid).await?);
        running.retain(|id| of_pod.contains(id));
        Ok(running)
    }

    /// Every container and sandbox of the pod with that UID.
    pub async fn of_pod(&self, uid: &str) -> Result<Vec<String>> {
        containerd::labelled(&self.machine, &self.testbed.cache, ("io.kubernetes.pod.uid", uid)).await
    }

    /// Runs `ctr` of the device's containerd, for the images and containers of pods.
    pub async fn ctr(&self, words: &[&str]) -> Result<String> {
        containerd::ctr(&self.machine, &self.testbed.cache, words).await
    }

    /// Waits until containerd answers, as after a boot.
    pub async fn runtime_ready(&self) -> Result<()> {
        containerd::ready(&self.machine, &self.testbed.cache).await
    }

    /// What a web server in a pod of this device answers, asked on the device.
    pub async fn fetch(&self, url: &str) -> Result<String> {
        self.machine
            .shell(&format!("curl --silent --show-error --fail --max-time 3 {url}"))
            .await
    }
}
