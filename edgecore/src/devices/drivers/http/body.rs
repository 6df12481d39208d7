//! From bodies to values, and from wishes to requests. Pure.

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use serde_json::Value;

use super::config::{Property, Source, Write};
use super::place::{encoded, target};
use crate::devices::drivers::extract::Payload;
use crate::devices::{Clue, Observation};

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The method.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: PathAndQuery,
    /// What is sent, and what it is.
    pub(crate) body: Option<(HeaderValue, String)>,
}

impl Question {
    /// Only asks.
    pub(crate) const fn get(target: PathAndQuery) -> Self {
        Self {
            method: Method::GET,
            target,
            body: None,
        }
    }
}

/// What a body says of a property; none where it says nothing of it.
pub(crate) fn observe(
    property: &Property,
    source: &Source,
    payload: &Result<Payload<'_>, String>,
) -> Option<(Observation, Clue)> {
    let payload = match payload {
        Ok(payload) => payload,
        Err(why) => return Some((Observation::Fault(why.clone()), Clue::default())),
    };
    let value = source.find.text(payload).and_then(|text| match text {
        Some(text) => property.shape.value(&text),
        None => Ok(None),
    });
    let clue = Clue {
        device_timestamp: source.time.as_ref().and_then(|path| payload.at(path)),
        ..Clue::default()
    };
    match value {
        Ok(None) => None,
        Ok(Some(value)) => Some((Observation::Value(value), clue)),
        Err(why) => Some((Observation::Fault(why), clue)),
    }
}

/// The request that sets a property.
pub(crate) fn question(property: &Property, write: &Write, value: &str) -> Result<Question, String> {
    let own = write.map.iter().find(|(from, _)| from == value);
    let text = match own {
        Some((_, to)) => to.clone(),
        None => property.shape.text(value)?,
    };
    let json = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone()));
    // In a path a value is one piece of it, whatever it says.
    let piece = encoded(&text);
    let path = write.url.render(&piece, Some(&Value::String(piece.clone())))?;
    let target = target(path.trim()).map_err(|why| format!("write.url {why}"))?;
    let body = match &write.body {
        None => None,
        Some(template) => Some((write.content_type.clone(), template.render(&text, Some(&json))?)),
    };
    Ok(Question {
        method: write.method.clone(),
        target,
        body,
    })
}

#[cfg(test)]
mod tests;
