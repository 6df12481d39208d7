//! From YAML values to typed ones, keeping every mistake on the way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use protocol::name::NodeName;
use serde_json::{Map, Value};

use super::labels::{check_value, is_dns_name};
use super::lines::line_of;
use crate::nearest::nearest;
use crate::pods::cgroups::CgroupDriver;

use super::{Address, Mistake, Mistakes, PodCidr, Proxy, RuntimeEndpoint, Taint, check_label};

/// The mapping of the file, or one that stands in it, emptied key by key.
pub(super) struct Fields<'a> {
    text: &'a str,
    /// The keys that lead to it.
    at: Vec<&'static str>,
    map: Map<String, Value>,
    asked: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

/// What a reader of one value says: the value, or all that is wrong with it.
pub(super) type Read<T> = Result<T, Vec<String>>;

impl<'a> Fields<'a> {
    /// Parses the YAML; fails at once only when it is no mapping at all.
    pub(super) fn read(text: &'a str) -> Result<Self, Mistakes> {
        let whole = |text: String| Mistakes(vec![Mistake { line: None, text }]);
        let value: Value = serde_saphyr::from_str(text).map_err(|error| whole(error.to_string()))?;
        match value {
            Value::Object(map) => Ok(Self::of(text, Vec::new(), map)),
            Value::Null => Ok(Self::of(text, Vec::new(), Map::new())),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(whole("the file must be a mapping of keys to values".to_owned()))
            }
        }
    }

    const fn of(text: &'a str, at: Vec<&'static str>, map: Map<String, Value>) -> Self {
        Self {
            text,
            at,
            map,
            asked: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// A key that must be there.
    pub(super) fn required<T>(&mut self, key: &'static str, read: fn(&Value) -> Read<T>) -> Option<T> {
        if !self.map.contains_key(key) {
            self.asked.push(key);
            self.mistakes.push(Mistake {
                line: None,
                text: format!("{} is missing", self.path(key)),
            });
            return None;
        }
        self.optional(key, read)
    }

    /// A key that has a default; null counts as not there.
    pub(super) fn optional<T>(&mut self, key: &'static str, read: fn(&Value) -> Read<T>) -> Option<T> {
        let value = self.take(key)?;
        let read = read(&value);
        read.map_err(|found| {
            for text in found {
                self.blame(key, &text);
            }
        })
        .ok()
    }

    /// A mapping that has a default, by its own keys.
    pub(super) fn below<T>(&mut self, key: &'static str, read: fn(&mut Fields<'_>) -> T) -> Option<T> {
        let Value::Object(map) = self.take(key)? else {
            self.blame(key, "must be a mapping of keys to values");
            return None;
        };
        let at = self.at.iter().copied().chain([key]).collect();
        let mut below = Fields::of(self.text, at, map);
        let value = read(&mut below);
        self.mistakes.extend(below.finish().0);
        Some(value)
    }

    /// Whether there is such a key, and it is not null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// A key that is known elsewhere, and cannot be here.
    pub(super) fn refuse(&mut self, key: &str, why: &str) {
        if self.map.remove(key).is_some() {
            self.blame(key, why);
        }
    }

    /// Whether nothing is said that was not asked for yet.
    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The value of a key is wrong.
    pub(super) fn blame(&mut self, key: &str, text: &str) {
        self.mistakes.push(Mistake {
            line: self.line_of(key),
            text: format!("{}: {text}", self.path(key)),
        });
    }

    /// All mistakes, those of unknown keys included, in the order of the file.
    pub(super) fn finish(mut self) -> Mistakes {
        let unknown: Vec<Mistake> = self.map.keys().map(|key| self.unknown(key)).collect();
        self.mistakes.extend(unknown);
        self.mistakes.sort_by_key(|mistake| mistake.line);
        Mistakes(self.mistakes)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn unknown(&self, key: &str) -> Mistake {
        let hint = nearest(key, &self.asked).map_or_else(
            || format!("the keys are {}", self.asked.join(", ")),
            |near| format!("did you mean {near}?"),
        );
        Mistake {
            line: self.line_of(key),
            text: format!("{} is not a known key; {hint}", self.path(key)),
        }
    }

    fn path(&self, key: &str) -> String {
        let keys: Vec<_> = self.at.iter().copied().chain([key]).collect();
        keys.join(".")
    }

    fn line_of(&self, key: &str) -> Option<usize> {
        let keys: Vec<_> = self.at.iter().copied().chain([key]).collect();
        line_of(self.text, &keys)
    }
}

fn text(value: &Value) -> Read<&str> {
    value
        .as_str()
        .ok_or_else(|| vec![format!("must be text, not {value}; put it in quotes")])
}

/// Text that is not empty.
pub(super) fn some_text(value: &Value) -> Read<String> {
    let text = value.as_str().filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| vec![format!("must be text, not {value}")])?;
    Ok(text.to_owned())
}

