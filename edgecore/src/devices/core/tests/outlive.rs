//! What survives a kill, and what a power cut.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_accepted_value_survives_kill_9_without_any_flash() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    pass(0.1).await;
    assert_eq!(node.heard("count").as_deref(), Some("7"));
    assert_eq!(node.flashed("count").await, None);
    run.kill();
    node.cloud.told.lock().clear();
    let run = node.start().await;
    assert_eq!(run.actual("count"), Some(("7".to_owned(), "good".to_owned())));
    pass(0.1).await;
    assert_eq!(
        node.heard("count").as_deref(),
        Some("7"),
        "it is told again from the journal"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_what_flash_has_is_stale_and_told_as_left_from_before() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    run.stop().await;
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
    node.cloud.told.lock().clear();
    node.dir.boot("two");
    let run = node.start().await;
    assert_eq!(run.actual("count"), Some(("7".to_owned(), "stale".to_owned())));
    let left = || {
        let told = node.cloud.told.lock();
        let last = told.last().unwrap();
        (last.twins[0].reported.clone(), last.left["count"].clone())
    };
    pass(60.0).await;
    let (reported, before) = left();
    assert_eq!((reported, before.value.as_str()), (None, "7"));
    assert_eq!(before.metadata["quality"], "stale");
    run.kill();
    node.cloud.told.lock().clear();
    let run = node.start().await;
    pass(1.0).await;
    assert_eq!(left(), (None, before), "and so after a restart in that boot");
    run.says("alarm", "1").await.unwrap();
    pass(1.0).await;
    assert_eq!(
        (node.heard("alarm").as_deref(), node.heard("count")),
        (Some("1"), None)
    );
    run.says("count", "8").await.unwrap();
    pass(1.0).await;
    assert_eq!(node.heard("count").as_deref(), Some("8"));
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_is_told_from_a_kill_a_stop_and_a_first_start() {
    let node = Node::new();
    let run = node.start().await;
    assert!(!run.core.lost_power(), "there was nothing before");
    run.says("alarm", "1").await.unwrap();
    run.kill();
    let run = node.start().await;
    assert!(!run.core.lost_power(), "it is the same boot");
    run.stop().await;
    node.dir.boot("two");
    let run = node.start().await;
    assert!(!run.core.lost_power(), "it was stopped");
    run.kill();
    node.dir.boot("three");
    let run = node.start().await;
    assert!(run.core.lost_power());
    run.kill();
    assert!(!node.start().await.core.lost_power(), "once");
}

#[tokio::test(start_paused = true)]
async fn versions_grow_over_restarts_and_boots() {
    let node = Node::new();
    let mut last = 0;
    for boot in ["one", "one", "two"] {
        node.dir.boot(boot);
        let run = node.start().await;
        let told = run.says("count", "7").await.unwrap();
        let current = told.changes["count"].current.as_ref().unwrap();
        let version: u64 = current.actual.as_ref().unwrap().metadata["version"]
            .parse()
            .unwrap();
        assert!(version > last, "{version} after {last}");
        last = version;
        run.kill();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_property_does_not_come_back() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    pass(31.0).await;
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
    run.core
        .report(said("count", Observation::Dropped))
        .await
        .unwrap();
    run.kill();
    let run = node.start().await;
    assert_eq!(run.actual("count"), None);
    pass(31.0).await;
    assert_eq!(
        node.flashed("count").await,
        None,
        "the log knew that flash was wrong"
    );
    run.kill();
    node.dir.boot("two");
    assert_eq!(node.start().await.actual("count"), None);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_costs_no_other() {
    let node = Node::new();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    run.says("target", "8").await.unwrap();
    run.kill();
    let log = node.dir.path().join("journal/one.log");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replace("\"v\":\"7\"", "\"v\":\"9\"") + "0123 torn").unwrap();
    let run = node.start().await;
    assert_eq!(run.actual("count"), None);
    assert_eq!(run.actual("target"), Some(("8".to_owned(), "good".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_wish_of_the_site_outlives_everything_and_the_manifest_does_not_win_again() {
    let node = Node::new();
    node.objects.set(vec![model(), device("u1", Some("10"))]);
    let run = node.start().await;
    assert_eq!(run.core.wishes(&pump())["target"].value, "10");
    run.core
        .report(said("target", Observation::Wished("20".to_owned())))
        .await
        .unwrap();
    run.kill();
    let run = node.start().await;
    assert_eq!(run.core.wishes(&pump())["target"].value, "20");
    run.stop().await;
    node.dir.boot("two");
    let run = node.start().await;
    assert_eq!(run.core.wishes(&pump())["target"].value, "20");
    node.objects.set(vec![model(), device("u1", Some("30"))]);
    pass(0.1).await;
    assert_eq!(run.core.wishes(&pump())["target"].value, "30");
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_written_sends_values_to_flash() {
    let node = Node::new();
    std::fs::write(node.dir.path().join("journal"), "a file").unwrap();
    let run = node.start().await;
    run.says("count", "7").await.unwrap();
    assert_eq!(node.flashed("count").await.as_deref(), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn when_the_clock_is_set_earlier_times_are_corrected() {
    let mut node = Node::new();
    let run = node.start().await;
    let told = run.says("count", "7").await.unwrap();
    run.kill();
    // An hour more has passed by the clock, and none by the machine: the clock was behind.
    node.clock = Clock::with_offset(3_600);
    let run = node.start().await;
    let actual = run
        .core
        .twin(&pump())
        .unwrap()
        .remove("count")
        .unwrap()
        .actual
        .unwrap();
    let at: i64 = actual.metadata["timestamp"].parse().unwrap();
    let shift = at - told.timestamp;
    assert!((3_599_000..=3_601_000).contains(&shift), "{shift}");
}

#[tokio::test(start_paused = true)]
async fn the_report_at_which_the_log_fails_waits_for_flash_and_so_does_all_before() {
    let node = Node::new();
    let run = node.start().await;
    run.says("target", "3").await.unwrap();
    run.core.book.lock().fill_disk();
    run.says("count", "7").await.unwrap();
    for (property, value) in [("count", "7"), ("target", "3")] {
        assert_eq!(node.flashed(property).await.as_deref(), Some(value));
    }
    pass(1.0).await;
    let files = std::fs::read_dir(node.dir.path().join("journal")).unwrap();
    assert_eq!(
        files.count(),
        1,
        "the log is written anew, and nothing else is left"
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_that_failed_is_read_until_flash_has_all_that_it_says() {
    let node = Node::new();
    let core = node.open().await;
    let report = |property, value: &str| core.report(said(property, Observation::Value(value.to_owned())));
    report("target", "3").await.unwrap();
    core.book.lock().fill_disk();
    let mut waits = report("count", "7");
    assert!(futures::poll!(&mut waits).is_pending());
    drop(waits);
    let again = node.open().await;
    let actual = |core: &Core| core.twin(&pump()).unwrap()["target"].actual.clone().unwrap();
    assert_eq!(
        actual(&again).metadata["quality"],
        "good",
        "flash has not got it yet"
    );
    again.book.lock().fill_disk();
    let mut waits = again.report(said("count", Observation::Value("8".to_owned())));
    assert!(futures::poll!(&mut waits).is_pending());
    let lost = node.dir.path().join("journal/one.lost");
    assert!(lost.exists());
    assert!(again.flush_durable().await);
    waits.await.unwrap();
    assert!(!lost.exists(), "flash has everything");
}
