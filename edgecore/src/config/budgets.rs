//! What classes of traffic may cost.
//!
//! Tunnels and events have budgets. Beats, objects and status have none: without them the node would
//! not be what the cluster shows.

use serde_json::Value;

use protocol::class::Class;

use super::fields::{Fields, Read};

/// The classes that may have a budget.
const CLASSES: [Class; 3] = [Class::Interactive, Class::MessagesNormal, Class::Bulk];
/// A second's budget below this would make every tunnel time out.
const LEAST_SECOND: u64 = 1 << 10;

/// What one class may cost, both ways together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The class.
    pub class: Class,
    /// Bytes a day (UTC): then no new tunnel is opened, and events wait.
    pub day: Option<u64>,
    /// Bytes a second: what is over it waits.
    pub second: Option<u64>,
}

/// Reads `budgets`: a mapping of class to `{day, second}`.
pub(super) fn read(fields: &mut Fields<'_>) -> Vec<Budget> {
    let mut budgets = Vec::new();
    for class in CLASSES {
        let name = class.name();
        match fields.below(name, limits) {
            Some(Some((day, second))) => budgets.push(Budget { class, day, second }),
            Some(None) => fields.blame(name, "must be {day: 500Mi, second: 64Ki}, or one of the two"),
            None => {}
        }
    }
    for other in Class::ALL {
        let [some @ .., last] = &CLASSES.map(Class::name);
        let why = format!("cannot have a budget; {} and {last} can", some.join(", "));
        fields.refuse(other.name(), &why);
    }
    budgets
}

/// A day's and a second's limit; none where nothing is said.
fn limits(fields: &mut Fields<'_>) -> Option<(Option<u64>, Option<u64>)> {
    if fields.is_empty() {
        return None;
    }
    Some((
        fields.optional("day", size),
        fields.optional("second", size_of_second),
    ))
}

fn size_of_second(value: &Value) -> Read<u64> {
    let size = size(value)?;
    if size < LEAST_SECOND {
        return Err(vec!["must be at least 1Ki".to_owned()]);
    }
    Ok(size)
}

fn size(value: &Value) -> Read<u64> {
    bytes(value).ok_or_else(|| vec![format!("must be a size such as 500Mi, not {value}")])
}

/// A whole number of bytes, with Ki, Mi or Gi.
fn bytes(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let split = units
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (number, shift) = split?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
}

/// The size as it is written in the file.
pub(crate) fn written(bytes: u64) -> String {
    let units = [("Gi", 30), ("Mi", 20)];
    let whole = units
        .into_iter()
        .find(|(_, shift)| bytes.is_multiple_of(1 << shift));
    let (unit, shift) = whole.unwrap_or(("Ki", 10));
    format!("{}{unit}", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use super::*;

    fn of(json: &str) -> Result<Vec<Budget>, Vec<String>> {
        fields::told(&serde_json::from_str(json).unwrap(), read)
    }

    fn told(json: &str) -> String {
        of(json).unwrap_err().join("; ")
    }

    #[test]
    fn a_class_may_have_a_budget_for_the_day_the_second_or_both() {
        let text = r#"{"interactive": {"day": "500Mi", "second": "64Ki"}, "bulk": {"day": "2Gi"},
            "messages_normal": {"day": "1Mi", "second": "1Ki"}}"#;
        let read = of(text).unwrap();
        let of = |class| *read.iter().find(|budget| budget.class == class).unwrap();
        let interactive = of(Class::Interactive);
        assert_eq!(
            (interactive.day, interactive.second),
            (Some(500 << 20), Some(64 << 10))
        );
        assert_eq!(
            (of(Class::Bulk).day, of(Class::Bulk).second),
            (Some(2 << 30), None)
        );
        let events = of(Class::MessagesNormal);
        assert_eq!((events.day, events.second), (Some(1 << 20), Some(1 << 10)));
        assert_eq!(
            (written(2 << 30), written(500 << 20), written(64 << 10)),
            ("2Gi".into(), "500Mi".into(), "64Ki".into())
        );
    }

    #[test]
    fn what_cannot_be_limited_is_named() {
        assert!(
            told(r#"{"control": {"day": "1Mi"}}"#)
                .contains("control: cannot have a budget; interactive, messages_normal and bulk can")
        );
        assert!(told(r#"{"desired": {"day": "1Mi"}}"#).contains("desired: cannot have a budget"));
        assert!(told(r#"{"messages_critical": {"day": "1Mi"}}"#).contains("cannot have a budget"));
        assert!(told(r#"{"messages": {"day": "1Mi"}}"#).contains("interactive, messages_normal, bulk"));
        assert!(told(r#"{"interactiv": {"day": "1Mi"}}"#).contains("did you mean interactive?"));
        assert!(told(r#"{"bulk": {}}"#).contains("bulk: must be {day: 500Mi, second: 64Ki}"));
        assert!(told(r#"{"bulk": {"day": 5}}"#).contains("bulk.day: must be a size such as 500Mi, not 5"));
        assert!(told(r#"{"bulk": {"second": "0Ki"}}"#).contains("bulk.second: must be a size"));
        assert!(
            told(r#"{"bulk": {"hour": "1Mi"}}"#)
                .contains("bulk.hour is not a known key; the keys are day, second")
        );
    }
}
