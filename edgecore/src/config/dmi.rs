//! `dmi`: where mappers report, and who may.

use std::path::PathBuf;

use serde_json::Value;

use super::fields::{Read, absolute_path};
use super::mistakes::unknown;
use crate::devices::dmi::DmiConfig;

const KEYS: [&str; 2] = ["socket", "group"];

/// Reads `{socket, group}`; what is not named is the default.
pub(super) fn read(value: &Value) -> Read<DmiConfig> {
    let map = value
        .as_object()
        .ok_or_else(|| vec!["must be a mapping of socket and group".to_owned()])?;
    let (mut config, mut bad) = (DmiConfig::default(), Vec::new());
    for (key, value) in map {
        let read = match key.as_str() {
            "socket" => absolute_path(value).map(|path| config.socket = PathBuf::from(path)),
            "group" => group(value).map(|group| config.group = group),
            _ => Err(vec![unknown(key, &KEYS)]),
        };
        bad.extend(read.err().into_iter().flatten());
    }
    if bad.is_empty() { Ok(config) } else { Err(bad) }
}

fn group(value: &Value) -> Read<String> {
    let group = value.as_str().filter(|group| !group.is_empty());
    let group = group.ok_or_else(|| vec![format!("group must be the name of a group, not {value}")])?;
    Ok(group.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_named_is_the_default() {
        let config = read(&json!({"group": "plant"})).unwrap();
        assert_eq!(config.group, "plant");
        assert_eq!(config.socket, DmiConfig::default().socket);
    }

    #[test]
    fn every_mistake_is_told() {
        let told = read(&json!({"socket": "dmi.sock", "group": 7, "sockt": "/x"})).unwrap_err();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().any(|text| text.contains("did you mean socket?")));
        assert!(read(&json!("/run/dmi.sock")).is_err());
    }
}
