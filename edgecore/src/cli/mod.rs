//! The command line: join, run, status, reset.
