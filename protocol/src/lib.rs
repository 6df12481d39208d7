//! What crosses the link between cloudcore and edgecore, with the I/O left out of all but
//! [`transport`] and [`tls`].

pub mod class;
pub mod clock;
pub mod desired;
pub mod devices;
#[cfg(feature = "dmi")]
pub mod dmi;
pub mod join;
pub mod labels;
pub mod name;
pub mod object;
pub mod reported;
pub mod tls;
pub mod transport;
pub mod wire;
