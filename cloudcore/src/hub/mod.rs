//! cloudcore: hub.
