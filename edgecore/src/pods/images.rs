//! Pods: images.
