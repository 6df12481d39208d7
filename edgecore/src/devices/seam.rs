//! Between the twins and those who carry values to and fro: the seam that a carrier's tests replace.
//!
//! **Invariant:** when [`Twins::report`] has returned, an accepted value survives what its
//! property's durability promises; a refusal says which value it was and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use protocol::devices::{DeviceName, DeviceState, TwinValue};
use thiserror::Error;
use tokio::sync::{broadcast, watch};

use super::served::Served;

/// Values of one device, as one carrier saw them, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The device.
    pub device: DeviceName,
    /// What was seen.
    pub seen: Vec<Seen>,
    /// The sender's mark of this report: echoed to whoever hears of it; empty if it gave none.
    pub event_id: String,
    /// Who saw it.
    pub origin: Origin,
}

/// Who speaks with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client of the broker, on the `$hw` topics.
    Mqtt,
    /// A mapper.
    Mapper,
    /// A driver of ours.
    Driver,
    /// The node itself: the cluster's wish changed, or a value went stale.
    Node,
}

/// One property, as seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The property.
    pub property: String,
    /// What of it.
    pub observation: Observation,
    /// What the sender said of it.
    pub clue: Clue,
}

/// What was seen of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It has this value.
    Value(String),
    /// It cannot be read, and why: the last value stays, with quality `error`.
    Fault(String),
    /// It was set to the wish of this version, did not say so in time, and why: that one is not written again.
    GivenUp {
        /// The wish.
        version: u64,
        /// What it is like.
        why: String,
    },
    /// The wish of this version is in doubt no more: whatever the device was set to before it is over.
    Settled {
        /// The wish.
        version: u64,
    },
    /// It had this value at some time before: taken only while no value is held, as `stale`.
    Retained(String),
    /// Somebody on the site wants it to be so.
    Wished(String),
    /// Somebody on the site wants the property gone from the local twin.
    Dropped,
}

/// What a sender says of a value: shown, never compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clue {
    /// When the device says that it measured, as it came.
    pub device_timestamp: Option<String>,
    /// The type that the sender gave.
    pub type_: Option<String>,
    /// What is to be known of a value that is good all the same; empty if nothing is.
    pub note: String,
}

/// What a property should be, as the node sees it now: the newest change of cluster and site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The value.
    pub value: String,
    /// Grows with each change of this property's wish; equal means the same wish.
    pub version: u64,
    /// Whether the last report equals it, by type and tolerance, however old that report is.
    pub met: bool,
    /// Whether the device has said it since it was wished for, or said it at that time, or it was given up:
    /// what differs now stays.
    pub done: bool,
    /// Whether the device may have been set to something that it has never said: to another wish before this
    /// one, or to this one by an earlier process.
    pub in_doubt: bool,
}

/// One property of a twin, as local clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwinView {
    /// What it should be.
    pub expected: Option<TwinValue>,
    /// What the device said.
    pub actual: Option<TwinValue>,
    /// The type of its values, lower case; the model's, else the sender's.
    pub type_: String,
}

/// A change of one property; equal sides where a value was said again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinChange {
    /// Before; none if it was not there.
    pub last: Option<TwinView>,
    /// After; none if it is gone.
    pub current: Option<TwinView>,
}

/// What local clients are told of one accepted report, or of one change by the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The device.
    pub device: DeviceName,
    /// The mark of the report it follows from; empty if there is none.
    pub event_id: String,
    /// Whose report it was.
    pub origin: Origin,
    /// When the node took it, ms since 1970.
    pub timestamp: i64,
    /// Every property that the report named.
    pub changes: BTreeMap<String, TwinChange>,
    /// Every property that anybody has a wish for.
    pub wished: BTreeMap<String, TwinView>,
    /// Of those, the ones whose device said something else, or nothing yet: name to wanted value.
    pub delta: BTreeMap<String, String>,
}

/// How a device is, and since when it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How it is.
    pub state: DeviceState,
    /// When it was last seen, ms since 1970; none if never.
    pub last_online: Option<i64>,
}

/// Why a report or a wish was not taken. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// No such device is served here.
    #[error("no device {0} is at this node")]
    UnknownDevice(DeviceName),
    /// One value is too large, or all of the device's together.
    #[error("{what} has {bytes} bytes, more than {limit}")]
    TooLarge {
        /// The property, or the device.
        what: String,
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A wish that the model does not allow.
    #[error("{property} cannot be set to {value:?}: {reason}")]
    BadWish {
        /// The property.
        property: String,
        /// The value.
        value: String,
        /// Its type, range or access.
        reason: String,
    },
    /// The journal cannot take it now. A value that flash refused may be in the twin all the same, as
    /// after an answer that was lost: whoever says it again does no harm.
    #[error("the value could not be stored: {0}")]
    Unavailable(String),
}

/// The twins, as a carrier sees them.
pub trait Twins: Send + Sync + 'static {
    /// Every device of this node, by name.
    fn devices(&self) -> Arc<BTreeMap<DeviceName, Arc<Served>>>;

    /// Changes whenever [`Twins::devices`] or any wish does.
    fn changed(&self) -> watch::Receiver<u64>;

    /// What the properties of a device should be: those alone that anybody wished for and that the
    /// model allows.
    fn wishes(&self, device: &DeviceName) -> BTreeMap<String, Wish>;

    /// The whole twin of a device; none if it is not served here.
    fn twin(&self, device: &DeviceName) -> Option<BTreeMap<String, TwinView>>;

    /// How a device is; none if it is not served here.
    fn standing(&self, device: &DeviceName) -> Option<Standing>;

    /// Every report that is taken from now on, in order. Whoever falls behind by more than the
    /// channel holds loses the oldest, and is told how many.
    fn told(&self) -> broadcast::Receiver<Arc<Told>>;

    /// Takes what a carrier saw, whole or not at all; returns when it is as durable as it must be.
    fn report(&self, report: Report) -> BoxFuture<'_, Result<Arc<Told>, Refused>>;

    /// Takes how a device is.
    fn state(&self, device: DeviceName, state: DeviceState) -> BoxFuture<'_, Result<Standing, Refused>>;
}
