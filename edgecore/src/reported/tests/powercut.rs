//! The power goes between two writes of the outbox.

use super::*;
use crate::store::Batch;

/// What is on flash when the power goes after so many changes of `batch`.
async fn cut_after(count: usize, before: &Db, batch: &Batch) -> Db {
    let db = Db::in_memory();
    for table in [Table::Meta, Table::Outbox, Table::PodState] {
        for (key, value) in before.scan(table).await.unwrap() {
            db.commit(Batch::new().put(table, key, value)).await.unwrap();
        }
    }
    for (table, key, op) in batch.ops().iter().take(count) {
        let mut one = Batch::new();
        one.push(*table, key.clone(), op.clone());
        db.commit(one).await.unwrap();
    }
    db
}

#[tokio::test]
async fn a_power_cut_between_two_writes_loses_no_report_and_brings_no_older_one_back() {
    // Twice the same: as it is written at once, and as it is left after the disk was full.
    for was_full in [false, true] {
        let before = Db::in_memory();
        let reporter = Reporter::load(before.clone()).await.unwrap();
        reporter.gone(&pod()).await.unwrap();
        reporter.node(&Node::default()).await.unwrap();
        let batch = {
            let mut book = reporter.book.lock();
            for phase in ["Running", "Failed"] {
                // No other row says again what is lost of either.
                book.put(OutboxKey::Node, phase.as_bytes());
                book.put(OutboxKey::Gone(identity(&pod())), phase.as_bytes());
            }
            if was_full {
                drop(book.unwritten.offer(MAX_OPS));
                book.unwritten.refused(&StoreError::Full {
                    path: std::path::PathBuf::new(),
                    free: 0,
                });
            }
            book.unwritten.offer(MAX_OPS)
        };
        for count in 0..=batch.len() {
            let db = cut_after(count, &before, &batch).await;
            let reporter = Reporter::load(db.clone()).await.unwrap();
            assert_eq!(reporter.pending(), 2, "after {count} of {batch:?}");
            served(&reporter, 2).await;
            reporter.write_all().await.unwrap();
            let left = db.scan(Table::Outbox).await.unwrap();
            assert!(left.is_empty(), "after {count}: {left:?} would be sent again");
        }
    }
}
