//! protocol: desired.
