//! What is kept of a twin, as the journal has it. A key that is not written has its default: so an older
//! agent reads what a newer one wrote, and the other way round.

use std::sync::Arc;

use protocol::devices::DeviceState;
use serde::{Deserialize, Serialize};

/// How far a value can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Quality {
    /// It was said, and fits its type.
    #[default]
    Good,
    /// It was good, and nobody has said it for too long.
    Stale,
    /// It does not fit, or cannot be read any more.
    Error,
}

/// What a device said of one property.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reported {
    /// The value as it was sent; none if all that is known is that it cannot be read.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Arc<str>>,
    /// When the node took it, ms since 1970.
    #[serde(rename = "t")]
    pub(crate) at: i64,
    /// Grows with each report.
    #[serde(rename = "n")]
    pub(crate) version: u64,
    /// How far it can be relied on.
    #[serde(rename = "q", default, skip_serializing_if = "is_default")]
    pub(crate) quality: Quality,
    /// Why it is an error.
    #[serde(rename = "r", default, skip_serializing_if = "is_default")]
    pub(crate) reason: String,
    /// When the device says that it measured.
    #[serde(rename = "d", default, skip_serializing_if = "is_default")]
    pub(crate) device_timestamp: Option<String>,
    /// The type that the sender gave.
    #[serde(rename = "y", default, skip_serializing_if = "is_default")]
    pub(crate) type_: Option<String>,
    /// A mapper said it, so that no cycle holds it.
    #[serde(rename = "m", default, skip_serializing_if = "is_default")]
    pub(crate) mapper: bool,
    /// It is an error only because the device was set to something else in vain; what it is otherwise.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub(crate) otherwise: Option<Quality>,
    /// The value was read from flash after a boot, with this version: the cluster may have something newer.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub(crate) recalled: Option<u64>,
}

/// What a property should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wished {
    /// The value.
    #[serde(rename = "v")]
    pub(crate) value: Arc<str>,
    /// When the node heard of it, ms since 1970.
    #[serde(rename = "t")]
    pub(crate) at: i64,
    /// Grows with each change.
    #[serde(rename = "n")]
    pub(crate) version: u64,
    /// Somebody on the site said it, not the cluster.
    #[serde(rename = "l", default, skip_serializing_if = "is_default")]
    pub(crate) local: bool,
    /// When it ends, ms since 1970.
    #[serde(rename = "e", default, skip_serializing_if = "is_default")]
    pub(crate) expires: Option<i64>,
    /// The device has said it, or was set to it in vain: what it says otherwise later was changed there,
    /// and stays.
    #[serde(rename = "d", default, skip_serializing_if = "is_default")]
    pub(crate) done: bool,
    /// Why the device was set to it in vain; empty if it was not, or says it by now.
    #[serde(rename = "g", default, skip_serializing_if = "is_default")]
    pub(crate) given_up: String,
}

/// What the cluster's manifest said last: a wish counts when this changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The value.
    #[serde(rename = "v")]
    pub(crate) value: Arc<str>,
    /// When it ends, as it was written.
    #[serde(rename = "e", default, skip_serializing_if = "is_default")]
    pub(crate) expires: Option<String>,
}

/// All that is kept of one property.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// What the device said.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(crate) reported: Option<Arc<Reported>>,
    /// What it should be.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub(crate) wish: Option<Arc<Wished>>,
    /// What the cluster's manifest said last.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Arc<Manifest>>,
    /// Another wish was there before, the device may have been set to it, and has never said so: what it said
    /// may be older than that. It is set with the wish that follows, before anybody can carry that out.
    #[serde(rename = "d", default, skip_serializing_if = "is_default")]
    pub(crate) doubt: bool,
}

/// How the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stood {
    /// How it is.
    #[serde(rename = "s")]
    pub(crate) state: DeviceState,
    /// Somebody said so; else it follows from reports.
    #[serde(rename = "x", default, skip_serializing_if = "is_default")]
    pub(crate) said: bool,
    /// When it was last seen, ms since 1970.
    #[serde(rename = "t", default, skip_serializing_if = "is_default")]
    pub(crate) last_online: Option<i64>,
}

impl Reported {
    /// How far the value itself can be relied on, whatever the device was set to in vain.
    pub(crate) fn own_quality(&self) -> Quality {
        self.otherwise.unwrap_or(self.quality)
    }

    /// The same value of another quality.
    pub(crate) fn with_own_quality(mut self, quality: Quality) -> Self {
        match &mut self.otherwise {
            Some(otherwise) => *otherwise = quality,
            None => self.quality = quality,
        }
        self
    }
}

impl Wished {
    /// Whether the device has yet to say it, also where it was set to it in vain.
    pub(crate) fn is_open(&self) -> bool {
        !self.done || !self.given_up.is_empty()
    }
}

impl Kept {
    /// Grows with each change.
    pub(crate) fn version(&self) -> u64 {
        let reported = self.reported.as_ref().map(|reported| reported.version);
        let wish = self.wish.as_ref().map(|wish| wish.version);
        reported.max(wish).unwrap_or_default()
    }
}

impl Default for Stood {
    fn default() -> Self {
        Self {
            state: DeviceState::Unknown,
            said: false,
            last_online: None,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
