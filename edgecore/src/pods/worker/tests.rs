//! A worker against the runtime in memory.
