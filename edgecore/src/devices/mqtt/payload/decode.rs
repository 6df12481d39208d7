//! What clients send.

use std::collections::BTreeMap;

use protocol::devices::DeviceState;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::devices::{Clue, Observation, Seen};

/// The longest mark of a message: it is held while its answer is on the way.
const MOST_EVENT_ID: usize = 1024;
/// The longest name of a property; KubeEdge takes 128.
const MOST_NAME: usize = 1024;

/// An update, read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Update {
    /// The sender's mark; empty if it gave none.
    pub(crate) event_id: String,
    /// When its sender says that it is, as written; none if it gave no time, or zero as clients do
    /// that leave the field unset.
    pub(crate) timestamp: Option<String>,
    /// What it says of the properties.
    pub(crate) seen: Vec<Seen>,
}

/// Why a payload was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    /// It is no text.
    #[error("the message is not UTF-8")]
    NotUtf8,
    /// It is no JSON of the right shape.
    #[error("the message is not what this topic takes: {0}")]
    NotJson(String),
    /// A part of it is too long.
    #[error("{what} has {bytes} bytes, more than {limit}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl Malformed {
    /// The code of the failure.
    pub(crate) const fn code(&self) -> u16 {
        match self {
            Self::NotUtf8 | Self::NotJson(_) => 400,
            Self::TooLarge { .. } => 413,
        }
    }
}

#[derive(Deserialize)]
struct RawUpdate<'a> {
    #[serde(default)]
    event_id: Option<String>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    twin: BTreeMap<String, Option<RawEntry<'a>>>,
}

#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow)]
    expected: Option<RawValueOf<'a>>,
    #[serde(borrow)]
    actual: Option<RawValueOf<'a>>,
    metadata: Option<RawType>,
}

#[derive(Deserialize)]
struct RawValueOf<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<RawMetadata<'a>>,
}

#[derive(Deserialize)]
struct RawMetadata<'a> {
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawType {
    #[serde(rename = "type")]
    type_: Option<String>,
}

#[derive(Deserialize)]
struct RawState {
    #[serde(default)]
    event_id: Option<String>,
    state: String,
}

#[derive(Deserialize)]
struct RawMark {
    #[serde(default)]
    event_id: Option<String>,
}

/// Reads what was sent to `twin/update`.
pub(crate) fn update(payload: &[u8]) -> Result<Update, Malformed> {
    let raw: RawUpdate<'_> = read(payload)?;
    let event_id = marked(raw.event_id)?;
    let mut seen = Vec::with_capacity(raw.twin.len());
    for (property, entry) in raw.twin {
        bounded("the name of a property", property.len(), MOST_NAME)?;
        match entry {
            None => seen.push(Seen {
                property,
                observation: Observation::Dropped,
                clue: Clue::default(),
            }),
            Some(entry) => said(&property, entry, &mut seen)?,
        }
    }
    Ok(Update {
        timestamp: raw.timestamp.and_then(time),
        event_id,
        seen,
    })
}

/// Reads what was sent to `state/update`: the mark, and the state unless it has no such name.
pub(crate) fn state(payload: &[u8]) -> Result<(String, Option<DeviceState>), Malformed> {
    let raw: RawState = read(payload)?;
    Ok((marked(raw.event_id)?, DeviceState::from_name(&raw.state)))
}

/// Reads what was sent to a topic that takes a mark alone; nothing at all counts as no mark.
pub(crate) fn event_id(payload: &[u8]) -> Result<String, Malformed> {
    if payload.is_empty() {
        return Ok(String::new());
    }
    let raw: RawMark = read(payload)?;
    marked(raw.event_id)
}

fn read<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Malformed> {
    let text = std::str::from_utf8(payload).map_err(|_| Malformed::NotUtf8)?;
    serde_json::from_str(text).map_err(|error| Malformed::NotJson(error.to_string()))
}

fn marked(event_id: Option<String>) -> Result<String, Malformed> {
    let event_id = event_id.unwrap_or_default();
    bounded("event_id", event_id.len(), MOST_EVENT_ID)?;
    Ok(event_id)
}

const fn bounded(what: &'static str, bytes: usize, limit: usize) -> Result<(), Malformed> {
    if bytes > limit {
        return Err(Malformed::TooLarge { what, bytes, limit });
    }
    Ok(())
}

fn time(raw: &RawValue) -> Option<String> {
    let text = text(raw).ok()?;
    let is_set = text.parse().is_ok_and(|number: f64| number > 0.0);
    is_set.then_some(text)
}

/// The wish before the value: a device that says both says that it is as it says.
fn said(property: &str, entry: RawEntry<'_>, seen: &mut Vec<Seen>) -> Result<(), Malformed> {
    let type_ = entry.metadata.and_then(|metadata| metadata.type_);
    let wish: fn(String) -> Observation = Observation::Wished;
    for (side, observation) in [(entry.expected, wish), (entry.actual, Observation::Value)] {
        let Some(RawValueOf {
            value: Some(value),
            metadata,
        }) = side
        else {
            continue;
        };
        let timestamp = metadata.and_then(|metadata| metadata.timestamp);
        seen.push(Seen {
            property: property.to_owned(),
            observation: observation(text(value)?),
            clue: Clue {
                device_timestamp: timestamp.map(text).transpose()?,
                type_: type_.clone(),
                ..Clue::default()
            },
        });
    }
    Ok(())
}

/// A JSON text without its quotes; anything else as it was written.
fn text(raw: &RawValue) -> Result<String, Malformed> {
    let raw = raw.get();
    if raw.starts_with('"') {
        return serde_json::from_str(raw).map_err(|error| Malformed::NotJson(error.to_string()));
    }
    Ok(raw.to_owned())
}
