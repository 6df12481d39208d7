//! Which topics a device may use. Pure.

use std::collections::BTreeMap;

/// Stands for every namespace.
const ANY: &str = "*";
/// The most bytes of a topic.
const LONGEST: usize = 1024;
/// The topic level that `baseTopic` replaces.
const BASE: &str = "~";

/// The topics that each namespace's devices may use, as filters: `devices.topics` of edgecore.yaml.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(BTreeMap<String, Vec<String>>);

impl Allowed {
    /// By namespace; `*` stands for every one.
    pub fn new(by_namespace: BTreeMap<String, Vec<String>>) -> Self {
        Self(by_namespace)
    }

    /// Checks a topic of a device in this namespace.
    pub(crate) fn check(&self, namespace: &str, topic: &str) -> Result<(), String> {
        if topic.is_empty() || topic.len() > LONGEST || topic.contains('\0') {
            return Err(format!("must be a topic of 1 to {LONGEST} bytes"));
        }
        if topic.contains(['+', '#']) {
            return Err(format!("is \"{topic}\"; one topic is meant, without + and #"));
        }
        if topic.starts_with('$') {
            return Err(format!(
                "is \"{topic}\"; topics that begin with $ are not a device's"
            ));
        }
        let mut filters = [namespace, ANY]
            .into_iter()
            .filter_map(|key| self.0.get(key))
            .flatten();
        if filters.any(|filter| covers(filter, topic)) {
            return Ok(());
        }
        Err(format!(
            "is \"{topic}\", which devices.topics in edgecore.yaml does not give namespace {namespace}"
        ))
    }
}

/// Whether a filter (with `+` and `#`) covers a topic.
fn covers(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (Some(_), _) | (None, Some(_)) => return false,
        }
    }
}

/// A topic with each level `~` replaced by the base topic.
pub(crate) fn resolve(topic: &str, base: Option<&str>) -> Result<String, String> {
    let named = topic.split('/').any(|level| level == BASE);
    match base {
        None if named => Err("has a ~, and there is no baseTopic".to_owned()),
        None => Ok(topic.to_owned()),
        Some(base) => {
            let levels = topic
                .split('/')
                .map(|level| if level == BASE { base } else { level });
            Ok(levels.collect::<Vec<_>>().join("/"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Allowed {
        let given = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect();
        Allowed::new(BTreeMap::from([
            ("hall".to_owned(), given(&["zigbee2mqtt/hall/#", "stat/+/POWER"])),
            (ANY.to_owned(), given(&["public/#"])),
        ]))
    }

    #[test]
    fn a_namespace_has_the_topics_that_it_was_given() {
        for topic in [
            "zigbee2mqtt/hall/lamp/set",
            "zigbee2mqtt/hall",
            "stat/lamp/POWER",
            "public/x",
        ] {
            assert_eq!(allowed().check("hall", topic), Ok(()), "{topic}");
        }
        for topic in [
            "zigbee2mqtt/hallway",
            "stat/a/b/POWER",
            "stat/lamp",
            "zigbee2mqtt",
        ] {
            assert!(
                allowed()
                    .check("hall", topic)
                    .unwrap_err()
                    .contains("does not give"),
                "{topic}"
            );
        }
        assert!(allowed().check("lab", "zigbee2mqtt/hall/lamp").is_err());
        assert!(allowed().check("lab", "public/lamp").is_ok());
    }

    #[test]
    fn wildcards_and_the_brokers_own_topics_are_refused() {
        let open = Allowed::new(BTreeMap::from([(ANY.to_owned(), vec!["#".to_owned()])]));
        for topic in [
            "",
            "a/+/b",
            "a/#",
            "$SYS/broker/uptime",
            "$hw/events/device/x/twin/update",
            "a\0b",
        ] {
            assert!(open.check("hall", topic).is_err(), "{topic:?}");
        }
        assert!(open.check("hall", "a/$b").is_ok());
    }

    #[test]
    fn the_base_topic_stands_for_a_whole_level() {
        assert_eq!(
            resolve("~/set", Some("zigbee2mqtt/lamp")),
            Ok("zigbee2mqtt/lamp/set".into())
        );
        assert_eq!(
            resolve("stat/~/POWER", Some("lamp")),
            Ok("stat/lamp/POWER".into())
        );
        assert_eq!(resolve("a~b/c", Some("lamp")), Ok("a~b/c".into()));
        assert!(resolve("~/set", None).is_err());
    }
}
