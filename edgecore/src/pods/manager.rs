//! Pods: manager.
