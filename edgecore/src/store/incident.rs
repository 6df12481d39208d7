//! What had to be done to open a store, for the log, `edgecore status` and the cluster.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The rungs of the ladder that leave something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rung {
    /// The snapshots were dropped, and the whole log read.
    Snapshots,
    /// Single rows were dropped.
    Rows,
    /// The rows are good, and may be older than what was written last.
    Stale,
    /// What could be read was moved into a new database.
    Salvaged,
    /// Damaged commits of the log in front of it were left out.
    Log,
    /// The database was put aside, and an empty one begun.
    Emptied,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The database's name.
    pub database: String,
    /// What kind of thing.
    pub rung: Rung,
    /// Why, and to what.
    pub detail: String,
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.rung {
            Rung::Snapshots => "its snapshots were dropped, because it did not open",
            Rung::Rows => "damaged rows were dropped",
            Rung::Stale => "it may be older than what was written last",
            Rung::Salvaged => "what could be read was moved into a new database",
            Rung::Log => "damaged commits of its log were left out",
            Rung::Emptied => "it was put aside, and started empty",
        };
        write!(f, "the store {}: {what}: {}", self.database, self.detail)
    }
}
