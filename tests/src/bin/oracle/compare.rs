//! Two sides of a case, leaf by leaf.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::evidence::Evidence;

/// What stands for a leaf that is not there.
const NOTHING: &str = "(nothing)";
/// The fields by which items of a list are told apart, so that their order does not count.
const NAMES: [&str; 8] = [
    "name",
    "type",
    "key",
    "mountPath",
    "container_path",
    "page_size",
    "containerPort",
    "ip",
];

/// A leaf that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Where.
    pub(crate) path: String,
    /// What the kubelet has there.
    pub(crate) kubelet: String,
    /// What the edge node has there.
    pub(crate) edge: String,
}

/// Every difference, in the order of their paths.
pub(crate) fn compare(kubelet: &Evidence, edge: &Evidence) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut tell = |path: &str, kubelet: String, edge: String| {
        if kubelet != edge {
            let path = path.to_owned();
            found.push(Difference { path, kubelet, edge });
        }
    };
    tell("reached", kubelet.reached.clone(), edge.reached.clone());
    if !(within(&kubelet.phases, &edge.phases) || within(&edge.phases, &kubelet.phases)) {
        tell("phases", kubelet.phases.join(" > "), edge.phases.join(" > "));
    }
    let listed = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
    tell("states", listed(&kubelet.states), listed(&edge.states));
    walk("", &kubelet.tree, &edge.tree, &mut tell);
    found
}

/// Whether all of `some` comes in `all`, in that order: one watcher may miss what the other saw. The end
/// must be the same.
fn within(some: &[String], all: &[String]) -> bool {
    let mut rest = all.iter();
    some.iter().all(|item| rest.any(|other| other == item)) && some.last() == all.last()
}

/// Compares two values of which at least one is there. What only one side has is told as a whole.
fn walk(path: &str, kubelet: &Value, edge: &Value, tell: &mut impl FnMut(&str, String, String)) {
    let (theirs, ours) = (children(kubelet), children(edge));
    let (Some(theirs), Some(ours)) = (theirs, ours) else {
        return tell(path, shown(kubelet), shown(edge));
    };
    let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    for name in names {
        let at = |values: &BTreeMap<String, &Value>| values.get(name).copied().cloned().unwrap_or_default();
        walk(&child(path, name), &at(&theirs), &at(&ours), tell);
    }
}

/// The parts of a value that has parts, by their names.
fn children(value: &Value) -> Option<BTreeMap<String, &Value>> {
    match value {
        Value::Object(fields) => Some(fields.iter().map(|(key, value)| (key.clone(), value)).collect()),
        Value::Array(items) => {
            let named = |(index, item)| (label(items, item, index), item);
            Some(items.iter().enumerate().map(named).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A field that is absent, null or empty means the same.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::Object(fields) if fields.is_empty() => NOTHING.to_owned(),
        Value::Array(items) if items.is_empty() => NOTHING.to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn child(path: &str, key: &str) -> String {
    let plain = key.chars().all(|c| c.is_alphabetic() || matches!(c, '_' | ' '));
    match (path.is_empty(), plain) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (false, false) => format!("{path}[{key}]"),
    }
}

/// An item's name when no other item has the same, else its place.
fn label(items: &[Value], item: &Value, index: usize) -> String {
    let named = |name: &&&str| {
        let mine = &item[**name];
        !mine.is_null() && items.iter().filter(|other| other[**name] == *mine).count() == 1
    };
    let name = NAMES.iter().find(named);
    name.map_or_else(
        || index.to_string(),
        |name| item[*name].to_string().trim_matches('"').to_owned(),
    )
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    fn evidence(tree: Value) -> Evidence {
        Evidence {
            reached: String::from("yes"),
            unsupported: None,
            phases: ["Pending", "Running", "Failed"].map(str::to_owned).to_vec(),
            states: BTreeSet::new(),
            tree,
        }
    }

    #[test]
    fn the_order_of_named_items_does_not_count_and_their_values_do() {
        let a = evidence(
            json!({ "conditions": [{ "type": "Ready", "status": "True" }, { "type": "X", "status": "1" }] }),
        );
        let b = evidence(
            json!({ "conditions": [{ "type": "X", "status": "1" }, { "type": "Ready", "status": "False" }] }),
        );
        let found = compare(&a, &b);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, "conditions.Ready.status");
        assert_eq!(
            (found[0].kubelet.as_str(), found[0].edge.as_str()),
            ("True", "False")
        );
    }

    #[test]
    fn what_only_one_side_has_is_a_difference_and_null_is_nothing() {
        let (a, b) = (evidence(json!({ "x": 1, "y": null })), evidence(json!({})));
        let found = compare(&a, &b);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].edge, NOTHING);
    }

    #[test]
    fn a_phase_that_was_missed_is_no_difference_and_another_end_is() {
        let (mut a, b) = (evidence(json!({})), evidence(json!({})));
        a.phases = ["Pending", "Failed"].map(str::to_owned).to_vec();
        assert!(compare(&a, &b).is_empty());
        a.phases = ["Pending", "Running"].map(str::to_owned).to_vec();
        assert_eq!(compare(&a, &b).len(), 1);
    }
}
