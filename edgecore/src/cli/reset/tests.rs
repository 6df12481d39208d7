//! Leaving a cluster from a scratch directory, with a runtime and a service manager that misbehave.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;
use tokio::net::UnixListener;

use super::*;
use crate::network::addresses;
use crate::network::testing::in_a_namespace;

struct Device {
    root: PathBuf,
    paths: Paths,
    /// What systemd was asked.
    asked: Mutex<Vec<String>>,
}

impl Device {
    /// A device that has joined.
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("tombolo-leave-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let paths = Paths::below(root.clone());
        let mut record = Record::open(&paths.record()).unwrap();
        record.directory(&paths.config_dir(), 0o755).unwrap();
        record.directory(&paths.pki(), 0o700).unwrap();
        record.file(&paths.key(), b"key", 0o600).unwrap();
        record.tree(&paths.state_dir(), 0o700).unwrap();
        let mut config = Config::new("pump-7".parse().unwrap(), vec!["cloud.invalid".parse().unwrap()]);
        let socket = root.join("runtime.sock").display().to_string();
        config.runtime_endpoint = RuntimeEndpoint::parse(&socket).unwrap();
        record
            .file(&paths.config(), config.to_yaml().as_bytes(), 0o600)
            .unwrap();
        record.service(&paths.unit(), b"[Unit]\n").unwrap();
        Self {
            root,
            paths,
            asked: Mutex::default(),
        }
    }

    async fn reset(&self, force: bool) -> anyhow::Result<Option<String>> {
        let systemctl = |args: &[&str]| {
            self.asked.lock().push(args.join(" "));
            Ok(())
        };
        let site = Site {
            paths: &self.paths,
            systemctl: Some(&systemctl),
            patience: Duration::from_millis(300),
        };
        leave(&ResetArgs { yes: true, force }, site).await
    }

    fn is_whole(&self) -> bool {
        self.paths.key().exists() && self.paths.record().exists() && self.paths.unit().exists()
    }

    fn is_bare(&self) -> bool {
        !self.paths.at("etc").exists() && !self.paths.state_dir().exists()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[tokio::test]
async fn a_device_without_a_runtime_leaves_and_leaves_nothing() {
    let device = Device::new("plain");
    let removal = device.reset(false).await.unwrap().unwrap();
    assert!(removal.ends_with("cloudcore node remove pump-7"), "{removal}");
    assert!(device.is_bare());
    let asked = device.asked.lock().clone();
    assert_eq!(asked, ["disable --now edgecore.service", "daemon-reload"]);
}

/// Runs in a network namespace of its own, started by the test below.
#[tokio::test]
#[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
async fn after_an_agent_that_was_killed() {
    let device = Device::new("killed");
    let address = "10.96.0.1".parse().unwrap();
    crate::network::netlink::add(address).unwrap();
    fs::create_dir_all(device.paths.run_dir()).unwrap();
    fs::write(device.paths.api_server(), "10.96.0.1:443\n").unwrap();
    device.reset(false).await.unwrap();
    assert!(device.is_bare() && !device.paths.run_dir().exists());
    assert!(!addresses::has(address).unwrap());
}

#[test]
fn the_api_server_s_address_goes_from_the_loopback_device_after_a_kill_too() {
    in_a_namespace("cli::reset::tests::after_an_agent_that_was_killed");
}

#[tokio::test]
async fn a_note_that_names_no_address_does_not_keep_the_device_in_the_cluster() {
    let device = Device::new("garbled");
    fs::create_dir_all(device.paths.run_dir()).unwrap();
    fs::write(device.paths.api_server(), "10.96").unwrap();
    device.reset(false).await.unwrap();
    assert!(device.is_bare() && !device.paths.run_dir().exists());
}

#[tokio::test]
async fn while_the_runtime_is_silent_nothing_is_touched_unless_that_is_said() {
    let device = Device::new("silent");
    let _listening = UnixListener::bind(device.root.join("runtime.sock")).unwrap();
    let told = format!("{:#}", device.reset(false).await.unwrap_err());
    assert!(
        told.contains("does not answer") && told.contains("--force"),
        "{told}"
    );
    assert!(device.is_whole() && device.asked.lock().is_empty());
    device.reset(true).await.unwrap();
    assert!(device.is_bare());
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_does_not_hide_the_runtime() {
    let device = Device::new("unread");
    fs::write(device.paths.config(), "node_name: [").unwrap();
    let told = format!("{:#}", device.reset(false).await.unwrap_err());
    assert!(told.contains("mend the configuration"), "{told}");
    assert!(device.is_whole());
    device.reset(true).await.unwrap();
    assert!(device.is_bare());
}

#[tokio::test]
async fn a_reset_that_was_cut_short_is_finished_by_the_next() {
    let device = Device::new("cut");
    fs::remove_file(device.paths.unit()).unwrap();
    fs::remove_file(device.paths.config()).unwrap();
    let removal = device.reset(false).await.unwrap().unwrap();
    assert!(removal.ends_with("cloudcore node remove NAME"), "{removal}");
    assert!(device.is_bare());
    let asked = device.asked.lock().clone();
    let expected = [
        "stop edgecore.service",
        "disable edgecore.service",
        "daemon-reload",
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_reset_that_left_something_fails_and_can_be_repeated() {
    let device = Device::new("left");
    fs::remove_file(device.paths.key()).unwrap();
    fs::create_dir_all(device.paths.key().join("in the way")).unwrap();
    let told = device.reset(false).await.unwrap_err().to_string();
    assert!(
        told.contains("not everything that join wrote is removed"),
        "{told}"
    );
    assert!(!device.paths.config().exists());
    fs::remove_dir_all(device.paths.key()).unwrap();
    device.reset(false).await.unwrap();
    assert!(device.is_bare());
}

#[tokio::test]
async fn a_volume_that_cannot_be_unmounted_stops_the_reset_and_the_sites_files_outlive_it() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let device = Device::new("busy");
    // The kubelet's directory behind a link, as on devices with a partition for data.
    let (site, volume) = (
        device.root.join("data/recipes"),
        device.root.join("data/kubelet/pods/a/v"),
    );
    for dir in [&site, &volume, &device.root.join("var/lib")] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(site.join("line7"), "precious").unwrap();
    symlink(device.root.join("data/kubelet"), device.paths.kubelet_dir()).unwrap();
    mount(Some(&site), &volume, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let busy = fs::File::open(volume.join("line7")).unwrap();

    let told = device.reset(false).await.unwrap_err().to_string();
    assert!(told.contains("nothing of the node yet"), "{told}");
    assert!(device.is_whole());
    drop(busy);
    device.reset(false).await.unwrap();
    assert!(device.is_bare());
    assert_eq!(fs::read(site.join("line7")).unwrap(), b"precious");
    let _ = umount2(&volume, MntFlags::MNT_DETACH);
    assert!(!device.root.join("data/kubelet/pods").exists());
}
