//! `configData`, emptied key by key: what is wrong is said in words that name the key.
//!
//! Existing manifests write numbers and switches as text too (`port: "502"`), so both are read.

use serde_json::Value;

use protocol::devices::FreeForm;

use crate::nearest::nearest;

/// One mapping of settings.
pub(crate) struct Settings {
    at: String,
    map: FreeForm,
    asked: Vec<&'static str>,
    wrong: Vec<String>,
}

impl Settings {
    /// The settings that stand at `at`.
    pub(crate) fn new(at: impl Into<String>, map: FreeForm) -> Self {
        Self {
            at: at.into(),
            map,
            asked: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// The mapping below a key; empty text where it is something else, which is said.
    pub(crate) fn below(&mut self, key: &'static str) -> Option<Self> {
        match object(self.take(key)?) {
            Ok(map) => Some(Self::new(self.path(key), map)),
            Err(other) => self.blame(key, &format!("must be a mapping, not {other}")),
        }
    }

    /// The mappings below a key: a list of them, or one alone.
    pub(crate) fn each(&mut self, key: &'static str) -> Vec<Self> {
        let at = self.path(key);
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(one) => vec![one],
        };
        let mut found = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match object(item) {
                Ok(map) => found.push(Self::new(format!("{at}[{index}]"), map)),
                Err(other) => self
                    .wrong
                    .push(format!("{at}[{index}] must be a mapping, not {other}")),
            }
        }
        found
    }

    /// Text; a number or a switch is its own text.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.take(key)?;
        if value.is_array() || value.is_object() {
            return self.blame(key, "must be text");
        }
        Some(plain(&value))
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        match self.take(key)? {
            Value::Array(items) => Some(items.iter().map(plain).collect()),
            one @ (Value::String(_) | Value::Number(_) | Value::Bool(_)) => Some(vec![plain(&one)]),
            Value::Object(_) | Value::Null => self.blame(key, "must be a list"),
        }
    }

    /// A mapping of text to text, in the order of its keys.
    pub(crate) fn pairs(&mut self, key: &'static str) -> Option<Vec<(String, String)>> {
        match object(self.take(key)?) {
            Ok(map) => Some(map.iter().map(|(from, to)| (from.clone(), plain(to))).collect()),
            Err(other) => self.blame(key, &format!("must be a mapping, not {other}")),
        }
    }

    /// A number.
    pub(crate) fn number(&mut self, key: &'static str) -> Option<f64> {
        let value = self.take(key)?;
        let number = plain(&value)
            .trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite());
        number.or_else(|| self.blame(key, &format!("must be a number, not {value}")))
    }

    /// A whole number within bounds.
    pub(crate) fn whole(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let value = self.take(key)?;
        let number = plain(&value)
            .trim()
            .parse()
            .ok()
            .filter(|number| (least..=most).contains(number));
        number.or_else(|| {
            self.blame(
                key,
                &format!("must be a whole number from {least} to {most}, not {value}"),
            )
        })
    }

    /// A switch.
    pub(crate) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        let flag = plain(&value).trim().to_ascii_lowercase().parse().ok();
        flag.or_else(|| self.blame(key, &format!("must be true or false, not {value}")))
    }

    /// Takes over what is wrong with the settings below a key.
    pub(crate) fn also(&mut self, below: Self) {
        self.wrong.extend(below.finish());
    }

    /// Says that a key is wrong.
    pub(crate) fn blame<T>(&mut self, key: &str, why: &str) -> Option<T> {
        let path = self.path(key);
        self.wrong.push(format!("{path} {why}"));
        None
    }

    /// A required key is missing.
    pub(crate) fn missing<T>(&mut self, key: &str) -> Option<T> {
        self.blame(key, "is missing")
    }

    /// Secrets do not belong into a Device, which every reader of the namespace sees.
    pub(crate) fn refuse_secrets(&mut self) {
        for key in ["password", "token"] {
            if self.map.remove(key).is_some() {
                let () = self
                    .blame(
                        key,
                        "is not read: put it into a file in /etc/tombolo/device-credentials and name that \
                         with credentials",
                    )
                    .unwrap_or_default();
            }
        }
    }

    /// Everything that is wrong, keys that nobody asked for included.
    pub(crate) fn finish(mut self) -> Vec<String> {
        for key in self.map.keys() {
            let hint = nearest(key, &self.asked).map_or_else(
                || format!("the keys are {}", self.asked.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            self.wrong.push(format!("{}.{key} is not known; {hint}", self.at));
        }
        self.wrong
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.at)
    }
}

fn object(value: Value) -> Result<FreeForm, Value> {
    if let Value::Object(map) = value {
        Ok(map)
    } else {
        Err(value)
    }
}

/// A JSON value as a twin writes it: text as it is, everything else as JSON.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: serde_json::Value) -> Settings {
        let Value::Object(map) = json else {
            panic!("no mapping")
        };
        Settings::new("visitors.configData", map)
    }

    #[test]
    fn numbers_and_switches_are_read_as_text_too() {
        let mut read = settings(serde_json::json!({"port": "502", "scale": 0.1, "isSwap": "true", "id": 7}));
        assert_eq!(read.whole("port", 1, 65535), Some(502));
        assert_eq!(read.number("scale"), Some(0.1));
        assert_eq!(read.flag("isSwap"), Some(true));
        assert_eq!(read.text("id").as_deref(), Some("7"));
        assert_eq!(read.finish(), Vec::<String>::new());
    }

    #[test]
    fn every_mistake_names_its_key() {
        let mut read = settings(
            serde_json::json!({"port": 0, "scale": "much", "read": [3], "ofset": 1, "password": "x"}),
        );
        read.refuse_secrets();
        assert_eq!(read.whole("port", 1, 65535), None);
        assert_eq!(read.number("scale"), None);
        assert_eq!(read.number("offset"), None);
        assert!(read.each("read").is_empty());
        let wrong = read.finish().join("\n");
        for part in [
            "visitors.configData.port must be a whole number from 1 to 65535, not 0",
            "visitors.configData.scale must be a number, not \"much\"",
            "visitors.configData.read[0] must be a mapping, not 3",
            "visitors.configData.ofset is not known; did you mean offset?",
            "visitors.configData.password is not read",
        ] {
            assert!(wrong.contains(part), "{part} in {wrong}");
        }
    }
}
