//! cloudcore: config.
