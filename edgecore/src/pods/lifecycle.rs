//! Pods: lifecycle.
