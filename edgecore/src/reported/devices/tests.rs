//! What of the devices' reports is on flash, and when.

use protocol::reported::Carries;

use super::*;
use crate::store::Db;

const EVERYTHING: Carries = Carries::Everything;

fn pump() -> DeviceIdentity {
    DeviceIdentity {
        namespace: "hall".to_owned(),
        name: "pump".to_owned(),
        uid: "u1".to_owned(),
    }
}

fn status(state: &str) -> DeviceStatusStatus {
    DeviceStatusStatus {
        state: Some(state.to_owned()),
        ..DeviceStatusStatus::default()
    }
}

async fn rows(db: &Db) -> Vec<String> {
    let rows = db.scan(Table::Outbox).await.unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

fn newest(reporter: &Reporter) -> Seq {
    let book = reporter.book.lock();
    let on_flash = book
        .devices
        .on_flash
        .get(&pump())
        .and_then(|kept| kept.last().copied());
    Seq(book
        .devices
        .in_memory
        .get(&pump())
        .map(|entry| entry.seq)
        .or(on_flash)
        .unwrap())
}

#[tokio::test]
async fn a_devices_report_costs_no_flash_until_it_is_kept() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    for state in ["online", "offline"] {
        reporter.device(&pump(), &status(state)).unwrap();
    }
    assert_eq!(rows(&db).await.len(), 0);
    reporter.keep_devices(None).await.unwrap();
    assert_eq!(rows(&db).await.len(), 1);
    let after = Reporter::load(db.clone()).await.unwrap();
    assert_eq!(after.pending(), 1);
    reporter.device(&pump(), &status("ok")).unwrap();
    reporter.keep_devices(Some(&[])).await.unwrap();
    assert_eq!(
        rows(&db).await.len(),
        1,
        "the older one stays until a newer one is there"
    );
    reporter.keep_devices(Some(&[pump()])).await.unwrap();
    assert_eq!(rows(&db).await, [entry_key(newest(&reporter))]);
}

#[tokio::test]
async fn what_the_cluster_has_taken_leaves_the_flash_and_what_it_defers_stays() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter.device(&pump(), &status("online")).unwrap();
    reporter.keep_devices(None).await.unwrap();
    let kept = newest(&reporter);
    reporter.device(&pump(), &status("offline")).unwrap();
    let settle = |seq, outcome| reporter.book.lock().settle_device(&pump(), seq, outcome);
    settle(kept, SettledAs::Deferred(RefusalCode::from_wire(0)));
    reporter.write_all().await.unwrap();
    assert_eq!(rows(&db).await.len(), 1);
    settle(newest(&reporter), SettledAs::Committed);
    reporter.write_all().await.unwrap();
    assert_eq!(rows(&db).await.len(), 0);
    assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
}

#[tokio::test]
async fn flash_never_has_an_older_entry_than_the_cluster_was_sent() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    drop(reporter.book.lock().outbox.connected(EVERYTHING));
    let due = || std::iter::from_fn(|| reporter.next(EVERYTHING)).collect::<Vec<_>>();
    reporter.device(&pump(), &status("online")).unwrap();
    let first = due();
    assert_eq!(first.len(), 1);
    reporter.overtake(&first).await.unwrap();
    assert_eq!(rows(&db).await.len(), 0, "there is nothing older");
    reporter.keep_devices(None).await.unwrap();
    let kept = newest(&reporter);
    reporter.device(&pump(), &status("offline")).unwrap();
    let settled = SettledAs::Committed;
    reporter.book.lock().outbox.disconnected(EVERYTHING);
    drop(reporter.book.lock().outbox.connected(EVERYTHING));
    let second = due();
    assert_eq!(second.len(), 1);
    reporter.overtake(&second).await.unwrap();
    assert!(newest(&reporter) > kept);
    assert_eq!(rows(&db).await, [entry_key(newest(&reporter))]);
    let newest = newest(&reporter);
    reporter.book.lock().settle_device(&pump(), newest, settled);
    reporter.write_all().await.unwrap();
    assert_eq!(rows(&db).await.len(), 0);
}

#[tokio::test]
async fn what_was_answered_has_left_flash_before_anything_newer_is_sent() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    drop(reporter.book.lock().outbox.connected(EVERYTHING));
    let due = || std::iter::from_fn(|| reporter.next(EVERYTHING)).collect::<Vec<_>>();
    reporter.device(&pump(), &status("online")).unwrap();
    reporter.keep_devices(None).await.unwrap();
    assert_eq!((rows(&db).await.len(), due().len()), (1, 1));
    let kept = newest(&reporter);
    reporter
        .book
        .lock()
        .settle_device(&pump(), kept, SettledAs::Committed);
    reporter.book.lock().outbox.disconnected(EVERYTHING);
    drop(reporter.book.lock().outbox.connected(EVERYTHING));
    assert_eq!(
        rows(&db).await.len(),
        1,
        "answers are written together, a second later"
    );
    reporter.device(&pump(), &status("offline")).unwrap();
    reporter.overtake(&due()).await.unwrap();
    assert_eq!(rows(&db).await.len(), 0);
    assert!(reporter.book.lock().devices.leaving.is_empty());
}

#[tokio::test(start_paused = true)]
async fn silence_is_counted_from_the_last_answer_while_something_waits() {
    let reporter = Reporter::load(Db::in_memory()).await.unwrap();
    assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
    reporter.device(&pump(), &status("online")).unwrap();
    let first = newest(&reporter);
    tokio::time::advance(Duration::from_secs(3)).await;
    reporter.device(&pump(), &status("offline")).unwrap();
    assert_eq!(reporter.silence_of_devices(), Duration::from_secs(3));
    reporter
        .book
        .lock()
        .settle_device(&pump(), first, SettledAs::Committed);
    assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(reporter.silence_of_devices(), Duration::from_secs(1));
    reporter.forget_device(&pump());
    assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_the_cluster_never_takes_does_not_count_as_silence() {
    let reporter = Reporter::load(Db::in_memory()).await.unwrap();
    let settle = |outcome| {
        let seq = newest(&reporter);
        reporter.book.lock().settle_device(&pump(), seq, outcome);
    };
    let silence = async || {
        tokio::time::advance(Duration::from_secs(3)).await;
        reporter.silence_of_devices()
    };
    reporter.device(&pump(), &status("online")).unwrap();
    settle(SettledAs::Deferred(RefusalCode::Unavailable));
    assert_eq!(silence().await, Duration::from_secs(3), "nobody takes anything");
    settle(SettledAs::Deferred(RefusalCode::Invalid));
    assert_eq!(silence().await, Duration::ZERO);
    reporter.device(&pump(), &status("offline")).unwrap();
    assert_eq!(silence().await, Duration::ZERO, "nor does the next one");
    settle(SettledAs::Committed);
    reporter.device(&pump(), &status("online")).unwrap();
    assert_eq!(silence().await, Duration::from_secs(3));
}
