//! What an uplink learns from the sessions before, from cloudcore, and from the device.

use protocol::wire::{Reject, RejectCode};

use super::*;

impl Replica {
    async fn reject(&mut self, retry_after: Duration) {
        let reject = Reject {
            code: RejectCode::Busy as u32,
            text: "the API server is away".to_owned(),
            retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap(),
            ..Reject::default()
        };
        self.say(session_down::Kind::Reject(reject)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_all_told_the_same_do_not_come_back_in_step() {
    const LATER: Duration = Duration::from_secs(1);
    let mut world = World::new(&["a"]).await;
    let (mut waited, mut told) = (Vec::new(), None);
    for _ in 0..8 {
        let mut replica = world.hello().await;
        waited.extend(told.map(|told: Instant| told.elapsed()));
        replica.reject(LATER).await;
        told = Some(Instant::now());
    }
    assert!(waited.iter().all(|waited| *waited >= LATER), "{waited:?}");
    assert!(waited.iter().any(|one| *one != waited[0]), "{waited:?}");
}
