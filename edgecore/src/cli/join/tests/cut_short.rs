//! Joins that were cut short after the configuration, or failed before it.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;

use futures::FutureExt as _;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::cli::record::testing;

impl Device {
    /// Holds that the device is whole, this cluster's, and can leave without a trace.
    fn has_joined(&self, cloud: &Cloud, replaced: bool) {
        let (paths, systemd) = (&self.paths, self.systemd());
        let config = Config::load(&paths.config()).unwrap();
        assert_eq!(config.addresses[0].to_string(), cloud.address.to_string());
        let held = paths.identity().read(&config.node_name).unwrap();
        assert_eq!(Sha256::digest(&held.authority).as_slice(), cloud.token.pin);
        assert_eq!(paths.replace_cluster().exists(), replaced);
        assert!(!finish::pending_key(paths).exists());
        assert!(paths.unit().exists() && systemd.is_enabled.load(Ordering::Relaxed));
        let left = Record::open(&paths.record()).unwrap().undo(0);
        assert_eq!(left.troubles, Vec::<String>::new());
        // An empty directory may be left: it is noted once it is there.
        assert!(holds_no_file(&self.root));
    }
}

fn holds_no_file(dir: &Path) -> bool {
    let mut entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.all(|path| path.is_dir() && holds_no_file(&path))
}

