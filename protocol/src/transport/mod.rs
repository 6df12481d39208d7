//! protocol: transport.
