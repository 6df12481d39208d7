//! A node whose disk is read-only: it says so, and looks whether the disk can be written again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Parts, repairs};
use crate::cli::Paths;
use crate::reported::{ReportError, Reporter};
use crate::store::{StoreError, Stores, Thaw};
use crate::supervise::BoxError;

/// How often it is tried.
const EVERY: Duration = Duration::from_secs(30);
/// How long it is waited at most after tries that failed: each may copy the whole database.
const MOST: Duration = Duration::from_hours(1);
/// What the operator asked for, and does not happen.
pub(super) const WAITS: &str = "this node moves to the other cluster only when its disk can be written: what the old \
    one wanted cannot be forgotten before. Make the disk writable, then restart edgecore";

/// What `edgecore status` says of it.
pub(super) fn warnings(stores: &Stores, paths: &Paths) -> Vec<String> {
    let Some(trouble) = stores.frozen() else {
        return Vec::new();
    };
    let waits = paths.replace_cluster().exists().then(|| WAITS.to_owned());
    [Some(trouble.to_string()), waits].into_iter().flatten().collect()
}

/// Tells the cluster, and goes on with the disk once it can be written. Ends with the node where that cannot be done
/// without opening the store anew.
pub(super) async fn thaw(parts: &Parts, stop: CancellationToken) -> Result<(), BoxError> {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        thawed = follow(parts) => thawed?,
    }
    stop.cancelled().await;
    Ok(())
}

async fn follow(parts: &Parts) -> Result<(), StoreError> {
    let Some(trouble) = parts.stores.frozen() else {
        return Ok(());
    };
    tell(parts, ("Warning", "StoreReadOnly", &trouble.to_string())).await;
    let mut pause = EVERY;
    while parts.stores.frozen().is_some() {
        tokio::time::sleep(pause).await;
        pause = pause_after(parts.stores.thaw().await?, pause);
    }
    let said = "The disk of the node's store can be written again.";
    tell(parts, ("Normal", "StoreWritable", said)).await;
    Ok(())
}

fn pause_after(thaw: Thaw, pause: Duration) -> Duration {
    match thaw {
        Thaw::Done | Thaw::ReadOnly => EVERY,
        Thaw::Failed => (2 * pause).min(MOST),
    }
}

async fn tell(parts: &Parts, what: (&str, &str, &str)) {
    let (node, now) = (parts.config.node_name.to_string(), parts.clock.now());
    if let Err(error) = say(&parts.reporter, &repairs::event(&node, now, 0, what)).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "the cluster is not told how the disk is");
    }
}

/// An event that cannot be kept is sent all the same: it waits in memory.
async fn say(reporter: &Reporter, event: &k8s_openapi::api::core::v1::Event) -> Result<(), ReportError> {
    match reporter.event(event).await {
        Err(ReportError::Store(error)) if !error.breaks() => Ok(()),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::store::{Batch, Db, Table, open_stores};

    #[tokio::test]
    async fn a_move_to_another_cluster_waits_until_what_the_old_one_wanted_can_be_forgotten() {
        let root = std::env::temp_dir().join(format!("tombolo-frozen-{}", std::process::id()));
        let paths = Paths::below(root.clone());
        let mut stores = open_stores(&paths.state_dir()).unwrap();
        let fences = br#"{"cluster_id":"old","epoch":0,"views":{}}"#;
        let old = Batch::new()
            .put(Table::Desired, "a", "x")
            .put(Table::Fence, "fences", &fences[..]);
        stores.meta.commit(old).await.unwrap();
        std::fs::write(paths.replace_cluster(), "new").unwrap();
        assert_eq!(warnings(&stores, &paths), Vec::<String>::new());

        let frozen = stores.freeze();
        super::super::accept_new_cluster(&paths, &stores).await.unwrap();
        assert_eq!(stores.meta.scan(Table::Desired).await.unwrap().len(), 1);
        let said = warnings(&stores, &paths);
        assert!(said.len() == 2 && said[0].contains("is read-only"), "{said:?}");
        assert_eq!(said[1], WAITS);

        frozen.melt_all();
        super::super::accept_new_cluster(&paths, &stores).await.unwrap();
        assert!(stores.meta.scan(Table::Desired).await.unwrap().is_empty());
        assert!(!paths.replace_cluster().exists());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_disk_on_which_the_store_cannot_be_opened_is_tried_less_and_less_often() {
        let mut pause = EVERY;
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                pause = pause_after(Thaw::Failed, pause);
                pause.as_secs()
            })
            .collect();
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!(pause_after(Thaw::ReadOnly, pause), EVERY);
    }

    #[tokio::test]
    async fn the_cluster_hears_of_a_disk_that_keeps_no_event() {
        let (db, full) = Db::fillable();
        full.store(true, Ordering::Relaxed);
        let reporter = Reporter::load(db).await.unwrap();
        let event = repairs::event(
            "pump-7",
            std::time::UNIX_EPOCH,
            0,
            ("Warning", "StoreReadOnly", "x"),
        );
        say(&reporter, &event).await.unwrap();
        assert_eq!(reporter.pending_events(), 1);
    }
}
