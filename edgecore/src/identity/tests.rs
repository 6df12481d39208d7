//! A node's certificate on the disk, in use, and replaced.

use std::fs;
use std::path::PathBuf;

use super::testing::Pki;
use super::*;

const DAY: Duration = Duration::from_hours(24);

/// A device's directory with key, certificate and CA.
struct Device {
    dir: PathBuf,
    pki: Pki,
    clock: Clock,
    identity: Identity,
}

impl Device {
    fn new(name: &str, life: Duration) -> Self {
        let dir = std::env::temp_dir().join(format!("tombolo-identity-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let (pki, clock) = (Pki::new(), Clock::system());
        let files = files(&dir);
        fs::write(&files.key, pki.key.serialize_pem()).unwrap();
        fs::write(&files.authority, pki.authority_pem()).unwrap();
        fs::write(&files.certificate, pki.certificate("pump-7", clock.now() + life)).unwrap();
        let identity = Identity::open("pump-7".parse().unwrap(), files, clock.clone()).unwrap();
        Self {
            dir,
            pki,
            clock,
            identity,
        }
    }

    fn after(&self, span: Duration) -> String {
        self.pki.certificate("pump-7", self.clock.now() + span)
    }

    fn on_disk(&self) -> String {
        fs::read_to_string(files(&self.dir).certificate).unwrap()
    }

    fn put(&self, certificate: &str) {
        fs::write(files(&self.dir).certificate, certificate).unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn files(dir: &std::path::Path) -> Files {
    Files {
        key: dir.join("node.key"),
        certificate: dir.join("node.crt"),
        authority: dir.join("ca.crt"),
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_on_the_disk_and_used_from_the_next_dial() {
    let device = Device::new("renewed", 30 * DAY);
    device.identity.told(60 * DAY);
    let request = device.identity.ask().expect("it is time");
    let request = protocol::join::NodeRequest::parse(&request).unwrap();
    assert_eq!(request.node.as_str(), "pump-7");
    assert!(device.identity.ask().is_none(), "asked once");

    let new = device.after(180 * DAY);
    device.identity.renewed(&new).await.unwrap();
    assert_eq!(device.on_disk(), new);
    assert!(
        !device.dir.join("node.crt.new").exists(),
        "nothing half is left beside it"
    );
    let held = device.identity.current().await.unwrap();
    assert!(held.ends > device.clock.now() + 179 * DAY);
    assert!(device.identity.view().renews.unwrap() > device.clock.now() + 100 * DAY);
}

#[tokio::test]
async fn what_does_not_fit_is_not_kept_and_the_old_one_stays_in_use() {
    let device = Device::new("unfit", 30 * DAY);
    let before = device.on_disk();
    let far = device.clock.now() + 300 * DAY;
    let other_key = rcgen::KeyPair::generate().unwrap();
    for bad in [
        String::new(),
        "no certificate".to_owned(),
        before[..before.len() / 2].to_owned(),
        "x".repeat(1 << 20),
        device.pki.certificate("pump-8", far),
        device.pki.certificate_for(&other_key, "pump-7", far),
        Pki::new().certificate_for(&device.pki.key, "pump-7", far),
    ] {
        device.identity.renewed(&bad).await.unwrap_err();
        assert_eq!(device.on_disk(), before);
        let view = device.identity.view();
        assert!(view.trouble.unwrap().contains("was not kept") && view.ends.unwrap() < far);
    }
    device.identity.renewed(&device.after(99 * DAY)).await.unwrap();
    assert_eq!(device.identity.view().trouble, None);
}

#[tokio::test]
async fn a_certificate_that_is_replaced_on_the_disk_is_taken_up_and_half_of_one_is_not() {
    let device = Device::new("replaced", 30 * DAY);
    let before = device.identity.current().await.unwrap();
    let new = device.after(90 * DAY);
    device.put(&new[..new.len() / 2]);
    assert_eq!(device.identity.current().await.unwrap().ends, before.ends);
    device.put(&new);
    assert!(device.identity.current().await.unwrap().ends > before.ends);
    device.put(&device.pki.certificate("pump-8", device.clock.now() + 400 * DAY));
    assert!(device.identity.current().await.unwrap().ends < device.clock.now() + 91 * DAY);
    fs::remove_file(files(&device.dir).certificate).unwrap();
    assert!(
        device.identity.current().await.unwrap().ends > before.ends,
        "from memory"
    );
}

#[tokio::test]
async fn a_node_starts_with_a_certificate_of_another_ca_and_takes_up_its_own_when_it_comes() {
    let device = Device::new("foreign", 30 * DAY);
    let foreign = Pki::new();
    let ends = device.clock.now() + 9 * DAY;
    device.put(&foreign.certificate_for(&device.pki.key, "pump-7", ends));
    let name = "pump-7".parse().unwrap();
    let identity = Identity::open(name, files(&device.dir), device.clock.clone()).unwrap();
    assert!(identity.current().await.unwrap().ends <= ends);
    device.put(&device.after(60 * DAY));
    assert!(identity.current().await.unwrap().ends > ends);
}

#[tokio::test]
async fn a_node_starts_without_a_certificate_and_takes_one_up_when_it_comes() {
    let device = Device::new("zeroed", 30 * DAY);
    let good = device.on_disk();
    device.put(&"\0".repeat(900));
    let name = "pump-7".parse().unwrap();
    let identity = Identity::at_start(name, files(&device.dir), device.clock.clone());
    assert!(identity.current().await.is_err() && identity.ask().is_none() && !identity.has_ended());
    let view = identity.view();
    assert!(view.ends.is_none() && view.trouble.is_some(), "{view:?}");
    device.put(&good);
    assert!(identity.current().await.is_ok());
    let view = identity.view();
    assert!(view.ends.is_some() && view.trouble.is_none(), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_cannot_be_written_is_used_and_written_later() {
    let device = Device::new("unwritten", 30 * DAY);
    let before = device.on_disk();
    // Where the new file would be made.
    let place = device.dir.join("node.crt.new");
    fs::create_dir_all(place.join("in the way")).unwrap();
    let new = device.after(180 * DAY);
    device.identity.renewed(&new).await.unwrap();
    for _ in 0..2 {
        let current = device.identity.current().await.unwrap();
        assert!(current.ends > device.clock.now() + 179 * DAY);
    }
    assert_eq!(device.on_disk(), before);
    let why = device.identity.view().unwritten.unwrap();
    assert!(why.contains("node.crt"), "{why}");

    fs::remove_dir_all(&place).unwrap();
    device.identity.current().await.unwrap();
    assert_eq!(device.on_disk(), before, "not at each dial");
    tokio::time::advance(WRITE_AGAIN).await;
    device.identity.current().await.unwrap();
    assert_eq!(device.on_disk(), new);
    assert_eq!(device.identity.view().unwritten, None);
}

#[tokio::test]
async fn a_certificate_ends_by_this_machines_clock_or_by_clouds() {
    let device = Device::new("ended", 30 * DAY);
    assert!(!device.identity.has_ended());
    device.identity.refused_as_ended();
    assert!(device.identity.has_ended(), "this machine's clock is behind");
    device.identity.renewed(&device.after(60 * DAY)).await.unwrap();
    assert!(!device.identity.has_ended());
    device.clock.saw_server_time(device.clock.now() + 61 * DAY);
    assert!(device.identity.has_ended());
}

#[tokio::test]
async fn a_refusal_is_remembered_and_asked_again_later() {
    let device = Device::new("refused", DAY);
    device.identity.told(2 * DAY);
    assert!(device.identity.ask().is_some());
    device.identity.not_renewed("banned".to_owned(), None);
    let view = device.identity.view();
    assert_eq!(view.trouble.as_deref(), Some("banned"));
    assert!(view.renews.unwrap() > device.clock.now());
    assert!(device.identity.ask().is_none());
    device
        .clock
        .saw_server_time(device.clock.now() + Duration::from_hours(1));
    assert!(device.identity.ask().is_some());
}
