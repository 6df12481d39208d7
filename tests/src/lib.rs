//! The testbed: a small real cluster and real edge machines as child processes.
//!
//! ```text
//!  host: etcd, kube-apiserver, controller-manager, scheduler     (control_plane/)
//!    |
//!  bridge tmb<n>, 198.18.x.0/20                                   (network.rs)
//!    |-- machine w1: containerd, kubelet, kube-proxy, cloudcore   (machine/, cluster_node.rs)
//!    |-- machine e1: containerd, edgecore                         (machine/, edge_machine.rs)
//!    `-- virtual machine: systemd, cgroup v2, edgecore            (vm/)
//! ```
//!
//! A [`Testbed`] owns all of it; [`ground`] sees to it that nothing stays behind, however the
//! program ends. `make demo`, the end-to-end tests, the oracle and the bench are thin users of this library.
//!
//! **Invariant:** every process, mount, device and cgroup that a testbed makes can be found again
//! from the testbed's number alone.

pub mod audit;
pub mod cache;
pub mod cgroup;
pub mod cloudcore;
pub mod cluster_node;
pub mod command;
pub mod containerd;
pub mod control_plane;
pub mod cri_proxy;
pub mod edge_machine;
pub mod ground;
pub mod machine;
pub mod mosquitto;
pub mod mqtt_load;
pub mod network;
pub mod pods;
pub mod programs;
pub mod registry;
pub mod relay;
pub mod testbed;
pub mod vm;
pub mod wait;

pub use cache::Cache;
pub use edge_machine::EdgeMachine;
pub use testbed::Testbed;

/// Turns this process into a helper of the testbed when it was started as one.
///
/// The executable that uses the testbed is also PID 1 of its machines and the keeper that tears
/// everything down, so its `main` calls this before anything else. Returns only in the process
/// that the user started.
pub fn enter() {
    let mut args = std::env::args_os().skip(1);
    let role = args.next();
    match role.as_deref().and_then(std::ffi::OsStr::to_str) {
        Some(machine::init::ROLE) => machine::init::run(args.next()),
        Some(ground::KEEPER_ROLE) => ground::keep(args.next()),
        _ => {}
    }
}
