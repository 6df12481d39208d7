//! Pods: env.
