//! Pods: sandbox_config.
