//! Pods: termination.
