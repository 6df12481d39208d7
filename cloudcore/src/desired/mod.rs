//! cloudcore: desired.
