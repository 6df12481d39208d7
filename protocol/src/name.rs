//! protocol: name.
