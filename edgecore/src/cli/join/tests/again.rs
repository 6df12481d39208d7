//! Joining a device that has joined before: what it keeps, and when the cluster is asked.

use super::*;

/// What a device keeps that gets another certificate.
fn kept(device: &Device) -> [Vec<u8>; 3] {
    let files = [device.paths.key(), device.paths.config(), device.paths.record()];
    files.map(|file| std::fs::read(file).unwrap())
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
async fn joining_again_with_other_settings_is_answered_with_what_did_not_count() {
    let (device, cloud) = (Device::new("settings"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    let config = std::fs::read(device.paths.config()).unwrap();
    let args = JoinArgs {
        addresses: vec!["moved.example".parse().unwrap()],
        token: Some(cloud.token.expose()),
        ..JoinArgs::default()
    };
    let Ok(Standing::Here { ignored, .. }) = plan::standing(&args, &device.paths, &Clock::system()) else {
        panic!("it has joined");
    };
    let told = ignored.told(&device.paths.config());
    assert!(told.len() == 1 && told[0].contains("ADDRESS"), "{told:?}");

    device
        .join(&cloud, |args| args.labels.push("site=north".to_owned()))
        .await
        .unwrap();
    assert_eq!(std::fs::read(device.paths.config()).unwrap(), config);
}

#[tokio::test]
async fn joining_again_renews_the_unit_of_an_earlier_version_and_restarts_nothing() {
    let (device, cloud) = (Device::with_systemd("unit"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    let unit = || std::fs::read_to_string(device.paths.unit()).unwrap();
    let own = unit();
    let moved = own.replace("ExecStart=", "ExecStart=/usr/bin/nice ");
    std::fs::write(
        device.paths.unit(),
        moved.replace("RequiresMountsFor=", "# RequiresMountsFor="),
    )
    .unwrap();
    device.systemd().asked.lock().clear();
    device.join(&cloud, |_| {}).await.unwrap();
    assert_eq!(unit(), moved, "what it starts is as it was");
    assert_eq!(
        *device.systemd().asked.lock(),
        ["is-enabled --quiet edgecore.service", "daemon-reload"]
    );
    let older = "[Service]\nExecStart=/opt/edgecore run\n";
    std::fs::write(device.paths.record(), "[]").unwrap();
    std::fs::write(device.paths.unit(), older).unwrap();
    device.join(&cloud, |_| {}).await.unwrap();
    assert_eq!(unit(), older, "somebody else installed it");
}

#[tokio::test]
async fn a_device_whose_certificate_has_ended_gets_another_for_the_key_that_it_has() {
    let (device, cloud) = (Device::new("ended"), Cloud::saying(vec![Say::Yes]).await);
    device.join(&cloud, |_| {}).await.unwrap();
    let before = kept(&device);
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
    assert!(before == kept(&device), "nothing but the certificate changed");
    assert_eq!(cloud.seen.lock().len(), 2);
    assert!(cloud.saw_one_key());
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
        assert_eq!(cloud.seen.lock().len(), 2, "{lost}");
        assert_eq!(cloud.saw_one_key(), same_key, "{lost}");
    }
}

#[tokio::test]
async fn a_device_that_was_removed_joins_again_with_the_key_that_it_has() {
    for code in [RefusalCode::NotEnrolled, RefusalCode::KeyDiffers] {
        let (device, cloud) = (Device::new("removed"), Cloud::saying(vec![Say::Yes]).await);
        device.join(&cloud, |_| {}).await.unwrap();
        let before = kept(&device);
        let certificate = std::fs::read(device.paths.certificate()).unwrap();
        *cloud.refuses.lock() = Some((code, "it was removed"));

        device.join(&cloud, |_| {}).await.unwrap();
        assert_ne!(std::fs::read(device.paths.certificate()).unwrap(), certificate);
        assert!(before == kept(&device), "nothing but the certificate changed");
        assert_eq!(cloud.seen.lock().len(), 2);
        assert!(cloud.saw_one_key());
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
