//! Frees texts of what differs between two nodes by nature: names, addresses, ids, times.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What differs whatever the node, and what stands for it.
static ALWAYS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let pairs = [
        (r"\b[0-9a-f]{64}\b", "ID"),
        (r"kube-api-access-[a-z0-9]{5}\b", "kube-api-access-SUFFIX"),
        // The directory behind a volume's `..data`.
        (r"\.\.\d{4}(_\d\d){5}\.\d+", "..STAMP"),
        (
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)",
            "TIME",
        ),
        (r" in [0-9.]+m?s \([0-9.]+m?s including waiting\)", " in SPAN"),
        // How programs in Go begin a line of their log.
        (r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ", "LOG "),
        // The kubelet's file for a termination message has a random name, ours a number.
        (
            r"/pods/UID/containers/([^/ ]+)/[0-9a-f]+$",
            "/pods/UID/containers/$1/FILE",
        ),
    ];
    let compiled = pairs
        .iter()
        .filter_map(|(pattern, word)| Some((Regex::new(pattern).ok()?, *word)));
    compiled.collect()
});

/// The words that stand for one node's own.
pub(crate) struct Plain {
    words: Vec<(Regex, &'static str)>,
}

impl Plain {
    /// From a node's name, the case's namespace there, and all versions of the pod.
    pub(crate) fn new(node: &str, namespace: &str, pods: &[Value]) -> Self {
        let mut words = vec![(namespace.to_owned(), "NAMESPACE")];
        for pod in pods {
            let status = &pod["status"];
            let known = [
                (&pod["metadata"]["uid"], "UID"),
                (&status["hostIP"], "HOST_IP"),
                (&status["podIP"], "POD_IP"),
            ];
            words.extend(
                known
                    .iter()
                    .filter_map(|(value, word)| Some((value.as_str()?.to_owned(), *word))),
            );
        }
        words.push((node.to_owned(), "NODE"));
        words.dedup();
        let mut plain = Self { words: Vec::new() };
        for (text, word) in words {
            plain.call(&[text], word);
        }
        plain
    }

    /// Has `word` stand for each of the texts.
    pub(crate) fn call(&mut self, texts: &[String], word: &'static str) {
        for text in texts.iter().filter(|text| !text.is_empty()) {
            // These also stand beside other words, as in `pod<UID>` and `<namespace>_<name>`.
            let edge = if ["UID", "NAMESPACE"].contains(&word) {
                ""
            } else {
                r"\b"
            };
            let pattern = Regex::new(&format!("{edge}{}{edge}", regex::escape(text)));
            self.words.extend(pattern.ok().map(|pattern| (pattern, word)));
        }
    }

    /// A text without what is the node's own.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (pattern, word) in self.words.iter().chain(ALWAYS.iter()) {
            if pattern.is_match(&text) {
                text = pattern.replace_all(&text, *word).into_owned();
            }
        }
        text
    }

    /// The same for every text of a value, keys included.
    pub(crate) fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => structured(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|(key, value)| (self.text(&key), self.value(value)));
                Value::Object(fields.collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}

/// JSON in a text is told apart by its parts, whatever their order.
fn structured(text: String) -> Value {
    let parsed = text
        .starts_with(['[', '{'])
        .then(|| serde_json::from_str(&text).ok());
    parsed.flatten().unwrap_or(Value::String(text))
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_the_nodes_own_is_replaced_and_nothing_else() {
        let pod =
            json!({ "metadata": { "uid": "u-1" }, "status": { "hostIP": "10.0.0.1", "podIP": "10.0.0.10" } });
        let plain = Plain::new("e1", "case-e1", &[pod]);
        let text = format!("case-e1 u-1 10.0.0.10 10.0.0.1 e1 e12 {}", "ab".repeat(32));
        assert_eq!(plain.text(&text), "NAMESPACE UID POD_IP HOST_IP NODE e12 ID");
        let volume = "kube-api-access-x7k2p/..2026_01_02_03_04_05.678 2026-01-02T03:04:05Z";
        assert_eq!(plain.text(volume), "kube-api-access-SUFFIX/..STAMP TIME");
        assert_eq!(plain.value(json!({ "u-1": ["e1"] })), json!({ "UID": ["NODE"] }));
        assert_eq!(plain.text("case-e1_web_u-1"), "NAMESPACE_web_UID");
        assert_eq!(
            plain.value(json!("[{\"b\": 1, \"a\": \"e1\"}]")),
            json!([{ "a": "NODE", "b": 1 }])
        );
    }
}
