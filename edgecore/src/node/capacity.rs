//! Capacity and allocatable, from what the machine has.
//!
//! Allocatable is what the kubelet would leave to pods with its default eviction thresholds:
//! 100 MiB of memory and a tenth of the disk stay with the system.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity::{bytes, count};
use super::{Disk, Machine};

/// The kubelet's `memory.available` threshold: below it the node is under memory pressure.
pub const MEMORY_RESERVED: u64 = 100 << 20;

/// Resources by name.
pub type Resources = BTreeMap<String, Quantity>;

/// What the machine has.
pub fn capacity(machine: &Machine, disk: Option<Disk>, max_pods: u32) -> Resources {
    let mut resources = huge_pages(machine);
    resources.insert("cpu".to_owned(), count(machine.cpus));
    resources.insert("memory".to_owned(), bytes(machine.memory));
    resources.insert("pods".to_owned(), count(max_pods));
    if let Some(disk) = disk {
        resources.insert("ephemeral-storage".to_owned(), bytes(disk.bytes));
    }
    resources
}

/// The kubelet's `nodefs.available` threshold: a tenth of the disk.
///
/// The kubelet multiplies by 0.1 in single precision, which is this fraction; so that the same
/// disk has the same allocatable under both, to the byte.
pub fn disk_reserved(bytes: u64) -> u64 {
    let tenth = (u128::from(bytes) * 13_421_773) >> 27;
    u64::try_from(tenth).unwrap_or(bytes)
}

/// What of it pods may ask for.
pub fn allocatable(machine: &Machine, disk: Option<Disk>, max_pods: u32) -> Resources {
    let mut resources = capacity(machine, disk, max_pods);
    let huge: u64 = machine.huge_pages.iter().map(|(_, total)| total).sum();
    let memory = machine
        .memory
        .saturating_sub(MEMORY_RESERVED)
        .saturating_sub(huge);
    resources.insert("memory".to_owned(), bytes(memory));
    if let Some(disk) = disk {
        resources.insert(
            "ephemeral-storage".to_owned(),
            bytes(disk.bytes - disk_reserved(disk.bytes)),
        );
    }
    resources
}

fn huge_pages(machine: &Machine) -> Resources {
    let named = |(size, total): &(u64, u64)| (format!("hugepages-{}", bytes(*size).0), bytes(*total));
    machine.huge_pages.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cpus: 4,
            memory: 8 << 30,
            huge_pages: vec![(2 << 20, 64 << 20)],
            ..Machine::default()
        }
    }

    const DISK: Disk = Disk {
        bytes: 100_000,
        bytes_free: 50_000,
        inodes: 10,
        inodes_free: 5,
    };

    #[test]
    fn capacity_is_what_the_machine_has() {
        let resources = capacity(&machine(), Some(DISK), 110);
        let shown: Vec<_> = resources.iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
        assert_eq!(
            shown,
            [
                "cpu=4",
                "ephemeral-storage=100000",
                "hugepages-2Mi=64Mi",
                "memory=8Gi",
                "pods=110"
            ]
        );
    }

    #[test]
    fn the_system_keeps_what_the_kubelet_would_keep() {
        let resources = allocatable(&machine(), Some(DISK), 110);
        assert_eq!(resources["memory"].0, "8028Mi");
        assert_eq!(resources["ephemeral-storage"].0, "90000");
        assert_eq!(resources["cpu"].0, "4");
    }

    #[test]
    fn a_tiny_machine_has_nothing_left_rather_than_less_than_nothing() {
        let tiny = Machine {
            memory: 64 << 20,
            ..machine()
        };
        assert_eq!(allocatable(&tiny, None, 110)["memory"].0, "0");
    }
}
