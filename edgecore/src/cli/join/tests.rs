//! Join, without a cluster.
