//! Joins that were cut short after the configuration, or failed before it.

use std::sync::atomic::Ordering;

use super::*;

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
        "restart edgecore.service"
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
