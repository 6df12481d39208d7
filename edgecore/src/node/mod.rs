//! What this device is: capacity, conditions, addresses, labels.
//!
//! ```text
//! observe (reads /proc, /sys, CRI) -> Observation -> document (pure) -> Reporter, when it changed
//! ```
//!
//! [`observe`] alone reads the machine; [`conditions`] and [`document`] only judge what was
//! read. The node's `status.addresses` and `daemonEndpoints` are cloudcore's and never written
//! here; the device's own address travels as an annotation.
//!
//! **Invariant:** a document is sent only when something other than a heartbeat changed, so an
//! idle node costs the link and the API server nothing.

pub mod address;
pub mod capacity;
pub mod conditions;
pub mod document;
pub mod host_ip;
pub mod images;
pub mod observe;
pub mod pressures;
pub mod quantity;
pub mod report;
pub mod shortage;
pub mod thresholds;
mod watch;

use std::net::IpAddr;

use crate::runtime::Known;

/// All that is known of the device at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What does not change while the machine runs.
    pub machine: Machine,
    /// Memory, storage and processes now.
    pub load: Load,
    /// What the runtime says of itself, or why it says nothing.
    pub runtime: Result<RuntimeFacts, String>,
    /// The address from which the device talks to the world.
    pub device_address: Option<IpAddr>,
}

/// What the machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's id, else the machine id.
    pub system_uuid: String,
    /// The kernel's random id of this boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// Processors online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// Huge pages by size: bytes of one page, bytes in all.
    pub huge_pages: Vec<(u64, u64)>,
}

/// What is used and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of memory that can be had without swapping.
    pub memory_available: u64,
    /// The file system of the pods; absent when it could not be read.
    pub disk: Option<Disk>,
    /// The file system of images, where it is another one and could be read.
    pub images: Option<Disk>,
    /// Threads that exist.
    pub pids_used: u64,
    /// Threads that may exist.
    pub pids_max: u64,
}

/// A file system's size and what is left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are free for us.
    pub bytes_free: u64,
    /// Inodes in all; 0 where the file system has no limit.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// What the container runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// `containerd`, `cri-o`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The condition `RuntimeReady`, if it was given.
    pub runtime_ready: Option<RuntimeCondition>,
    /// The condition `NetworkReady`, if it was given.
    pub network_ready: Option<RuntimeCondition>,
    /// Handlers by name, with what they can do.
    pub handlers: Vec<Handler>,
    /// Whether the runtime knows `supplementalGroupsPolicy`; unknown before CRI 1.31.
    pub supplemental_groups_policy: Option<bool>,
    /// Images on the device.
    pub images: Vec<Image>,
}

impl RuntimeFacts {
    /// What pods need to know of it.
    pub fn known(&self) -> Known {
        let recursive = self
            .handlers
            .iter()
            .filter(|handler| handler.recursive_read_only_mounts);
        Known {
            recursive_read_only: recursive.map(|handler| handler.name.clone()).collect(),
            supplemental_groups_policy: self.supplemental_groups_policy == Some(true),
        }
    }
}

/// One condition of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// Whether it holds.
    pub status: bool,
    /// A word for it.
    pub reason: String,
    /// A sentence for it.
    pub message: String,
}

/// One runtime handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    /// The name; empty for the default one.
    pub name: String,
    /// Whether read-only mounts can be made so all the way down.
    pub recursive_read_only_mounts: bool,
    /// Whether pods may have user namespaces.
    pub user_namespaces: bool,
}

/// One image on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Digests, then tags.
    pub names: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
}
