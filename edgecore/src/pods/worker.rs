//! Pods: worker.
