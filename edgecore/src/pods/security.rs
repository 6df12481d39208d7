//! Pods: security.
