//! Whether the last run came to its end: what others kept meanwhile is as new as what is here.

use bytes::Bytes;

use crate::store::{Batch, Db, StoreError, Table};

/// The row that is there while nothing runs.
const STOPPED: &str = "devices-stopped";

/// Whether the last run came to its end; this one has not.
pub(super) async fn take(db: &Db) -> Result<bool, StoreError> {
    let stopped = db.get(Table::Meta, STOPPED).await?.is_some();
    if stopped {
        db.commit(Batch::new().delete(Table::Meta, STOPPED)).await?;
    }
    Ok(stopped)
}

/// This run has come to its end.
pub(super) async fn note(db: &Db) -> Result<(), StoreError> {
    db.commit(Batch::new().put(Table::Meta, STOPPED, Bytes::new()))
        .await
}
