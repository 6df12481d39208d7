//! One record as one line of text: a digest, then JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::devices::twin::{Kept, Stood};

/// Characters of the digest before each record.
const DIGEST: usize = 16;

/// What one line says. Without property and standing: the device is gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line<'a> {
    /// The device's uid; empty for what concerns them all.
    #[serde(rename = "u", default, skip_serializing_if = "str::is_empty")]
    pub(crate) uid: Cow<'a, str>,
    /// The property.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub(crate) property: Option<Cow<'a, str>>,
    /// What is kept of it; none if it is gone.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<Cow<'a, Kept>>,
    /// How the device is.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub(crate) stood: Option<Stood>,
    /// The clock against the machine's own time.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub(crate) anchor: Option<i64>,
}

impl<'a> Line<'a> {
    /// A property is kept so, or is gone.
    pub(crate) fn property(uid: &'a str, name: &'a str, kept: Option<&'a Kept>) -> Self {
        Self {
            uid: Cow::Borrowed(uid),
            property: Some(Cow::Borrowed(name)),
            kept: kept.map(Cow::Borrowed),
            ..Self::default()
        }
    }

    /// A device is so.
    pub(crate) fn standing(uid: &'a str, stood: Stood) -> Self {
        Self {
            uid: Cow::Borrowed(uid),
            stood: Some(stood),
            ..Self::default()
        }
    }

    /// A device is gone.
    pub(crate) fn gone(uid: &'a str) -> Self {
        Self {
            uid: Cow::Borrowed(uid),
            ..Self::default()
        }
    }

    /// The clock against the machine's own time.
    pub(crate) fn anchor(by: i64) -> Self {
        Self {
            anchor: Some(by),
            ..Self::default()
        }
    }

    /// Appends the line.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let from = out.len();
        out.resize(from + DIGEST, b'0');
        out.push(b' ');
        if let Err(error) = serde_json::to_writer(&mut *out, self) {
            out.truncate(from);
            return Err(error);
        }
        let digest = digest(&out[from + DIGEST + 1..]);
        out[from..from + DIGEST].copy_from_slice(&digest);
        out.push(b'\n');
        Ok(())
    }

    /// Reads a line without its end; none if it is not what was written.
    pub(super) fn decode(line: &'a [u8]) -> Option<Self> {
        let (written, rest) = line.split_first_chunk::<DIGEST>()?;
        let json = rest.strip_prefix(b" ")?;
        if *written != digest(json) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

fn digest(json: &[u8]) -> [u8; DIGEST] {
    let mut hex = [0; DIGEST];
    let whole = blake3::hash(json).to_hex();
    hex.copy_from_slice(&whole.as_bytes()[..DIGEST]);
    hex
}
