//! Devices that are not wanted any more, and how little they can still do.

use protocol::join::RefusalCode;

use crate::{
    refusal,
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
