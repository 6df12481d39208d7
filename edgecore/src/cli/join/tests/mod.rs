//! Joining a cloudcore of a few lines, below a scratch directory.

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

#[tokio::test]
async fn joining_again_changes_nothing_and_says_so() {
    let (device, cloud) = (Device::new("again"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    let key = std::fs::read(device.paths.key()).unwrap();
    device.join(&cloud, |_| {}).await.unwrap();
    assert_eq!(std::fs::read(device.paths.key()).unwrap(), key);
    assert_eq!(
        cloud.seen.lock().len(),
        1,
        "the second join did not ask the cluster"
    );
}

#[tokio::test]
async fn a_device_whose_certificate_has_ended_gets_another_for_the_key_that_it_has() {
    let (device, cloud) = (Device::new("ended"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    let files = [device.paths.key(), device.paths.config(), device.paths.record()];
    let before: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let pki = crate::identity::testing::Pki::new();
    let ended = pki.certificate(
        "pump-7",
        Clock::system().now() - std::time::Duration::from_secs(5),
    );
    std::fs::write(device.paths.certificate(), &ended).unwrap();

    device.join(&cloud, |_| {}).await.unwrap();
    assert_ne!(
        std::fs::read_to_string(device.paths.certificate()).unwrap(),
        ended
    );
    let after: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(before == after, "nothing but the certificate changed");
    let key = |csr: &String| protocol::join::NodeRequest::parse(csr).unwrap().key;
    let seen = cloud.seen.lock();
    assert_eq!(seen.len(), 2);
    assert_eq!(key(&seen[0]), key(&seen[1]));
}

#[tokio::test]
async fn a_device_whose_certificate_key_or_ca_the_disk_has_lost_joins_again_with_its_configuration() {
    for (lost, same_key) in [("node.crt", true), ("ca.crt", true), ("node.key", false)] {
        let (device, cloud) = (Device::new(lost), Cloud::saying(vec![Say::Yes]).await);
        device.join(&cloud, |_| {}).await.unwrap();
        let config = std::fs::read(device.paths.config()).unwrap();
        // What a file system check leaves of a file.
        std::fs::write(device.paths.pki().join(lost), [0; 900]).unwrap();

        device.join(&cloud, |_| {}).await.unwrap();
        device.paths.identity().read(&"pump-7".parse().unwrap()).unwrap();
        assert_eq!(std::fs::read(device.paths.config()).unwrap(), config, "{lost}");
        let key = |csr: &String| protocol::join::NodeRequest::parse(csr).unwrap().key;
        let seen = cloud.seen.lock();
        assert_eq!(
            (seen.len(), key(&seen[0]) == key(&seen[1])),
            (2, same_key),
            "{lost}"
        );
    }
}

#[tokio::test]
async fn a_device_that_was_removed_joins_again_with_the_key_that_it_has() {
    for code in [RefusalCode::NotEnrolled, RefusalCode::KeyDiffers] {
        let (device, cloud) = (Device::new("removed"), Cloud::saying(vec![Say::Yes]).await);
        device.join(&cloud, |_| {}).await.unwrap();
        let files = [device.paths.key(), device.paths.config(), device.paths.record()];
        let before: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        let certificate = std::fs::read(device.paths.certificate()).unwrap();
        *cloud.refuses.lock() = Some((code, "it was removed"));

        device.join(&cloud, |_| {}).await.unwrap();
        assert_ne!(std::fs::read(device.paths.certificate()).unwrap(), certificate);
        let after: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        assert!(before == after, "nothing but the certificate changed");
        let key = |csr: &String| protocol::join::NodeRequest::parse(csr).unwrap().key;
        let seen = cloud.seen.lock();
        assert_eq!(seen.len(), 2);
        assert_eq!(key(&seen[0]), key(&seen[1]));
    }
}

#[tokio::test]
async fn a_banned_device_hears_it_and_uses_no_token() {
    let (device, cloud) = (Device::new("banned"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    *cloud.refuses.lock() = Some((RefusalCode::Banned, "the key is banned; cloudcore node unban"));
    let told = device.refused(&cloud, |_| {}).await;
    assert!(told.contains("cloudcore node unban"), "{told}");
    assert_eq!(cloud.seen.lock().len(), 1);
}

#[tokio::test]
async fn whoever_cannot_ask_the_cluster_joins_again_without_an_error_and_changes_nothing() {
    let (device, cloud) = (Device::new("unasked"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    let certificate = std::fs::read(device.paths.certificate()).unwrap();
    *cloud.refuses.lock() = Some((RefusalCode::Busy, "later"));
    device.join(&cloud, |_| {}).await.unwrap();
    device
        .join(&cloud, |args| {
            args.addresses = vec!["127.0.0.1:1".parse().unwrap()];
        })
        .await
        .unwrap();
    assert_eq!(std::fs::read(device.paths.certificate()).unwrap(), certificate);
    assert_eq!(cloud.seen.lock().len(), 1);
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
async fn another_cluster_or_name_needs_a_word_from_the_operator() {
    let (device, cloud) = (Device::new("other"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    let other = Cloud::saying(vec![Say::Yes]).await;
    let told = device.refused(&other, |_| {}).await;
    assert!(
        told.contains("already joined a cluster as pump-7") && told.contains("--replace-cluster"),
        "{told}"
    );
    let told = device
        .refused(&cloud, |args| args.node_name = Some("pump-8".parse().unwrap()))
        .await;
    assert!(told.contains("edgecore reset"), "{told}");

    device
        .join(&other, |args| args.replace_cluster = true)
        .await
        .unwrap();
    assert!(device.paths.replace_cluster().exists());
    let config = Config::load(&device.paths.config()).unwrap();
    assert_eq!(config.addresses[0].to_string(), other.address.to_string());
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
    let seen = cloud.seen.lock().clone();
    let key = |csr: &str| protocol::join::NodeRequest::parse(csr).unwrap().key;
    assert_eq!(key(&seen[0]), key(&seen[1]));
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
