//! cloudcore: supervise.
