//! cloudcore: tunnel.
