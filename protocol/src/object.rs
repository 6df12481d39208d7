//! protocol: object.
