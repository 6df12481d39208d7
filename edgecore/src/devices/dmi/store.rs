//! The rows of mappers in the node's store.

use bytes::Bytes;
use futures::future::BoxFuture;

use super::rows::{Rows, RowsError};
use crate::store::{Batch, Db, Op, StoreError, Table};

impl Rows for Db {
    fn load(&self) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, RowsError>> {
        Box::pin(async { self.scan(Table::Mapper).await.map_err(failed) })
    }

    fn write(&self, rows: Vec<(String, Option<Bytes>)>) -> BoxFuture<'_, Result<(), RowsError>> {
        let mut batch = Batch::new();
        for (key, value) in rows {
            batch.push(Table::Mapper, key, value.map_or(Op::Delete, Op::Put));
        }
        Box::pin(async { self.commit(batch).await.map_err(failed) })
    }
}

fn failed(error: StoreError) -> RowsError {
    RowsError(Box::new(error))
}
