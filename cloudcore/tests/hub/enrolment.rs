//! Who gets a certificate for what: join tokens against a real port.

use std::time::Duration;

use protocol::join::{JoinToken, RefusalCode};

use crate::{
    refusal,
    world::{Device, World},
};

#[tokio::test]
async fn a_token_is_used_once_but_a_lost_answer_may_be_asked_for_again() {
    let world = World::start().await;
    let token = world.token(|_| {}).await;
    let (first, second) = (Device::new("edge-1"), Device::new("edge-2"));
    assert!(first.enrol(world.address, &token).await.unwrap().is_ok());
    assert!(first.enrol(world.address, &token).await.unwrap().is_ok());
    assert_eq!(refusal(&world, &second, &token).await, RefusalCode::TokenUsedUp);
    assert_eq!(world.authority.tokens().await.unwrap()[0].used, 1);
    assert!(!world.api.all_secrets().contains(token.secret.expose()));
}

#[tokio::test]
async fn two_devices_that_race_for_one_use_do_not_both_win() {
    let world = World::start().await;
    let token = world.token(|_| {}).await;
    let (first, second) = (Device::new("edge-1"), Device::new("edge-2"));
    let (a, b) = tokio::join!(
        first.enrol(world.address, &token),
        second.enrol(world.address, &token)
    );
    assert_ne!(a.unwrap().is_ok(), b.unwrap().is_ok());
}

#[tokio::test]
async fn wrong_tokens_are_refused_by_name() {
    let world = World::start().await;
    let device = Device::new("edge-1");
    let unknown = JoinToken::generate(world.authority.pin());
    assert_eq!(
        refusal(&world, &device, &unknown).await,
        RefusalCode::TokenUnknown
    );

    let other_name = world
        .token(|spec| spec.node = Some("edge-9".parse().unwrap()))
        .await;
    assert_eq!(
        refusal(&world, &device, &other_name).await,
        RefusalCode::TokenForOtherName
    );

    let short = world.token(|spec| spec.life = Duration::from_millis(1)).await;
    // Secrets tell whole seconds.
    world
        .clock
        .saw_server_time(world.clock.now() + Duration::from_secs(2));
    assert_eq!(refusal(&world, &device, &short).await, RefusalCode::TokenExpired);

    let revoked = world.token(|_| {}).await;
    assert!(world.authority.revoke_token(&revoked.id).await.unwrap());
    assert_eq!(
        refusal(&world, &device, &revoked).await,
        RefusalCode::TokenUnknown
    );
}

#[tokio::test]
async fn a_server_with_another_ca_hears_nothing_of_the_token() {
    let world = World::start().await;
    let token = world.token(|_| {}).await;
    let pinned_elsewhere = JoinToken {
        pin: [9; 32],
        ..token
    };
    let fault = Device::new("edge-1")
        .enrol(world.address, &pinned_elsewhere)
        .await
        .unwrap_err();
    assert!(fault.contains("not the one that the join token names"), "{fault}");
    assert_eq!(world.authority.tokens().await.unwrap()[0].used, 0);
}

#[tokio::test]
async fn the_name_of_an_ordinary_node_is_refused_to_every_token() {
    let world = World::start().await;
    world.api.add_node("worker-1", false);
    let token = world
        .token(|spec| (spec.node, spec.replace_key) = (Some("worker-1".parse().unwrap()), true))
        .await;
    let refused = Device::new("worker-1")
        .enrol(world.address, &token)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code, RefusalCode::NameTaken);
    assert!(refused.text.contains("worker-1"));
    assert_eq!(world.authority.tokens().await.unwrap()[0].used, 0);
}
