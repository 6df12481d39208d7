//! What a pod uses of the device.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use crate::node::thresholds::Signal;

/// A part of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    /// There is more, which is not counted.
    pub(super) cut: bool,
}

impl Add for Space {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
            cut: self.cut || other.cut,
        }
    }
}

impl AddAssign for Space {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Space {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// What one container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContainerUsage {
    /// Bytes that it works with: no cache that could go.
    pub(super) memory: u64,
    /// What it wrote beside its volumes, where that is on the file system of the pods.
    pub(super) layer: Space,
    /// The same, where images lie on a file system of their own.
    pub(super) layer_apart: Space,
    /// Its logs.
    pub(super) logs: Space,
}

impl ContainerUsage {
    pub(super) fn disk(&self) -> Space {
        self.layer + self.logs
    }
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes that the pod works with.
    pub(super) memory: u64,
    /// Processes and threads; none where they are not counted.
    pub(super) processes: u64,
    /// By name.
    pub(super) containers: BTreeMap<String, ContainerUsage>,
    /// Volumes on the device's disk, by name.
    pub(super) volumes: BTreeMap<String, Space>,
    /// What else there is of it on disk: its hosts file, termination messages.
    pub(super) rest: Space,
}

impl Usage {
    pub(super) fn disk(&self) -> Space {
        let containers: Space = self.containers.values().map(ContainerUsage::disk).sum();
        containers + self.volumes.values().copied().sum() + self.rest
    }

    fn layers_apart(&self) -> Space {
        self.containers
            .values()
            .map(|container| container.layer_apart)
            .sum()
    }

    /// Whether more is used of it than could be counted.
    pub(super) fn is_cut(&self, signal: Signal) -> bool {
        matches!(signal, Signal::Disk | Signal::Inodes) && self.disk().cut
    }

    pub(super) fn of(&self, signal: Signal) -> u64 {
        match signal {
            Signal::Memory => self.memory,
            Signal::Disk => self.disk().bytes,
            Signal::Inodes => self.disk().inodes,
            Signal::Images => self.layers_apart().bytes,
            Signal::ImageInodes => self.layers_apart().inodes,
            Signal::Pids => self.processes,
        }
    }
}
