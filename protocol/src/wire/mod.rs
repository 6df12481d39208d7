//! protocol: wire.
