//! cloudcore: enroll.
