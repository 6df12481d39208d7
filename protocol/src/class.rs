//! protocol: class.
