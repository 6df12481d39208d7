//! Pods: volumes.
