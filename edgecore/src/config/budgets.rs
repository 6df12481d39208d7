//! What classes of traffic may cost.
//!
//! Tunnels and events have budgets. Beats, objects and status have none: without them the node would
//! not be what the cluster shows.

use serde_json::Value;

use protocol::class::Class;

use crate::nearest::nearest;

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

/// Reads the value of `budgets`: a mapping of class to `{day, second}`.
pub(super) fn read(value: &Value) -> Result<Vec<Budget>, Vec<String>> {
    let classes = value
        .as_object()
        .ok_or_else(|| vec!["must be a mapping of class to {day, second}".to_owned()])?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (name, limits) in classes {
        match class(name).and_then(|class| budget(class, limits)) {
            Ok(budget) => good.push(budget),
            Err(why) => bad.push(why),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

fn class(name: &str) -> Result<Class, String> {
    if let Some(class) = CLASSES.into_iter().find(|class| class.name() == name) {
        return Ok(class);
    }
    let names = CLASSES.map(Class::name);
    let [some @ .., last] = &names;
    let all = format!("{} and {last}", some.join(", "));
    if Class::ALL.iter().any(|class| class.name() == name) {
        return Err(format!("{name} cannot have a budget; {all} can"));
    }
    Err(match nearest(name, &names) {
        Some(near) => format!("{name} is not a class; did you mean {near}?"),
        None => format!("{name} is not a class; those with budgets are {all}"),
    })
}

fn budget(class: Class, limits: &Value) -> Result<Budget, String> {
    let name = class.name();
    let limits = limits
        .as_object()
        .filter(|limits| !limits.is_empty())
        .ok_or_else(|| format!("{name} must be {{day: 500Mi, second: 64Ki}}, or one of the two"))?;
    let (mut day, mut second) = (None, None);
    for (key, value) in limits {
        let size =
            size(value).ok_or_else(|| format!("{name}.{key} must be a size such as 500Mi, not {value}"))?;
        match key.as_str() {
            "day" => day = Some(size),
            "second" if size < LEAST_SECOND => return Err(format!("{name}.second must be at least 1Ki")),
            "second" => second = Some(size),
            _ => return Err(format!("{name}.{key} is not known; write day or second")),
        }
    }
    Ok(Budget { class, day, second })
}

/// A whole number of bytes, with Ki, Mi or Gi.
fn size(value: &Value) -> Option<u64> {
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
    use super::*;

    fn told(json: &str) -> String {
        read(&serde_json::from_str(json).unwrap()).unwrap_err().join("; ")
    }

    #[test]
    fn a_class_may_have_a_budget_for_the_day_the_second_or_both() {
        let text = r#"{"interactive": {"day": "500Mi", "second": "64Ki"}, "bulk": {"day": "2Gi"},
            "messages_normal": {"day": "1Mi", "second": "1Ki"}}"#;
        let read = read(&serde_json::from_str(text).unwrap()).unwrap();
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
                .contains("control cannot have a budget; interactive, messages_normal and bulk can")
        );
        assert!(told(r#"{"desired": {"day": "1Mi"}}"#).contains("desired cannot have a budget"));
        assert!(told(r#"{"messages_critical": {"day": "1Mi"}}"#).contains("cannot have a budget"));
        assert!(told(r#"{"messages": {"day": "1Mi"}}"#).contains("interactive, messages_normal and bulk"));
        assert!(told(r#"{"interactiv": {"day": "1Mi"}}"#).contains("did you mean interactive?"));
        assert!(told(r#"{"bulk": {}}"#).contains("bulk must be {day: 500Mi, second: 64Ki}"));
        assert!(told(r#"{"bulk": {"day": 5}}"#).contains("bulk.day must be a size such as 500Mi, not 5"));
        assert!(told(r#"{"bulk": {"second": "0Ki"}}"#).contains("bulk.second must be a size"));
        assert!(told(r#"{"bulk": {"hour": "1Mi"}}"#).contains("bulk.hour is not known"));
    }
}
