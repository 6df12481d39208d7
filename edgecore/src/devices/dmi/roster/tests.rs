//! Who may register, and what it is told.

use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tonic::Code;

use super::super::rows::tests::MemoryRows;
use super::super::testing::{FakeTwins, device, model};
use super::*;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tombolo-roster-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn info(protocol: &str, address: &str) -> dmi::MapperInfo {
    dmi::MapperInfo {
        protocol: protocol.to_owned(),
        address: address.as_bytes().to_vec(),
        name: "m".to_owned(),
        ..Default::default()
    }
}

async fn register(
    roster: &mut Roster,
    mapper: dmi::MapperInfo,
) -> Result<dmi::MapperRegisterResponse, Status> {
    let (reply, answer) = oneshot::channel();
    let registering = Registering {
        mapper,
        with_data: true,
        reply,
    };
    roster.register(registering).await;
    answer.await.unwrap()
}

async fn roster(rows: &MemoryRows, devices: usize) -> Roster {
    let twins = Arc::new(FakeTwins::default());
    for number in 0..devices {
        let mut device = device(&format!("s{number}"), 502);
        device["spec"]["protocol"]["configData"]["text"] = "x".repeat(4096).into();
        twins.put(&device, Some(&model(90)));
    }
    Roster::load(twins, Arc::new(rows.clone())).await.unwrap()
}

#[tokio::test]
async fn a_second_mapper_of_a_protocol_is_refused_while_the_first_ones_socket_answers() {
    let place = Place::new("second");
    let mut roster = roster(&MemoryRows::default(), 1).await;
    let (first, second) = (place.socket("1"), place.socket("2"));
    let listening = UnixListener::bind(&first).unwrap();
    let told = register(&mut roster, info("modbus", &first)).await.unwrap();
    assert_eq!((told.device_list.len(), told.model_list.len()), (1, 1));

    let refused = register(&mut roster, info("modbus", &second)).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    // The first one may register again, and another protocol is another's.
    register(&mut roster, info("modbus", &first)).await.unwrap();
    let other = register(&mut roster, info("opcua", &second)).await.unwrap();
    assert!(other.device_list.is_empty());

    drop(listening);
    register(&mut roster, info("modbus", &second)).await.unwrap();
    assert_eq!(
        roster.mappers["modbus"].registration.address,
        PathBuf::from(&second)
    );
}

#[tokio::test]
async fn a_registration_outlives_a_restart_and_the_newest_one_counts() {
    let rows = MemoryRows::default();
    let mut before = roster(&rows, 2).await;
    register(&mut before, info("modbus", "/nowhere/1")).await.unwrap();
    register(&mut before, info("modbus", "unix:///nowhere/2"))
        .await
        .unwrap();
    drop(before);
    let after = roster(&rows, 2).await;
    assert_eq!(after.mappers.len(), 1);
    assert_eq!(
        after.mappers["modbus"].registration.address,
        PathBuf::from("/nowhere/2")
    );
}

#[tokio::test]
async fn what_no_mapper_can_be_is_refused() {
    let mut roster = roster(&MemoryRows::default(), 0).await;
    let long = "x".repeat(300);
    for (protocol, address) in [
        ("", "/run/m.sock"),
        (long.as_str(), "/run/m.sock"),
        ("tombolo/modbus", "/run/m.sock"),
        ("modbus", ""),
        ("modbus", "m.sock"),
    ] {
        let refused = register(&mut roster, info(protocol, address)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{protocol:?} {address:?}");
    }
    for number in 0..MAPPERS {
        register(&mut roster, info(&format!("p{number}"), "/nowhere/m"))
            .await
            .unwrap();
    }
    let refused = register(&mut roster, info("one more", "/nowhere/m"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn the_answer_is_what_a_mapper_can_receive_and_the_rest_is_called() {
    let rows = MemoryRows::default();
    let mut roster = roster(&rows, 1000).await;
    let started = tokio::time::Instant::now();
    let told = register(&mut roster, info("modbus", "/nowhere/m")).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(told.encoded_len() < 4 << 20 && (500..1000).contains(&told.device_list.len()));
    let (_, accepted) = &rows::load(&rows).await.unwrap()[0];
    assert_eq!(accepted.devices.len(), told.device_list.len());
}

#[tokio::test]
async fn one_that_does_not_wait_for_the_answer_is_not_registered() {
    let mut roster = roster(&MemoryRows::default(), 1).await;
    let (reply, answer) = oneshot::channel();
    drop(answer);
    let registering = Registering {
        mapper: info("modbus", "/nowhere/m"),
        with_data: true,
        reply,
    };
    roster.register(registering).await;
    assert!(roster.mappers.is_empty());
}
