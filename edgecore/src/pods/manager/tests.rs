//! The manager against the runtime in memory.
