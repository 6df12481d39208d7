//! The cgroups of pods: how they are called, what limits they get, and their end.
//!
//! [`CgroupLayout`] is the naming, [`Cgroups`] the hand on the tree. Containers' own cgroups are made by the
//! runtime below the pod's.

mod hierarchy;
mod layout;
mod limits;
mod tree;

pub use layout::{CgroupDriver, CgroupLayout};
pub use tree::{CgroupError, Cgroups};
