//! What one node made of a case, freed of what differs by nature.

use std::collections::BTreeSet;

use serde_json::Value;

/// One side of the comparison.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// `yes`, or why the case did not get where it should.
    pub(crate) reached: String,
    /// The edge node's words when it does not run the pod for want of a feature.
    pub(crate) unsupported: Option<String>,
    /// The phases, each time that they changed.
    pub(crate) phases: Vec<String>,
    /// How containers waited and ended.
    pub(crate) states: BTreeSet<String>,
    /// All the rest, compared leaf by leaf.
    pub(crate) tree: Value,
}
