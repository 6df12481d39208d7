//! cloudcore: observe.
