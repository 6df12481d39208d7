//! What the bridge decides.
