//! Pods: status.
