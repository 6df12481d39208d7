//! Pods: hosts.
