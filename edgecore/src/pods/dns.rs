//! Pods: dns.
