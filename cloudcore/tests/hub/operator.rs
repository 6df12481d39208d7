//! What operators do: bans that are listed and ended, and an epoch that goes up after a restore.

use std::time::{Duration, UNIX_EPOCH};

use cloudcore::enroll::{Authority, AuthorityError, Raised};
use protocol::{clock::Clock, join::RefusalCode, transport::CloseCode, wire::session_down};
use tokio::time::timeout;

use crate::{
    ending, eventually, refusal, sessions,
    world::{Device, PATIENCE, World, settings},
};

/// Another process over the same cluster, as the command line is one.
async fn opened_anew(world: &World) -> std::sync::Arc<Authority> {
    Authority::open_existing(settings(&world.api, &world.clock))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_ca_that_is_gone_is_not_made_anew_while_devices_trust_it() {
    let world = World::start().await;
    let open = || Authority::open(settings(&world.api, &world.clock));
    world.device("edge-1").await;
    world.api.remove_secret("tombolo-ca");
    let refused = open().await.err().unwrap();
    assert!(
        matches!(refused, AuthorityError::LostCa { nodes: 1, .. }),
        "{refused:?}"
    );
    let told = refused.to_string();
    assert!(
        told.contains("no Secret tombolo-ca in namespace tombolo-system") && told.contains("from a backup"),
        "{told}"
    );
    assert!(!world.api.all_secrets().contains("ca.key"), "nothing was made");

    // As it says to those who have no backup.
    world.api.remove_secret("tombolo-node-edge-1");
    let anew = open().await.unwrap();
    assert_ne!(anew.pin(), world.authority.pin());
}

#[tokio::test]
async fn an_epoch_is_raised_over_a_race_and_a_replica_that_runs_hears_of_it() {
    let world = World::start().await;
    let early = timeout(Duration::from_millis(50), world.authority.outdated()).await;
    assert!(early.is_err(), "nobody has raised it");
    let operator = opened_anew(&world).await;
    world.api.lose_a_patch();
    let Raised { from, to } = operator.raise_epoch(None).await.unwrap();
    let now = Clock::system()
        .now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(from, 1);
    assert!((now - 60..=now).contains(&to), "{to}");

    let heard = timeout(PATIENCE, world.authority.outdated()).await.unwrap();
    assert_eq!(
        (heard, world.authority.epoch()),
        (to, 1),
        "a replica never changes what it speaks for"
    );
    let next = opened_anew(&world).await;
    assert_eq!(next.epoch(), to);
    assert_eq!(next.pin(), world.authority.pin(), "the CA is the same");
}

#[tokio::test]
async fn an_epoch_never_goes_down_and_asking_twice_for_one_number_is_asking_once() {
    let world = World::start().await;
    let raise = |to| world.authority.raise_epoch(to);
    assert_eq!(raise(Some(9)).await.unwrap(), Raised { from: 1, to: 9 });
    assert_eq!(raise(Some(9)).await.unwrap(), Raised { from: 9, to: 9 });
    assert!(
        raise(Some(8))
            .await
            .unwrap_err()
            .to_string()
            .contains("goes down")
    );
    assert_eq!(world.authority.read_epoch().await.unwrap(), 9);
    assert!(raise(None).await.unwrap().to > 9);
}

#[tokio::test]
async fn a_banned_device_is_welcome_again_once_its_ban_is_ended() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    let edge = device.connect(world.address).await;
    sessions(&world, 1).await;
    let key = world.authority.ban(&device.name).await.unwrap();
    let (code, why) = ending(&edge).await;
    assert_eq!(code, CloseCode::Forbidden);
    assert!(why.contains("cloudcore node unban edge-1"), "{why}");

    let bans = world.authority.bans().await.unwrap();
    let told: Vec<_> = bans.iter().map(|ban| (ban.key, ban.node.as_ref())).collect();
    assert_eq!(told, [(key, Some(&device.name))]);
    assert!(world.authority.unban(&key).await.unwrap());
    assert!(!world.authority.unban(&key).await.unwrap(), "once is enough");
    assert!(world.authority.bans().await.unwrap().is_empty());
    eventually(|| world.authority.is_enrolled(&device.name)).await;
    device.connect(world.address).await;
}

#[tokio::test]
async fn a_ban_outlives_the_node_and_keeps_its_key_out_until_it_is_ended() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    world.authority.ban(&device.name).await.unwrap();
    world.authority.forget(&device.name).await.unwrap();
    let token = world.token(|_| {}).await;
    assert_eq!(refusal(&world, &device, &token).await, RefusalCode::Banned);
    let bans = world.authority.bans().await.unwrap();
    assert_eq!(bans[0].node.as_ref(), Some(&device.name));

    world.authority.unban(&bans[0].key).await.unwrap();
    let answer = device.enrol(world.address, &token).await.unwrap().unwrap();
    let device = device.keep(&answer);
    eventually(|| world.authority.is_enrolled(&device.name)).await;
    device.connect(world.address).await;
}

#[tokio::test]
async fn a_removed_device_joins_again_with_its_key_and_a_fresh_token() {
    let world = World::start().await;
    let device = world.device("edge-1").await;
    let edge = device.connect(world.address).await;
    sessions(&world, 1).await;
    assert!(world.authority.forget(&device.name).await.unwrap());
    let (code, why) = ending(&edge).await;
    assert_eq!(code, CloseCode::Forbidden);
    assert!(why.contains("edgecore join"), "the remedy is named: {why}");
    let (_, answer) = device.dial(world.address, "").await;
    let Some(session_down::Kind::Reject(reject)) = answer else {
        panic!("{answer:?}")
    };
    assert!(reject.text.contains("edgecore join"), "{}", reject.text);

    let token = world.token(|_| {}).await;
    let answer = device.enrol(world.address, &token).await.unwrap().unwrap();
    device.keep(&answer).connect(world.address).await;
    // Another device is a stranger to the name all the same.
    let token = world.token(|_| {}).await;
    let stranger = Device::new("edge-1");
    assert_eq!(refusal(&world, &stranger, &token).await, RefusalCode::KeyDiffers);
}
