//! One who comes among many that say nothing, all from one address.

use std::time::Duration;

use protocol::transport::{CloseCode, TransportError};
use tokio::{net::TcpStream, time::sleep};

use super::{
    eventually,
    world::{Device, World},
};

/// As many connections as one source may have open that have proven nothing.
const PER_SOURCE: usize = 256;
/// Longer than one that has shown nothing keeps its place when others want it.
const PATIENCE: Duration = Duration::from_millis(2_200);

/// All the places but one are taken, and then more are wanted: those of the crowd make room for these.
async fn press(world: &World, more: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    while idle.len() < PER_SOURCE - 1 {
        idle.push(TcpStream::connect(world.address).await.unwrap());
    }
    eventually(|| world.view.half_open() == PER_SOURCE).await;
    sleep(PATIENCE).await;
    for _ in 0..more {
        idle.push(TcpStream::connect(world.address).await.unwrap());
    }
    idle
}

#[tokio::test]
async fn who_has_sent_its_request_makes_no_room_while_the_api_server_is_slow() {
    let world = World::start().await;
    let token = world.token(|_| {}).await;
    world.api.hold_reads(true);
    let device = Device::new("edge-1");
    let crowd = async {
        eventually(|| world.api.held() == 1).await;
        let idle = press(&world, 10).await;
        sleep(Duration::from_millis(100)).await;
        world.api.hold_reads(false);
        idle
    };
    let (joined, idle) = tokio::join!(device.enrol(world.address, &token), crowd);
    joined.unwrap().unwrap();
    drop(idle);
}

#[tokio::test]
async fn who_has_said_hello_makes_no_room_while_its_lease_is_taken() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    world.leases.hold(true);
    let crowd = async {
        eventually(|| world.leases.asked() == 1).await;
        let idle = press(&world, 10).await;
        sleep(Duration::from_millis(100)).await;
        world.leases.hold(false);
        idle
    };
    let (edge, idle) = tokio::join!(device.connect(world.address), crowd);
    drop((edge, idle));
}

#[tokio::test]
async fn who_has_shown_a_certificate_and_says_nothing_makes_room_as_anybody() {
    let world = World::start().await;
    let silent = world
        .device("edge-1")
        .await
        .try_link(world.address)
        .await
        .unwrap();
    let idle = press(&world, 1).await;
    let told = silent.closed().await;
    let TransportError::ClosedByPeer { code, .. } = told else {
        panic!("{told}")
    };
    assert_eq!(code, CloseCode::Done, "it was not waited for its Hello");
    drop(idle);
}
