//! Which parts of a pod's spec this node honours: an allow-list of paths, checked on the raw JSON.
//!
//! A typed decode would drop what it does not know in silence; so the check walks the JSON as the API server
//! wrote it. The list itself is in `features/allowed.rs`. What only the scheduler or the API server reads is
//! allowed whole. Pure.
//!
//! **Invariant:** a pod that passes is honoured in full, but for ephemeral containers; whatever is set and not listed is refused by its
//! path.

mod allowed;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;
use thiserror::Error;

const MOST_PATHS_TOLD: usize = 16;

/// The pod sets what this node does not honour. It stays Pending, every container Waiting with
/// [`UnsupportedPodFeature::REASON`], and is never started in part.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not supported on this node: {}", told(.paths))]
pub struct UnsupportedPodFeature {
    /// `spec.containers[0].lifecycle`, in the order of the spec.
    pub paths: Vec<String>,
}

impl UnsupportedPodFeature {
    /// The waiting reason and the event's.
    pub const REASON: &'static str = "UnsupportedPodFeature";
}

/// Checks the pod as the API server wrote it.
pub fn check(pod: &Value) -> Result<(), UnsupportedPodFeature> {
    let mut paths = Vec::new();
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    ALLOWED.walk(spec, "spec", &mut paths);
    if paths.is_empty() {
        Ok(())
    } else {
        Err(UnsupportedPodFeature { paths })
    }
}

static ALLOWED: LazyLock<Branch> = LazyLock::new(Branch::from_list);

#[derive(Default)]
struct Branch {
    children: BTreeMap<&'static str, Self>,
    rule: Option<Rule>,
}

#[derive(Clone, Copy)]
enum Rule {
    /// Everything below.
    Whole,
    /// A plain value.
    Leaf,
    /// A plain value out of `a|b|c*`.
    OneOf(&'static str),
}

impl Branch {
    fn from_list() -> Self {
        let mut root = Self::default();
        for (prefix, list) in allowed::LISTS {
            for line in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
                root.allow(prefix, line);
            }
        }
        root
    }

    /// Adds one path; it may end in `**` or in `=a|b`.
    fn allow(&mut self, prefix: &'static str, line: &'static str) {
        let (path, values) = line
            .split_once('=')
            .map_or((line, None), |(path, values)| (path, Some(values)));
        let (path, rule) = match path.strip_suffix(".**") {
            Some(path) => (path, Rule::Whole),
            None => (path, values.map_or(Rule::Leaf, Rule::OneOf)),
        };
        let steps = prefix
            .split('.')
            .chain(path.split('.'))
            .filter(|step| !step.is_empty());
        let end = steps.fold(self, |at, step| at.children.entry(step).or_default());
        end.rule = Some(rule);
    }

    fn walk(&self, value: &Value, path: &str, refused: &mut Vec<String>) {
        // `false` says nothing, but where only `true` is honoured.
        let only_true = value == &Value::Bool(false) && matches!(self.rule, Some(Rule::OneOf(_)));
        if (is_unset(value) && !only_true) || matches!(self.rule, Some(Rule::Whole)) {
            return;
        }
        match value {
            Value::Object(fields) => self.walk_fields(fields, path, refused),
            Value::Array(items) => self.walk_items(items, path, refused),
            leaf @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => match self.rule {
                Some(Rule::Leaf | Rule::Whole) => {}
                Some(Rule::OneOf(values)) if admits(values, leaf) => {}
                Some(Rule::OneOf(_)) => refused.push(format!("{path} ({})", plain(leaf))),
                None => refused.push(path.to_owned()),
            },
        }
    }

    fn walk_fields(&self, fields: &serde_json::Map<String, Value>, path: &str, refused: &mut Vec<String>) {
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            match self.child(name) {
                Some(child) => child.walk(value, &path, refused),
                None if is_unset(value) => {}
                None => refused.push(path),
            }
        }
    }

    /// The field of that name, or the one whose name begins so.
    fn child(&self, name: &str) -> Option<&Self> {
        let begins = |known: &str| {
            known
                .strip_suffix('*')
                .is_some_and(|begin| name.starts_with(begin))
        };
        let beginning = || self.children.iter().find(|(known, _)| begins(known));
        let exact = self.children.get(name);
        exact.or_else(|| beginning().map(|(_, child)| child))
    }

    fn walk_items(&self, items: &[Value], path: &str, refused: &mut Vec<String>) {
        let Some(child) = self.children.get("[]") else {
            refused.push(path.to_owned());
            return;
        };
        for (index, item) in items.iter().enumerate() {
            child.walk(item, &format!("{path}[{index}]"), refused);
        }
    }
}

/// What says nothing: `null`, `false`, `""`, `[]`. An empty object says something (`emptyDir: {}`).
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn admits(values: &str, leaf: &Value) -> bool {
    let text = plain(leaf);
    values.split('|').any(|value| match value.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => text == value,
    })
}

fn plain(leaf: &Value) -> String {
    leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned)
}

fn told(paths: &[String]) -> String {
    let text = paths
        .iter()
        .take(MOST_PATHS_TOLD)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match paths.len().checked_sub(MOST_PATHS_TOLD) {
        None | Some(0) => text,
        Some(more) => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
