//! The default pod network and the way of pods to the API server.
//!
//! [`conflist`] writes the network configuration of a fresh machine, once, at join, and [`plugin`] is what it
//! names: the runtime runs it for each pod. [`api`]
//! listens on the cluster IP of `default/kubernetes`, which edgecore adds to `lo`, and splices
//! each connection through the tunnel: TLS runs end to end between the pod and the API server,
//! with the pod's own token. [`nat`] says what the device translates for its pods, and [`iptables`] has
//! the kernel do it.
//!
//! **Invariant:** a network configuration that someone else wrote is never touched, and an
//! address that was added to `lo` is removed when nobody listens on it any more; after a kill by whoever comes next.

pub mod addresses;
pub mod api;
pub mod conflist;
pub mod in_use;
pub mod iptables;
pub mod nat;
pub mod netlink;
pub mod plugin;
pub mod pod_cidr;
pub mod routes;
#[cfg(test)]
pub(crate) mod testing;
