//! One device of the status. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::devices::{Served, Standing, TwinView};

/// Values at a glance are cut after so many characters, and each of them.
const GLANCE: usize = 80;
const GLANCE_VALUE: usize = 20;

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeviceLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its model.
    pub model: String,
    /// The mapper's protocol or the driver's name; empty for one that speaks MQTT topics itself.
    pub protocol: String,
    /// `online`, `offline`, `unknown`, …
    pub state: String,
    /// When it was last seen.
    pub last_seen: Option<String>,
    /// What it says, by property, each value cut; a mark follows one that is not good.
    pub values: BTreeMap<String, String>,
}

impl DeviceLine {
    /// The line of a device.
    pub fn of(served: &Served, standing: Option<Standing>, twin: BTreeMap<String, TwinView>) -> Self {
        let value = |(name, view): (String, TwinView)| {
            let actual = view.actual?;
            let quality = actual.metadata.get("quality").map_or("good", String::as_str);
            let mark = if quality == "good" {
                String::new()
            } else {
                format!(" ({quality})")
            };
            // All values of all devices would be too much for one answer.
            let shown = actual.value.chars().filter(|c| !c.is_control());
            let shown: String = shown.take(GLANCE_VALUE).collect();
            Some((name, shown + &mark))
        };
        let seen = standing.and_then(|standing| standing.last_online);
        let seen = seen.and_then(|ms| jiff::Timestamp::from_second(ms / 1000).ok());
        Self {
            namespace: served.identity.namespace.clone(),
            name: served.identity.name.clone(),
            model: served.model.clone(),
            protocol: served.protocol.clone(),
            state: standing
                .map_or("unknown", |standing| standing.state.name())
                .to_owned(),
            last_seen: seen.map(|time| time.to_string()),
            values: twin.into_iter().filter_map(value).collect(),
        }
    }

    /// The values in a few words.
    pub(super) fn glance(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.values {
            let space = if text.is_empty() { "" } else { " " };
            let more = format!("{space}{name}={value}");
            if text.chars().count() + more.chars().count() > GLANCE {
                text.push_str(" …");
                break;
            }
            text.push_str(&more);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use protocol::devices::{DeviceState, TwinValue};

    use super::*;

    #[test]
    fn a_device_is_shown_with_what_it_says_and_how_far_that_is_to_be_believed() {
        let device = serde_json::json!({"metadata": {"name": "pump", "namespace": "hall"}});
        let served = crate::devices::merge(&serde_json::from_value(device).unwrap(), None);
        let view = |value: &str, quality: &str| TwinView {
            actual: Some(TwinValue {
                value: value.to_owned(),
                metadata: BTreeMap::from([("quality".to_owned(), quality.to_owned())]),
            }),
            ..TwinView::default()
        };
        let twin = BTreeMap::from([
            ("a".to_owned(), view("7", "good")),
            ("b".to_owned(), view("8\n", "stale")),
            ("c".to_owned(), TwinView::default()),
            ("d".to_owned(), view(&"x".repeat(100), "good")),
        ]);
        let standing = Standing {
            state: DeviceState::Online,
            last_online: Some(1_700_000_000_000),
        };
        let line = DeviceLine::of(&served, Some(standing), twin);
        assert_eq!(line.glance(), format!("a=7 b=8 (stale) d={}", "x".repeat(20)));
        assert_eq!(line.last_seen.as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(line.state, "online");
    }
}
