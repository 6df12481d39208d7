//! Brings a connected edge what it must hold, and keeps it equal to its node's view.
//!
//! What it is: the waiting around [`Publisher`](protocol::desired::Publisher), which decides. What it is not: a cache; bodies
//! are shared with the cluster's index, and a key that changes while the edge is slow costs
//! nothing.
//!
//! **Invariant:** nothing is compared before the node's pods were listed consistently in this
//! session.

mod retry;
mod serve;
mod source;

#[cfg(test)]
mod tests;

pub use serve::{DesiredError, run, serve};
pub use source::{NodeSource, Source};
