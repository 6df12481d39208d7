//! `dmi`: where mappers report, and who may.

use std::path::PathBuf;

use super::fields::{Fields, absolute_path, some_text};
use super::set;
use crate::devices::dmi::DmiConfig;

/// Reads `dmi`; what is not named is the default.
pub(super) fn read(fields: &mut Fields<'_>) -> DmiConfig {
    let mut config = DmiConfig::default();
    let socket = fields.optional("socket", absolute_path);
    set(&mut config.socket, socket.map(PathBuf::from));
    set(&mut config.group, fields.optional("group", some_text));
    config
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fields::told;
    use super::*;

    #[test]
    fn what_is_not_named_is_the_default() {
        let config = told(&json!({"group": "plant"}), read).unwrap();
        assert_eq!(config.group, "plant");
        assert_eq!(config.socket, DmiConfig::default().socket);
    }

    #[test]
    fn every_mistake_is_told() {
        let wrong = json!({"socket": "dmi.sock", "group": 7, "sockt": "/x"});
        let told = told(&wrong, read).unwrap_err();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().any(|text| text.contains("did you mean socket?")));
    }
}
