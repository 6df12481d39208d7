//! What this node must hold, in memory and on disk.
