//! The cgroups of pods: how they are called, what limits they get, and their end.
//!
//! [`CgroupLayout`] is the naming, [`Cgroups`] the hand on the tree. Containers' own cgroups are made by the
//! runtime below the pod's.

pub mod driver;
mod error;
mod files;
mod hierarchy;
mod layout;
mod limits;
mod systemd;
mod tree;
mod usage;

pub use error::CgroupError;
pub(crate) use hierarchy::controllers_below;
pub use layout::{CgroupDriver, CgroupLayout, UnknownDriver};
pub use systemd::{Malformed, SystemdError};
pub(crate) use tree::CGROUP_TOP;
pub use tree::Cgroups;
