//! One who joins among many that say nothing, all from one address.

use std::time::Duration;

use tokio::{net::TcpStream, time::sleep};

use super::{
    eventually,
    world::{Device, World},
};

/// As many connections as one source may have open that have proven nothing.
const PER_SOURCE: usize = 256;
/// Longer than one that has shown nothing keeps its place when others want it.
const PATIENCE: Duration = Duration::from_millis(2_200);

#[tokio::test]
async fn who_has_sent_its_request_makes_no_room_while_the_api_server_is_slow() {
    let world = World::start().await;
    let token = world.token(|_| {}).await;
    world.api.hold_reads(true);
    let device = Device::new("edge-1");
    let crowd = async {
        eventually(|| world.api.held() == 1).await;
        let mut idle = Vec::new();
        while idle.len() < PER_SOURCE - 1 {
            idle.push(TcpStream::connect(world.address).await.unwrap());
        }
        eventually(|| world.view.half_open() == PER_SOURCE).await;
        sleep(PATIENCE).await;
        // Those of the crowd make room for these.
        for _ in 0..10 {
            idle.push(TcpStream::connect(world.address).await.unwrap());
        }
        sleep(Duration::from_millis(100)).await;
        world.api.hold_reads(false);
        idle
    };
    let (joined, idle) = tokio::join!(device.enrol(world.address, &token), crowd);
    joined.unwrap().unwrap();
    drop(idle);
}
