//! Who may speak to the broker, and for whom: the shipped settings, and TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use edgecore::devices::mqtt::Mqtt;
use edgecore::devices::{Clue, Observation, Origin, Report, Seen};
use protocol::devices::DeviceName;
use tokio::time::sleep;

use crate::broker::Broker;
use crate::twins::Fake;
use crate::{Bridge, LAMP, pki, update};

/// The shipped settings, with these users and on this port.
pub(crate) fn shipped(port: u16, dir: &Path, users: &[&str]) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/mosquitto");
    let passwords = dir.join("passwords");
    std::fs::write(&passwords, "").unwrap();
    for user in users {
        let mut command = std::process::Command::new("mosquitto_passwd");
        command.arg("-b").arg(&passwords).args([user, "secret"]);
        assert!(command.status().unwrap().success());
    }
    let rules = shipped.join("tombolo.acl").display().to_string();
    std::fs::read_to_string(shipped.join("tombolo.conf"))
        .unwrap()
        .replace("listener 1883 127.0.0.1", &format!("listener {port} 127.0.0.1"))
        .replace("listener 1883 10.86.0.1", &format!("listener {port} 127.0.0.2"))
        .replace(
            "/etc/mosquitto/tombolo.passwords",
            &passwords.display().to_string(),
        )
        .replace("/etc/mosquitto/tombolo.acl", &rules)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_settings_let_a_device_speak_for_itself_alone() {
    let mut credentials = PathBuf::new();
    let broker = Broker::with(|port, dir| {
        credentials = dir.join("broker");
        pki::private(&credentials, "username: edgecore\npassword: secret\n");
        shipped(port, dir, &["edgecore", "device/lamp", "device/pump"])
    })
    .await;
    let twins = Fake::with(&["device/lamp", "device/pump"]);
    let bridge = Bridge::start_as(broker.port, &twins, Some(credentials)).await;
    let user = |name: &'static str| ["-u", name, "-P", "secret"];
    // Its own name alone is among what a reader of everything hears.
    let mut lamp = broker.subscribe("$hw/#", &user("device/lamp")).await;
    assert!(
        !broker
            .try_publish(&format!("{LAMP}/twin/update"), b"{}", &[])
            .await,
        "anonymous"
    );
    let words = user("device/pump");
    for (topic, mark) in [
        (format!("{LAMP}/twin/update"), "foreign"),
        (format!("{LAMP}/twin/update/result"), "forged"),
        ("$hw/events/device/device/pump/twin/update".to_owned(), "own"),
    ] {
        broker
            .try_publish(&topic, update(mark, mark).as_bytes(), &words)
            .await;
    }
    bridge.until(|counted| counted.messages_in >= 1).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(twins.journal(), ["own"]);
    assert!(lamp.is_silent().await);
    twins.say(Report {
        device: DeviceName::new("device", "lamp"),
        seen: vec![Seen {
            property: "power".to_owned(),
            observation: Observation::Value("ON".to_owned()),
            clue: Clue::default(),
        }],
        event_id: "r".to_owned(),
        origin: Origin::Mapper,
    });
    assert_eq!(lamp.next_of("/twin/update/document").await["event_id"], "r");
    bridge.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_both_ends_show_certificates() {
    let mut credentials = PathBuf::new();
    let broker = Broker::with(|port, dir| {
        credentials = pki::write(dir);
        let file = |name: &str| dir.join(name).display().to_string();
        format!(
            "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
             use_identity_as_username true\n",
            file("ca.pem"),
            file("broker.pem"),
            file("broker.key")
        )
    })
    .await;
    let twins = Fake::with(&["device/lamp"]);
    let mut config = Mqtt::default();
    config.address.host = "localhost".to_owned();
    config.address.port = broker.port;
    config.address.tls = true;
    // Whom to trust is known, but without a certificate of its own the node is not let in.
    let alone = credentials.with_file_name("alone");
    let all = std::fs::read_to_string(&credentials).unwrap();
    pki::private(&alone, all.lines().next().unwrap());
    config.credentials = Some(alone);
    let without = Bridge::begin(config.clone(), &twins);
    sleep(Duration::from_secs(1)).await;
    assert!(!without.counters.read().connected);
    without.kill().await;
    config.credentials = Some(credentials);
    let bridge = Bridge::begin(config, &twins);
    bridge.until(|counted| counted.connected).await;
}
