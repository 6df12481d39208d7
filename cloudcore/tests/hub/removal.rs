//! Devices that are not wanted any more, and how little they can still do.

use protocol::{
    join::RefusalCode,
    transport::CloseCode,
    wire::{Beat, session_down, session_up},
};

use crate::{
    ending, eventually, refusal,
    renewal::come_back,
    sessions,
    world::{Device, World},
};

#[tokio::test]
async fn a_removed_device_does_not_come_back_with_its_spent_token() {
    let world = World::start().await;
    let (device, token) = (Device::new("edge-1"), world.token(|_| {}).await);
    let several = world.token(|spec| spec.uses = 2).await;
    for token in [&token, &several] {
        device.enrol(world.address, token).await.unwrap().unwrap();
    }
    assert!(world.authority.forget(&device.name).await.unwrap());
    assert_eq!(refusal(&world, &device, &token).await, RefusalCode::TokenUsedUp);
    // What is left of a token is for whoever carries it.
    device.enrol(world.address, &several).await.unwrap().unwrap();
    assert_eq!(
        refusal(&world, &Device::new("edge-2"), &several).await,
        RefusalCode::TokenUsedUp
    );
}

#[tokio::test]
async fn a_device_that_may_not_renew_keeps_nobody_from_it_however_often_it_asks() {
    let world = World::start().await;
    let (banned, removed, honest) = (
        world.device("edge-1").await,
        world.device("edge-2").await,
        world.device("edge-3").await,
    );
    world.authority.ban(&banned.name).await.unwrap();
    world.authority.forget(&removed.name).await.unwrap();
    eventually(|| !world.authority.is_enrolled(&banned.name)).await;
    let refused = come_back(&world, &removed).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotEnrolled);
    let before = world.api.reads();
    for (device, code) in [(&banned, RefusalCode::Banned), (&removed, RefusalCode::Busy)] {
        assert_eq!(come_back(&world, device).await.unwrap_err().code, code);
    }
    assert_eq!(world.api.reads(), before, "the API server is not asked");
    come_back(&world, &honest).await.unwrap();
}

#[tokio::test]
async fn a_session_is_checked_again_until_its_key_could_be_read() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    let edge = device.connect(world.address).await;
    sessions(&world, 1).await;
    let before = world.api.reads();
    world.api.fail_reads(true);
    world.api.remove_secret("tombolo-node-edge-1");
    eventually(|| world.api.reads() > before).await;
    assert_eq!(world.view.sessions(), 1, "only an answer ends a session");
    world.api.fail_reads(false);
    assert_eq!(ending(&edge).await.0, CloseCode::Forbidden);
}

#[tokio::test]
async fn a_session_answers_while_nobody_tells_whether_its_key_still_holds() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    let mut edge = device.connect(world.address).await;
    sessions(&world, 1).await;
    world.api.hold_reads(true);
    world.api.remove_secret("tombolo-node-edge-1");
    eventually(|| world.api.held() > 0).await;
    for seq in 1..3 {
        edge.say(session_up::Kind::Beat(Beat { seq, progress: seq }))
            .await;
        let ack = edge.hear().await;
        assert!(matches!(ack, Some(session_down::Kind::BeatAck(ack)) if ack.seq == seq));
    }
    world.api.hold_reads(false);
    assert_eq!(ending(&edge).await.0, CloseCode::Forbidden);
}