fn one<T, E: ToString>(result: Result<T, E>) -> Read<T> {
    result.map_err(|error| vec![error.to_string()])
}

/// Reads every item and keeps every mistake.
fn all<'v, T>(values: impl Iterator<Item = &'v Value>, read: impl Fn(&'v Value) -> Read<T>) -> Read<Vec<T>> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for value in values {
        match read(value) {
            Ok(item) => good.push(item),
            Err(found) => bad.extend(found),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// A list, or a single item standing for a list of one.
fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    value
        .as_array()
        .map_or_else(|| std::slice::from_ref(value).iter(), |items| items.iter())
}

pub(super) fn node_name(value: &Value) -> Read<NodeName> {
    one(text(value)?.parse::<NodeName>())
}

pub(super) fn addresses(value: &Value) -> Read<Vec<Address>> {
    let addresses = all(list(value), |item| one(text(item)?.parse()))?;
    if addresses.is_empty() {
        return Err(vec!["needs at least one address of cloudcore".to_owned()]);
    }
    Ok(addresses)
}

pub(super) fn proxy(value: &Value) -> Read<Proxy> {
    one(text(value)?.parse())
}

pub(super) fn runtime_endpoint(value: &Value) -> Read<RuntimeEndpoint> {
    one(RuntimeEndpoint::parse(text(value)?))
}

pub(super) fn absolute_path(value: &Value) -> Read<String> {
    let path = text(value)?;
    if path.starts_with('/') && !path.split('/').any(|part| part == "..") {
        return Ok(path.to_owned());
    }
    Err(vec![format!("\"{path}\" must be an absolute path without ..")])
}

pub(super) fn cgroup_driver(value: &Value) -> Read<CgroupDriver> {
    one(text(value)?.parse())
}

pub(super) fn name_servers(value: &Value) -> Read<Vec<IpAddr>> {
    all(list(value), |item| {
        let name = text(item)?;
        name.parse()
            .map_err(|_| vec![format!("\"{name}\" is not an IP address")])
    })
}

pub(super) fn domain(value: &Value) -> Read<String> {
    let name = text(value)?;
    if is_dns_name(name) {
        return Ok(name.to_owned());
    }
    Err(vec![format!(
        "\"{name}\" is not a DNS domain, such as cluster.local"
    )])
}

pub(super) fn pod_cidr(value: &Value) -> Read<PodCidr> {
    one(text(value)?.parse())
}

pub(super) fn labels(value: &Value) -> Read<BTreeMap<String, String>> {
    let map = value
        .as_object()
        .ok_or_else(|| vec!["must be a mapping of label to value".to_owned()])?;
    let (mut good, mut bad) = (BTreeMap::new(), Vec::new());
    for (key, value) in map {
        let checked = label_text(key, value).and_then(|value| {
            one(check_label(key, value))?;
            Ok(value)
        });
        match checked {
            Ok(value) => drop(good.insert(key.clone(), value.to_owned())),
            Err(found) => bad.extend(found),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

fn label_text<'v>(key: &str, value: &'v Value) -> Read<&'v str> {
    let quote = || {
        vec![format!(
            "the value of label \"{key}\" must be text: write \"{value}\" in quotes"
        )]
    };
    value.as_str().ok_or_else(quote)
}

pub(super) fn taints(value: &Value) -> Read<Vec<Taint>> {
    all(list(value), |item| one(text(item)?.parse()))
}

pub(super) fn max_pods(value: &Value) -> Read<u32> {
    let number = value
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| (1..=1000).contains(n));
    number.ok_or_else(|| vec![format!("must be a number from 1 to 1000, not {value}")])
}

pub(super) fn percent(value: &Value) -> Read<u8> {
    let number = value
        .as_u64()
        .and_then(|n| u8::try_from(n).ok())
        .filter(|n| (10..=100).contains(n));
    number.ok_or_else(|| vec![format!("must be a number from 10 to 100, not {value}")])
}

pub(super) fn label_value(value: &Value) -> Read<String> {
    let value = text(value)?;
    one(check_value(value))?;
    if value.is_empty() {
        Err(vec!["must not be empty".to_owned()])
    } else {
        Ok(value.to_owned())
    }
}

/// What a mapping says, or all that is wrong with it.
#[cfg(test)]
pub(super) fn told<T>(mapping: &Value, read: fn(&mut Fields<'_>) -> T) -> Result<T, Vec<String>> {
    let map = mapping.as_object().cloned().unwrap_or_default();
    let mut fields = Fields::of("", Vec::new(), map);
    let value = read(&mut fields);
    let Mistakes(mistakes) = fields.finish();
    if mistakes.is_empty() {
        return Ok(value);
    }
    Err(mistakes.into_iter().map(|mistake| mistake.text).collect())
}
