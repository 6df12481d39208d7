//! Pods: expansion.
