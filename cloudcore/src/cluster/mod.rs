//! cloudcore: cluster.
