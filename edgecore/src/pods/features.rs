//! Pods: features.
