//! What the devices of the bench say, and what they are told.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a device reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Value {
    /// A text that fills the message up to so many bytes, another one each time.
    Filling(usize),
    /// How often it has reported.
    Count,
    /// When it reports, in microseconds since 1970.
    Time,
}

/// An update of one property; its mark says when it was written.
pub(super) fn update(out: &mut String, (number, at): (u64, u64), property: u64, value: Value) {
    out.clear();
    // A text has always room.
    let _ = write!(
        out,
        r#"{{"event_id":"{at}.{number}","timestamp":0,"twin":{{"p{property}":{{"actual":{{"value":""#
    );
    let _ = match value {
        Value::Filling(size) => {
            let end = r#""}}}}"#.len();
            let room = size.saturating_sub(out.len() + end);
            write!(out, "{number:0room$}")
        }
        Value::Count => write!(out, "{number}"),
        Value::Time => write!(out, "{at}"),
    };
    out.push_str(r#""}}}}"#);
}

/// The mark of a message: what it says first, here as at the node.
pub(super) fn mark(payload: &str) -> Result<&str> {
    let rest = payload.strip_prefix(r#"{"event_id":""#);
    let mark = rest.and_then(|rest| rest.split_once('"'));
    mark.map(|(mark, _)| mark)
        .with_context(|| format!("a message without a mark: {payload}"))
}

/// When the message with this mark was written.
pub(super) fn written(mark: &str) -> Result<u64> {
    let (at, _) = mark.split_once('.').context("a mark of another's")?;
    Ok(at.parse()?)
}

/// What the twin in an update says.
pub(super) fn twin(payload: &str) -> Result<&str> {
    let twin = payload.split_once(r#""twin":"#).map(|(_, twin)| twin);
    twin.with_context(|| format!("an update without a twin: {payload}"))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn an_update_has_the_size_that_was_asked_for_and_is_json() {
        let mut out = String::new();
        update(&mut out, (42, 1_700_000_000_000_000), 3, Value::Filling(200));
        assert_eq!(out.len(), 200);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        let value = json["twin"]["p3"]["actual"]["value"].as_str().unwrap();
        assert!(value.ends_with("0042"), "{value}");
        assert_eq!(written(mark(&out).unwrap()).unwrap(), 1_700_000_000_000_000);
        assert!(twin(&out).unwrap().starts_with(r#"{"p3""#));
    }
}