#[tokio::test]
async fn joining_again_does_what_the_last_join_was_kept_from() {
    let (device, cloud) = (Device::with_systemd("cut"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    // As after a power cut behind the configuration.
    std::fs::remove_file(device.paths.unit()).unwrap();
    device.systemd().is_enabled.store(false, Ordering::Relaxed);
    std::fs::write(finish::pending_key(&device.paths), "key").unwrap();
    device.systemd().asked.lock().clear();

    device.join(&cloud, |args| args.no_service = true).await.unwrap();
    assert!(!finish::pending_key(&device.paths).exists());
    assert!(!device.paths.unit().exists() && device.systemd().asked.lock().is_empty());
    device.join(&cloud, |_| {}).await.unwrap();
    assert!(device.paths.unit().exists() && device.systemd().is_enabled.load(Ordering::Relaxed));
    assert_eq!(
        device.systemd().asked.lock().last().unwrap(),
        "enable edgecore.service"
    );
    device.systemd().asked.lock().clear();
    device.join(&cloud, |_| {}).await.unwrap();
    assert_eq!(
        *device.systemd().asked.lock(),
        ["is-enabled --quiet edgecore.service"]
    );
    assert_eq!(cloud.seen.lock().len(), 1, "the cluster was asked once");
}

#[tokio::test]
async fn a_service_that_does_not_start_is_a_failure_that_the_same_command_mends() {
    let (device, cloud) = (Device::with_systemd("down"), Cloud::saying(vec![Say::Yes]).await);
    device.systemd().is_down.store(true, Ordering::Relaxed);
    let told = device.refused(&cloud, |_| {}).await;
    assert!(
        told.contains("has joined, but its service did not start"),
        "{told}"
    );
    assert!(device.paths.config().exists());
    device.systemd().is_down.store(false, Ordering::Relaxed);
    device.join(&cloud, |_| {}).await.unwrap();
    assert!(device.systemd().is_enabled.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_service_that_was_not_restarted_is_not_taken_for_one_with_nothing_left_to_do() {
    let (device, cloud) = (Device::with_systemd("job"), Cloud::saying(vec![Say::Yes]).await);
    *device.systemd().refuses.lock() = Some("restart");
    let told = device.refused(&cloud, |_| {}).await;
    assert!(told.contains("run the same command again"), "{told}");
    *device.systemd().refuses.lock() = None;
    device.systemd().asked.lock().clear();
    device.join(&cloud, |_| {}).await.unwrap();
    let asked = device.systemd().asked.lock().clone();
    assert!(
        asked.contains(&"restart edgecore.service".to_owned()),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_join_that_was_killed_at_any_step_is_finished_by_the_same_command() {
    killed_at_any_step("killed", false).await;
}

#[tokio::test]
async fn a_cluster_that_was_replaced_half_is_replaced_by_the_same_command() {
    killed_at_any_step("replaced", true).await;
}

/// Kills a join at its first step, another device's at its second, and so on; has each joined by the same command.
async fn killed_at_any_step(name: &str, replaces: bool) {
    let same = |args: &mut JoinArgs| args.replace_cluster = replaces;
    for nth in 0.. {
        let device = Device::with_systemd(&format!("{name}{nth}"));
        if replaces {
            let old = Cloud::saying(vec![Say::Yes]).await;
            device.join(&old, |_| {}).await.unwrap();
        }
        let cloud = Cloud::saying(vec![Say::YesToOneKey]).await;
        testing::cut_after(nth);
        let ended = AssertUnwindSafe(device.join(&cloud, same)).catch_unwind().await;
        testing::restore();
        if let Ok(whole) = ended {
            whole.unwrap();
            assert!(nth > 10, "it takes more than {nth} steps");
            return;
        }
        device.join(&cloud, same).await.unwrap();
        device.has_joined(&cloud, replaces);
    }
}

#[tokio::test]
async fn a_cluster_is_replaced_also_where_the_configuration_is_broken_or_lost() {
    for (name, text) in [("broken", Some("node_name: [")), ("lost", None)] {
        let (device, cloud) = (Device::new(name), Cloud::saying(vec![Say::Yes]).await);
        device.join(&cloud, |_| {}).await.unwrap();
        match text {
            Some(text) => std::fs::write(device.paths.config(), text).unwrap(),
            None => std::fs::remove_file(device.paths.config()).unwrap(),
        }
        let other = Cloud::saying(vec![Say::Yes]).await;
        device
            .join(&other, |args| args.replace_cluster = true)
            .await
            .unwrap();
        // Without it the store would refuse the new cluster.
        assert!(device.paths.replace_cluster().exists(), "{name}");
    }
}

#[tokio::test]
async fn replacing_a_cluster_twice_keeps_the_key_that_the_token_was_used_with() {
    let (device, old) = (Device::new("twice"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&old, |_| {}).await.unwrap();
    let cloud = Cloud::saying(vec![Say::YesToOneKey]).await;
    let replace = |args: &mut JoinArgs| args.replace_cluster = true;
    device.join(&cloud, replace).await.unwrap();
    let key = std::fs::read(device.paths.key()).unwrap();
    device.join(&cloud, replace).await.unwrap();
    assert_eq!(std::fs::read(device.paths.key()).unwrap(), key);
    // Under another name the key is another device's to the cluster.
    let told = device
        .refused(&cloud, |args| {
            args.replace_cluster = true;
            args.node_name = Some("pump-8".parse().unwrap());
        })
        .await;
    assert!(told.contains("was used"), "{told}");
}

#[tokio::test]
async fn a_program_that_the_next_boot_may_not_find_is_refused_before_the_cluster_is_asked() {
    let (mut device, cloud) = (Device::with_systemd("place"), Cloud::saying(vec![Say::Yes]).await);
    device.program = PathBuf::from("/media/usb/edgecore");
    let told = device.refused(&cloud, |_| {}).await;
    assert!(told.contains("install -m 755 /media/usb/edgecore"), "{told}");
    assert!(cloud.seen.lock().is_empty() && device.is_bare());
    device.join(&cloud, |args| args.no_service = true).await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_could_not_be_replaced_is_still_this_devices() {
    let (device, cloud) = (Device::new("half"), Cloud::saying(vec![Say::Yes]).await);
    let other = Cloud::saying(vec![Say::Yes]).await;
    device.join(&cloud, |_| {}).await.unwrap();
    let paths = &device.paths;
    let network = paths.at("/etc/cni/net.d/90-tombolo.conflist");
    let files = [
        paths.key(),
        paths.certificate(),
        paths.authority(),
        paths.config(),
        network,
    ];
    let read = || files.clone().map(|file| std::fs::read(file).unwrap());
    let before = read();
    // The mark is the last that is written; here it cannot be.
    std::fs::create_dir_all(paths.replace_cluster().join("in the way")).unwrap();
    let replace = |args: &mut JoinArgs| {
        args.replace_cluster = true;
        args.pod_cidr = Some("10.254.252.0/24".parse().unwrap());
    };
    let told = device.refused(&other, replace).await;
    assert!(told.contains("replace-cluster"), "{told}");
    assert!(read() == before, "everything is as it was");
    assert!(!finish::pending_key(paths).exists());

    std::fs::remove_dir_all(paths.replace_cluster()).unwrap();
    let mut record = Record::open(&paths.record()).unwrap();
    assert_eq!(record.undo(0), crate::cli::record::Left::default());
    assert!(device.is_bare());
}

#[tokio::test]
async fn the_old_clusters_pods_are_not_forgotten_before_the_new_one_has_the_device() {
    let (device, cloud) = (Device::new("mark"), Cloud::saying(vec![Say::Yes]).await);
    let other = Cloud::saying(vec![Say::Yes]).await;
    device.join(&cloud, |_| {}).await.unwrap();
    let key = std::fs::read(device.paths.key()).unwrap();
    let network = device.paths.at("/etc/cni/net.d/90-tombolo.conflist");
    std::fs::remove_file(&network).unwrap();
    std::fs::create_dir_all(network.join("in the way")).unwrap();
    device.refused(&other, |args| args.replace_cluster = true).await;
    assert!(!device.paths.replace_cluster().exists());
    assert_eq!(std::fs::read(device.paths.key()).unwrap(), key);
}
