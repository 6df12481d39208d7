//! protocol: reported.
