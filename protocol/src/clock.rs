//! protocol: clock.
