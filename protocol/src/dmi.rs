//! The device mapper interface `v1beta1`, generated from `proto/dmi.proto`: what edgecore and a mapper
//! say to each other.
//!
//! Both ends of both services are here, so that a mapper in Rust needs nothing else. Maps are ordered:
//! equal messages have equal bytes, and a digest of them tells whether something changed.

#![allow(
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    reason = "generated; the documentation stands in dmi.proto"
)]

include!(concat!(env!("OUT_DIR"), "/v1beta1.rs"));
