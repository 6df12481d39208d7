//! The link to cloudcore: dialing, backing off, the session and its flows.
