//! protocol: join.
