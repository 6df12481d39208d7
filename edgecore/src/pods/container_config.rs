//! Pods: container_config.
