//! cloudcore: cli.
