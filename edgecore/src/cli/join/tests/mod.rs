//! Joining a cloudcore of a few lines, below a scratch directory.

mod again;
mod cloud;
mod cut_short;
mod systemd;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use cloud::{Cloud, Say};
use protocol::join::RefusalCode;
use systemd::Systemd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::Config;

struct Device {
    root: PathBuf,
    paths: Paths,
    /// What systemd was asked, where it runs.
    systemd: Option<Systemd>,
    program: PathBuf,
}

impl Device {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("tombolo-join-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        Self {
            paths: Paths::below(root.clone()),
            root,
            systemd: None,
            program: PathBuf::from("/usr/local/bin/edgecore"),
        }
    }

    fn with_systemd(name: &str) -> Self {
        let mut device = Self::new(name);
        device.systemd = Some(Systemd::default());
        device
    }

    fn systemd(&self) -> &Systemd {
        self.systemd.as_ref().unwrap()
    }

    async fn join(&self, cloud: &Cloud, change: impl FnOnce(&mut JoinArgs)) -> anyhow::Result<()> {
        let mut args = JoinArgs {
            addresses: vec![cloud.address.to_string().parse()?],
            token: Some(cloud.token.expose()),
            node_name: Some("pump-7".parse()?),
            runtime_endpoint: Some(crate::config::RuntimeEndpoint::parse("/nowhere/runtime.sock")?),
            pod_cidr: Some("10.254.253.0/24".parse()?),
            ..JoinArgs::default()
        };
        change(&mut args);
        let systemctl = |args: &[&str]| self.systemd().ask(args);
        let site = Site {
            paths: &self.paths,
            clock: &Clock::system(),
            systemctl: self.systemd.is_some().then_some(&systemctl as &Systemctl<'_>),
            program: &self.program,
        };
        join_at(args, site).await
    }

    async fn refused(&self, cloud: &Cloud, change: impl FnOnce(&mut JoinArgs)) -> String {
        format!("{:#}", self.join(cloud, change).await.unwrap_err())
    }

    fn is_bare(&self) -> bool {
        std::fs::read_dir(&self.root).unwrap().next().is_none()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[tokio::test]
async fn a_bare_device_joins_and_what_was_written_can_be_taken_back() {
    let (device, cloud) = (Device::new("bare"), Cloud::saying(vec![Say::Yes]).await);
    device
        .join(&cloud, |args| args.labels.push("site=north".to_owned()))
        .await
        .unwrap();

    let config = Config::load(&device.paths.config()).unwrap();
    assert_eq!(
        (config.node_name.as_str(), config.labels["site"].as_str()),
        ("pump-7", "north")
    );
    for secret in [
        device.paths.key(),
        device.paths.certificate(),
        device.paths.authority(),
        device.paths.config(),
    ] {
        let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", secret.display());
    }
    let network = std::fs::read_to_string(device.paths.at("/etc/cni/net.d/90-tombolo.conflist")).unwrap();
    assert!(network.contains("10.254.253.0/24"));
    assert!(!device.paths.pki().join("pending.key").exists());

    let mut record = Record::open(&device.paths.record()).unwrap();
    assert_eq!(record.undo(0), crate::cli::record::Left::default());
    assert!(device.is_bare());
}

/// An HTTP proxy that leads one connection to `cloud`, and gives back the head of its request.
async fn proxy(listener: TcpListener, cloud: std::net::SocketAddr) -> String {
    let (mut near, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.unwrap());
    }
    near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let mut far = tokio::net::TcpStream::connect(cloud).await.unwrap();
    tokio::io::copy_bidirectional(&mut near, &mut far).await.unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_device_behind_a_proxy_joins_through_it_and_keeps_it() {
    let (device, cloud) = (Device::new("proxy"), Cloud::saying(vec![Say::Yes]).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:geheim@{}", listener.local_addr().unwrap());
    let join = device.join(&cloud, |args| {
        args.addresses = vec!["cloud.invalid:10000".parse().unwrap()];
        args.proxy = Some(url.clone());
    });
    let (joined, head) = tokio::join!(join, proxy(listener, cloud.address));
    joined.unwrap();
    assert!(
        head.starts_with("CONNECT cloud.invalid:10000 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("Basic dXNlcjpnZWhlaW0="), "{head}");
    let config = Config::load(&device.paths.config()).unwrap();
    assert_eq!(config.proxy, Some(url.parse().unwrap()));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words_and_leaves_nothing_behind() {
    let no = Say::No(RefusalCode::TokenExpired, "token abc ended 2 h ago; make another");
    let (device, cloud) = (Device::new("refused"), Cloud::saying(vec![no]).await);
    let told = device.refused(&cloud, |_| {}).await;
    assert_eq!(
        told,
        "cloudcore refused to enrol this device: token abc ended 2 h ago; make another"
    );
    assert!(device.is_bare());
}

#[tokio::test]
async fn a_cluster_with_another_ca_than_the_tokens_gets_nothing() {
    let (device, cloud) = (Device::new("pin"), Cloud::saying(vec![Say::Yes]).await);
    let other = Cloud::saying(vec![Say::Yes]).await;
    let told = device
        .refused(&cloud, |args| args.token = Some(other.token.expose()))
        .await;
    assert!(told.contains("not the one that the join token names"), "{told}");
    assert!(cloud.seen.lock().is_empty() && device.is_bare());
}

#[tokio::test]
async fn every_address_that_does_not_work_is_told_with_its_reason() {
    let (device, cloud) = (Device::new("addresses"), Cloud::saying(vec![Say::Yes]).await);
    let closed = "127.0.0.1:1".parse().unwrap();
    let unknown = "no-such-host.invalid".parse().unwrap();
    let told = device
        .refused(&cloud, |args| args.addresses = vec![closed, unknown])
        .await;
    assert!(
        told.contains("127.0.0.1:1: 127.0.0.1:1: Connection refused"),
        "{told}"
    );
    assert!(
        told.contains("no-such-host.invalid:10000: the name is not found"),
        "{told}"
    );
    assert!(device.is_bare());

    let closed = "127.0.0.1:1".parse().unwrap();
    device
        .join(&cloud, |args| args.addresses.insert(0, closed))
        .await
        .unwrap();
}

#[tokio::test]
async fn after_a_lost_answer_the_same_key_tries_again() {
    let (device, cloud) = (
        Device::new("lost"),
        Cloud::saying(vec![Say::Nothing, Say::Yes]).await,
    );
    let told = device.refused(&cloud, |_| {}).await;
    assert!(told.contains("run the same command again"), "{told}");
    assert!(!device.paths.config().exists());
    device.join(&cloud, |_| {}).await.unwrap();
    assert_eq!(cloud.seen.lock().len(), 2);
    assert!(cloud.saw_one_key());
}

#[tokio::test]
async fn a_busy_cloudcore_is_asked_again() {
    let busy = Say::No(RefusalCode::Busy, "too many devices at once");
    let (device, cloud) = (Device::new("busy"), Cloud::saying(vec![busy, Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    assert_eq!(cloud.seen.lock().len(), 2);
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let (device, cloud) = (
        Device::new("somebody"),
        Cloud::saying(vec![Say::AnotherName]).await,
    );
    let told = device.refused(&cloud, |_| {}).await;
    assert!(told.contains("cannot be used"), "{told}");
    assert!(!device.paths.config().exists());
}

#[tokio::test]
async fn a_clock_that_is_behind_the_clusters_does_not_keep_a_device_out() {
    let (device, cloud) = (Device::new("clock"), Cloud::saying(vec![Say::LateClock]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    assert!(device.paths.config().exists());
}

#[tokio::test]
async fn a_clock_past_the_certificates_end_is_named() {
    let (device, cloud) = (Device::new("ahead"), Cloud::saying(vec![Say::Yes]).await);
    let args = JoinArgs {
        addresses: vec![cloud.address.to_string().parse().unwrap()],
        token: Some(cloud.token.expose()),
        node_name: Some("pump-7".parse().unwrap()),
        pod_cidr: Some("10.254.253.0/24".parse().unwrap()),
        ..JoinArgs::default()
    };
    let far = Clock::with_offset(4000 * 365 * 24 * 3600);
    let told = format!("{:#}", join(args, &device.paths, &far).await.unwrap_err());
    assert!(told.contains("clock"), "{told}");
}

#[tokio::test]
async fn a_network_that_someone_configured_is_left_alone() {
    let (device, cloud) = (Device::new("cni"), Cloud::saying(vec![Say::Yes]).await);
    let dir = device.paths.at("/etc/cni/net.d");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("10-calico.conflist"), "{}").unwrap();
    device.join(&cloud, |_| {}).await.unwrap();
    let names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["10-calico.conflist"]);
}

#[tokio::test]
async fn a_pod_range_that_a_route_uses_is_refused_before_anything_is_sent() {
    let (device, cloud) = (Device::new("route"), Cloud::saying(vec![Say::Yes]).await);
    let routes = crate::network::routes::read("/proc".as_ref()).unwrap();
    let Some(used) = routes.iter().find(|route| !route.to.is_everything()) else {
        return assert!(
            routes.iter().all(|route| route.to.is_everything()),
            "a machine without a network"
        );
    };
    let (range, device_name) = (used.to, used.device.clone());
    let told = device.refused(&cloud, |args| args.pod_cidr = Some(range)).await;
    assert!(
        told.contains(&device_name) || told.contains("pod range"),
        "{told}"
    );
    assert!(cloud.seen.lock().is_empty() && device.is_bare());
}
