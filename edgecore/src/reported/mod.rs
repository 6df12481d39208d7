//! What this node observed, on its way to the cluster.
