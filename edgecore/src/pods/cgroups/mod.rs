//! Pods: cgroups.
