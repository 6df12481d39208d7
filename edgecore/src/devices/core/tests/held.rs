//! What must not be accepted yet, and what is held back when it must be kept.

use super::*;

/// A pump whose count goes to the cluster once an hour.
fn hourly() -> Value {
    let mut pump = device("u1", None);
    pump["spec"]["properties"][0]["reportCycle"] = json!(3_600_000);
    pump
}

fn slow(node: &Node, ms: u64) {
    node.cloud.slow.store(ms, Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn a_value_said_again_while_it_is_written_is_accepted_only_when_it_is() {
    let node = Node::new();
    let run = node.start().await;
    slow(&node, 300);
    let began = Instant::now();
    let first = run.says("alarm", "1");
    let again = async {
        pass(0.1).await;
        let said = run.says("alarm", "1").await;
        (said, began.elapsed())
    };
    let (first, (again, after)) = tokio::join!(first, again);
    assert!(first.is_ok() && again.is_ok());
    assert!(after >= Duration::from_millis(300), "{after:?}");
    let rounds = node.cloud.kept.lock().len();
    assert_eq!(rounds, 1, "it is the same round");
}

#[tokio::test(start_paused = true)]
async fn without_a_link_nothing_is_accepted_before_the_round_that_is_written() {
    let node = Node::new();
    let run = node.start().await;
    run.says("target", "3").await.unwrap();
    pass(31.0).await;
    node.cut();
    slow(&node, 300);
    let began = Instant::now();
    let first = run.says("count", "7");
    let again = async {
        pass(0.1).await;
        let said = run.says("target", "3").await;
        (said, began.elapsed())
    };
    let (first, (again, after)) = tokio::join!(first, again);
    assert!(first.is_ok() && again.is_ok());
    assert!(after >= Duration::from_millis(300), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_follows_the_round_that_somebody_waits_for() {
    let node = Node::new();
    let run = node.start().await;
    slow(&node, 300);
    let mut told = run.core.told();
    let order = async {
        let mut order = Vec::new();
        while order.len() < 3 {
            let told = told.recv().await.unwrap();
            let current = told.changes.values().next().unwrap().current.clone();
            order.push(current.unwrap().actual.unwrap().value);
        }
        order
    };
    let later = async {
        pass(0.1).await;
        let (a, b) = tokio::join!(run.says("alarm", "1"), run.says("alarm", "2"));
        a.and(b)
    };
    let (first, later, order) = tokio::join!(run.says("alarm", "1"), later, order);
    assert!(first.is_ok() && later.is_ok());
    assert_eq!(order, ["1", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_link_the_outbox_has_what_is_accepted_however_short_ago_it_was_told() {
    let node = Node::new();
    node.cut();
    let run = node.start().await;
    pass(2.0).await;
    run.says("count", "1").await.unwrap();
    let at = async |seconds: f64, value: &'static str| {
        pass(seconds).await;
        run.says("count", value).await
    };
    let (second, third) = tokio::join!(at(0.45, "2"), at(0.475, "3"));
    assert!(second.is_ok() && third.is_ok());
    assert_eq!(node.flashed("count").await.as_deref(), Some("3"));
    assert_eq!(node.heard("count").as_deref(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn at_a_stop_the_outbox_gets_what_a_cycle_holds_back() {
    let node = Node::new();
    node.objects.set(vec![model(), hourly()]);
    let run = node.start().await;
    run.says("count", "1").await.unwrap();
    pass(1.0).await;
    run.says("count", "2").await.unwrap();
    pass(1.0).await;
    assert_eq!(node.heard("count").as_deref(), Some("1"));
    run.stop().await;
    assert_eq!(node.heard("count").as_deref(), Some("2"));
    assert_eq!(node.cloud.kept.lock().last(), Some(&None));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_goes_away_releases_what_a_cycle_holds_back_with_the_next_report() {
    let node = Node::new();
    node.objects.set(vec![model(), hourly()]);
    let run = node.start().await;
    run.says("count", "1").await.unwrap();
    pass(1.0).await;
    run.says("count", "2").await.unwrap();
    pass(1.5).await;
    node.cut();
    run.says("target", "3").await.unwrap();
    assert_eq!(node.heard("count").as_deref(), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn the_outbox_has_a_durable_value_when_it_is_accepted_and_what_a_cycle_holds_stays_held() {
    let node = Node::new();
    node.objects.set(vec![model(), hourly()]);
    let run = node.start().await;
    for value in ["1", "2", "3"] {
        run.says("alarm", value).await.unwrap();
        assert_eq!(node.heard("alarm").as_deref(), Some(value));
    }
    run.says("count", "1").await.unwrap();
    pass(1.0).await;
    run.says("count", "2").await.unwrap();
    run.says("alarm", "4").await.unwrap();
    assert_eq!(node.heard("count").as_deref(), Some("1"), "its cycle counts");
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_comes_while_a_round_is_gathered_makes_it_a_round_of_everything() {
    let node = Node::new();
    let core = node.open().await;
    node.cut();
    let mut waits = core.report(said("count", Observation::Value("7".to_owned())));
    assert!(futures::poll!(&mut waits).is_pending());
    assert!(core.flush_durable().await);
    waits.await.unwrap();
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
    assert_eq!(node.cloud.kept.lock().last(), Some(&None), "the outbox keeps all");
}

#[tokio::test(start_paused = true)]
async fn without_a_link_a_state_is_on_flash_before_it_is_accepted() {
    let node = Node::new();
    node.cut();
    let run = node.start().await;
    pass(1.0).await;
    run.core.state(pump(), DeviceState::Unhealthy).await.unwrap();
    assert_eq!(node.rows().await["d/u1"]["s"], "unhealthy");
}

#[tokio::test(start_paused = true)]
async fn a_property_with_a_name_beyond_all_bounds_stops_no_other() {
    let node = Node::new();
    let mut pump = device("u1", None);
    let long = json!({"name": "x".repeat(1_100), "desired": {"value": "1"}});
    pump["spec"]["properties"].as_array_mut().unwrap().push(long);
    node.objects.set(vec![model(), pump]);
    node.cut();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
    assert_eq!(run.core.wishes(&super::pump()).len(), 0);
    let row = |key: String| (key, crate::store::Op::Put("{}".into()));
    let rows = vec![row("x".repeat(1_100)), row("p/u1/a".to_owned())];
    run.core.write(rows).await.unwrap();
    assert!(node.rows().await.contains_key("p/u1/a"));
}
