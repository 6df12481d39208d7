//! Pods: probes.
