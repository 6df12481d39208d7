//! Pods: resources.
