//! cloudcore: autonomy.
