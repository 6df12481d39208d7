//! protocol: tls.
