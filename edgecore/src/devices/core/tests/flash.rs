//! When flash must have a value before it is accepted, and how often it is written.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_durable_value_is_on_flash_before_it_is_accepted_and_others_are_not_written_for_it() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    run.says("alarm", "1").await.unwrap();
    assert_eq!(node.flashed("alarm").await.as_deref(), Some("1"));
    assert_eq!(node.flashed("count").await, None);
    assert_eq!(*node.cloud.kept.lock(), [Some(1)], "the outbox has it too");
    pass(31.0).await;
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn without_a_link_everything_is_on_flash_before_it_is_accepted() {
    let node = Node::new();
    let run = node.start().await;
    run.says("target", "3").await.unwrap();
    node.cut();
    run.says("count", "7").await.unwrap();
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
    assert_eq!(
        node.flashed("target").await.as_deref(),
        Some("3"),
        "what came before the cut as well"
    );
    assert_eq!(node.cloud.kept.lock().last(), Some(&None), "the outbox keeps all");
}

#[tokio::test(start_paused = true)]
async fn without_a_link_even_an_old_value_is_accepted_only_after_the_newer_ones_of_others() {
    let node = Node::new();
    let run = node.start().await;
    run.says("target", "3").await.unwrap();
    pass(31.0).await;
    run.says("count", "7").await.unwrap();
    node.cut();
    run.says("target", "3").await.unwrap();
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_goes_away_makes_the_journal_go_to_flash_without_any_report() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    node.cut();
    pass(2.0).await;
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
    drop(run);
}

#[tokio::test(start_paused = true)]
async fn without_a_link_there_are_at_most_two_commits_a_second() {
    let node = Node::new();
    node.cut();
    let run = node.start().await;
    pass(2.0).await;
    node.cloud.kept.lock().clear();
    let began = Instant::now();
    for round in 0..10 {
        let all = (0..5).map(|n| {
            let text = format!("{}", round * 5 + n);
            let run = &run;
            async move { run.says("count", &text).await }
        });
        assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(
        began.elapsed() <= Duration::from_millis(5_500),
        "{:?}",
        began.elapsed()
    );
    assert!(node.cloud.kept.lock().len() <= 11);
    assert_eq!(node.flashed("count").await.as_deref(), Some("49"));
}

#[tokio::test(start_paused = true)]
async fn the_same_value_again_commits_only_once_a_minute() {
    let node = Node::new();
    node.cut();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    pass(5.0).await;
    node.cloud.kept.lock().clear();
    for _ in 0..100 {
        run.says("count", "7").await.unwrap();
        pass(1.0).await;
    }
    let commits = node.cloud.kept.lock().len();
    // One for the time, and the regular ones.
    assert!(commits <= 6, "{commits}");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_comes_in_order_and_not_before_flash_has_it() {
    let node = Node::new();
    let run = node.start().await;
    pass(1.0).await;
    let mut told = run.core.told();
    let mut alarm = Box::pin(run.says("alarm", "1"));
    assert!(futures::poll!(&mut alarm).is_pending());
    assert!(told.try_recv().is_err());
    run.says("count", "7").await.unwrap();
    assert!(
        told.try_recv().is_err(),
        "the later one waits for the earlier one"
    );
    alarm.await.unwrap();
    for property in ["alarm", "count"] {
        assert!(told.recv().await.unwrap().changes.contains_key(property));
    }
}

#[tokio::test]
async fn a_flash_that_refuses_is_told_to_the_sender_and_written_when_it_can_be() {
    let mut node = Node::new();
    let (db, full) = Db::fillable();
    node.db = db;
    let run = node.start().await;
    full.store(true, Ordering::Relaxed);
    assert!(matches!(
        run.says("alarm", "1").await,
        Err(Refused::Unavailable(_))
    ));
    run.says("count", "7").await.unwrap();
    full.store(false, Ordering::Relaxed);
    run.says("alarm", "1").await.unwrap();
    assert_eq!(node.flashed("alarm").await.as_deref(), Some("1"));
    run.stop().await;
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
}

#[tokio::test]
async fn what_flash_refused_is_written_later_without_being_said_again() {
    let mut node = Node::new();
    let (db, full) = Db::fillable();
    node.db = db;
    let run = node.start().await;
    full.store(true, Ordering::Relaxed);
    assert!(run.says("alarm", "1").await.is_err());
    full.store(false, Ordering::Relaxed);
    run.stop().await;
    assert_eq!(node.flashed("alarm").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_after_the_end_is_refused_and_not_left_waiting() {
    let node = Node::new();
    let run = node.start().await;
    let core = Arc::clone(&run.core);
    run.stop().await;
    let late = core
        .report(said("count", Observation::Value("7".to_owned())))
        .await;
    assert!(matches!(late, Err(Refused::Unavailable(_))));
}
