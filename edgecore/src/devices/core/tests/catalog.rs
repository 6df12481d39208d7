//! Devices that come, change and go.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_removed_device_leaves_nothing() {
    let node = Node::new();
    let run = node.start().await;
    run.says("alarm", "1").await.unwrap();
    pass(31.0).await;
    assert!(!node.rows().await.is_empty());
    node.objects.set(vec![model()]);
    pass(1.0).await;
    assert!(run.core.devices().is_empty() && run.core.twin(&pump()).is_none());
    assert!(matches!(
        run.says("count", "8").await,
        Err(Refused::UnknownDevice(_))
    ));
    assert!(node.rows().await.is_empty());
    assert_eq!(node.cloud.forgotten.lock().len(), 1);
    run.kill();
    node.objects.set(vec![model(), device("u1", None)]);
    assert_eq!(node.start().await.actual("alarm"), None);
}

#[tokio::test(start_paused = true)]
async fn a_device_made_anew_under_the_same_name_starts_empty() {
    let node = Node::new();
    let run = node.start().await;
    run.says("alarm", "1").await.unwrap();
    node.objects.set(vec![model(), device("u2", None)]);
    pass(1.0).await;
    assert_eq!(run.core.devices()[&pump()].identity.uid, "u2");
    assert_eq!(run.actual("alarm"), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_of_a_device_waits_for_it_until_the_cluster_has_spoken() {
    let node = Node::new();
    let run = node.start().await;
    run.says("alarm", "1").await.unwrap();
    run.kill();
    node.objects.set(vec![model()]);
    let run = node.start().await;
    pass(1.0).await;
    node.objects.set(vec![model(), device("u1", None)]);
    pass(1.0).await;
    assert!(run.actual("alarm").is_some());
    run.kill();
    node.objects.set(vec![model()]);
    node.objects.confirmed.store(true, Ordering::Relaxed);
    let run = node.start().await;
    pass(31.0).await;
    assert!(node.rows().await.is_empty());
    drop(run);
}

#[tokio::test(start_paused = true)]
async fn an_edit_is_seen_and_its_wish_is_told() {
    let node = Node::new();
    let run = node.start().await;
    let (mut changed, mut told) = (run.core.changed(), run.core.told());
    node.objects.set(vec![model(), device("u1", Some("30"))]);
    changed.changed().await.unwrap();
    assert_eq!(run.core.wishes(&pump())["target"].value, "30");
    let told = told.recv().await.unwrap();
    assert_eq!((told.origin, told.delta["target"].as_str()), (Origin::Node, "30"));
    pass(1.0).await;
    let status = node.cloud.told.lock().last().cloned().unwrap();
    assert_eq!(status.twins[0].observed_desired.as_ref().unwrap().value, "30");
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_told_at_once_and_then_not_too_often() {
    let node = Node::new();
    let run = node.start().await;
    pass(1.0).await;
    node.cloud.told.lock().clear();
    for n in 0..1_000 {
        run.says("count", &n.to_string()).await.unwrap();
        pass(0.001).await;
    }
    pass(1.0).await;
    let times = node.cloud.told.lock().len();
    assert!((2..=3).contains(&times), "{times}");
    assert_eq!(node.heard("count").as_deref(), Some("999"));
}

#[tokio::test(start_paused = true)]
async fn a_state_is_told_to_the_cluster() {
    let node = Node::new();
    let run = node.start().await;
    run.core.state(pump(), DeviceState::Offline).await.unwrap();
    pass(0.3).await;
    assert_eq!(
        node.cloud.told.lock().last().unwrap().state.as_deref(),
        Some("offline")
    );
    assert_eq!(run.core.standing(&pump()).unwrap().state, DeviceState::Offline);
}

#[tokio::test(start_paused = true)]
async fn while_its_model_is_replaced_the_cluster_keeps_what_it_has_of_a_device() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    pass(1.0).await;
    node.cloud.told.lock().clear();
    node.objects.set(vec![device("u1", None)]);
    pass(1.0).await;
    run.says("count", "8").await.unwrap();
    run.says("alarm", "1").await.unwrap();
    pass(1.0).await;
    assert!(node.cloud.told.lock().is_empty());
    assert_eq!(run.actual("count"), Some(("8".to_owned(), "good".to_owned())));
    node.objects.set(vec![model(), device("u1", None)]);
    pass(1.0).await;
    assert_eq!(node.heard("count").as_deref(), Some("8"));
    assert_eq!(node.heard("alarm").as_deref(), Some("1"));
    node.objects.set(vec![device("u1", None)]);
    pass(15.0).await;
    let told = node.cloud.told.lock().last().cloned().unwrap();
    assert!(told.twins.is_empty(), "it does not come back");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_while_the_cluster_confirms_keeps_what_was_kept_of_it() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    run.kill();
    node.objects.set(vec![model(), device("u1", None)]);
    // The list was taken just before the device came.
    let with = std::mem::take(&mut *node.objects.held.lock());
    *node.objects.late.lock() = Some(with);
    let run = node.start().await;
    node.objects.rings();
    pass(1.0).await;
    assert_eq!(run.actual("count"), Some(("7".to_owned(), "good".to_owned())));
}
