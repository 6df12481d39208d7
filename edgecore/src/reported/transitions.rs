//! Since when the node's conditions hold, on flash: the report with it leaves the disk once the API server has it.
//!
//! **Invariant:** it is written with the report that says it, and only when a status has changed.

use k8s_openapi::api::core::v1::{Node, NodeCondition};

use crate::store::{Db, StoreError, Table};

/// The row of [`Table::Meta`].
pub(super) const ROW: &str = "node-conditions";

/// What was kept. What cannot be read is begun anew: it is shown and nothing hangs on it.
pub(super) async fn load(db: &Db) -> Result<Vec<NodeCondition>, StoreError> {
    let row = db.get(Table::Meta, ROW).await?;
    Ok(row
        .and_then(|row| serde_json::from_slice(&row).ok())
        .unwrap_or_default())
}

/// The document's conditions without what changes while they hold.
pub(super) fn of(document: &Node) -> Vec<NodeCondition> {
    let status = document.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let bare = |condition: &NodeCondition| NodeCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        last_transition_time: condition.last_transition_time.clone(),
        ..NodeCondition::default()
    };
    conditions.into_iter().flatten().map(bare).collect()
}
