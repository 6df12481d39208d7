//! Messages and subscriptions, the same in both versions of MQTT.

use bytes::Bytes;

/// A message, as the broker delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where it was published.
    pub(crate) topic: String,
    /// What; nothing if that is too large.
    pub(crate) payload: Bytes,
    /// Whether the payload is too large, and was passed over.
    pub(crate) too_large: bool,
    /// Its number, if it wants an acknowledgement.
    pub(crate) packet: Option<u16>,
    /// Whether it was delivered before.
    pub(crate) repeat: bool,
    /// Whether the broker had kept it for new subscribers.
    pub(crate) retained: bool,
}

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Where to.
    pub(crate) topic: String,
    /// What.
    pub(crate) payload: Bytes,
    /// The quality of service.
    pub(crate) qos: u8,
    /// Whether the broker keeps it for new subscribers.
    pub(crate) retain: bool,
}

/// What is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// The filter itself.
    pub(crate) path: String,
    /// Whether what the broker had kept is wanted even where the subscription is not new; on 3.1.1 it
    /// comes always.
    pub(crate) always: bool,
}
