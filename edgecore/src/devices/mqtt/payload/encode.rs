//! What clients are told.

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::devices::{DeviceName, DeviceState, TwinValue};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::devices::{Standing, TwinChange, TwinView};

/// What a property's type is where nobody said: KubeEdge's own default.
const UNTYPED: &str = "string";

/// The longest reason of a failure.
const MOST_REASON: usize = 512;

#[derive(Serialize)]
struct Message<'a, T> {
    event_id: &'a str,
    timestamp: i64,
    #[serde(flatten)]
    rest: T,
}

/// A device, as membership lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Which.
    pub(crate) device: DeviceName,
    /// How it is.
    pub(crate) standing: Option<Standing>,
}

/// An update that was taken, or a twin that was asked for.
pub(crate) fn result<'a>(
    event_id: &str,
    timestamp: i64,
    twin: impl Iterator<Item = (&'a str, &'a TwinView)>,
) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        twin: BTreeMap<&'a str, View<'a>>,
    }
    let twin = twin.map(|(name, view)| (name, View(view))).collect();
    write(event_id, timestamp, Rest { twin })
}

/// Something that was not taken. Reasons may repeat what was sent.
pub(crate) fn failure(event_id: &str, timestamp: i64, code: u16, reason: &str) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        code: u16,
        reason: &'a str,
    }
    let reason = reason
        .get(..reason.floor_char_boundary(MOST_REASON))
        .unwrap_or_default();
    write(event_id, timestamp, Rest { code, reason })
}

/// What a device should be and is not: beside each wish, whether met or not, what it wants.
pub(crate) fn delta(
    event_id: &str,
    timestamp: i64,
    wished: &BTreeMap<String, TwinView>,
    delta: &BTreeMap<String, String>,
) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        twin: BTreeMap<&'a str, View<'a>>,
        delta: &'a BTreeMap<String, String>,
    }
    let twin = wished
        .iter()
        .map(|(name, view)| (name.as_str(), View(view)))
        .collect();
    write(event_id, timestamp, Rest { twin, delta })
}

/// A twin before and after.
pub(crate) fn document<'a>(
    event_id: &str,
    timestamp: i64,
    changes: impl Iterator<Item = (&'a str, &'a TwinChange)>,
) -> Bytes {
    #[derive(Serialize)]
    struct Document<'a> {
        last: Option<View<'a>>,
        current: Option<View<'a>>,
    }
    #[derive(Serialize)]
    struct Rest<'a> {
        twin: BTreeMap<&'a str, Document<'a>>,
    }
    let twin = changes.map(|(name, change)| {
        let last = change.last.as_ref().map(View);
        let current = change.current.as_ref().map(View);
        (name, Document { last, current })
    });
    write(event_id, timestamp, Rest { twin: twin.collect() })
}

/// How a device is.
pub(crate) fn state_result(
    event_id: &str,
    timestamp: i64,
    device: &DeviceName,
    (state, last_online): (DeviceState, Option<i64>),
) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Device<'a> {
        name: &'a str,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_online_time: Option<String>,
    }
    #[derive(Serialize)]
    struct Rest<'a> {
        device: Device<'a>,
    }
    let device = Device {
        name: &device.name,
        state: state.name(),
        last_online_time: last_online.and_then(written_time),
    };
    write(event_id, timestamp, Rest { device })
}

/// Which devices a node has.
pub(crate) fn membership(event_id: &str, timestamp: i64, devices: &[Member]) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        devices: Vec<Listed<'a>>,
    }
    let devices = devices.iter().map(listed).collect();
    write(event_id, timestamp, Rest { devices })
}

/// Which devices came and went.
pub(crate) fn membership_updated(
    event_id: &str,
    timestamp: i64,
    added: &[Member],
    removed: &[Member],
) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        added_devices: Vec<Listed<'a>>,
        removed_devices: Vec<Listed<'a>>,
    }
    let rest = Rest {
        added_devices: added.iter().map(listed).collect(),
        removed_devices: removed.iter().map(listed).collect(),
    };
    write(event_id, timestamp, rest)
}

/// A device's manifest has changed; this version of the API has no attributes that could be told.
pub(crate) fn device_updated(event_id: &str, timestamp: i64) -> Bytes {
    #[derive(Serialize)]
    struct Rest {
        attributes: Attributes,
    }
    let attributes = Attributes {};
    write(event_id, timestamp, Rest { attributes })
}

/// This version of the API has none, and clients look for the key.
#[derive(Serialize)]
struct Attributes {}

#[derive(Serialize)]
struct Listed<'a> {
    id: String,
    name: &'a str,
    description: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_online: Option<String>,
    attributes: Attributes,
}

fn listed(member: &Member) -> Listed<'_> {
    let standing = member.standing;
    Listed {
        id: member.device.to_string(),
        name: &member.device.name,
        description: "",
        state: standing
            .map_or(DeviceState::Unknown, |standing| standing.state)
            .name(),
        last_online: standing
            .and_then(|standing| standing.last_online)
            .and_then(written_time),
        attributes: Attributes {},
    }
}

struct View<'a>(&'a TwinView);

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Type<'a> {
            r#type: &'a str,
        }
        let view = self.0;
        let type_ = Some(view.type_.as_str()).filter(|type_| !type_.is_empty());
        let mut map = serializer.serialize_map(None)?;
        if let Some(expected) = &view.expected {
            map.serialize_entry("expected", &Value(expected))?;
        }
        if let Some(actual) = &view.actual {
            map.serialize_entry("actual", &Value(actual))?;
        }
        map.serialize_entry("optional", &true)?;
        let type_ = Type {
            r#type: type_.unwrap_or(UNTYPED),
        };
        map.serialize_entry("metadata", &type_)?;
        map.end()
    }
}

struct Value<'a>(&'a TwinValue);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("value", &self.0.value)?;
        map.serialize_entry("metadata", &Metadata(&self.0.metadata))?;
        map.end()
    }
}

struct Metadata<'a>(&'a BTreeMap<String, String>);

/// The type stands beside both values, and the version is the cluster's concern.
impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, text) in self.0 {
            match (key.as_str(), text.parse::<i64>()) {
                ("timestamp", Ok(number)) => map.serialize_entry(key, &number)?,
                // A client that expects a number would refuse the whole message.
                ("timestamp", Err(_)) | ("type" | "version", _) => {}
                (_, _) => map.serialize_entry(key, text)?,
            }
        }
        map.end()
    }
}

fn written_time(milliseconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(milliseconds).ok()?;
    Some(time.to_string())
}

/// Nothing in these types can fail to be written: keys are text, and there are no foreign values.
fn write<T: Serialize>(event_id: &str, timestamp: i64, rest: T) -> Bytes {
    let message = Message {
        event_id,
        timestamp,
        rest,
    };
    serde_json::to_vec(&message).map_or_else(|_| Bytes::new(), Bytes::from)
}
