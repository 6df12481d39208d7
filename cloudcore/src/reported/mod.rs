//! cloudcore: reported.
