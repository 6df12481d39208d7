//! Which devices local clients have been told of. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::devices::DeviceName;

use crate::devices::Served;

/// What became of a device since clients were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It came.
    Added(DeviceName),
    /// It went.
    Removed(DeviceName),
    /// It is another than before, though of the same name.
    Replaced(DeviceName),
    /// Its manifest changed.
    Updated(DeviceName),
}

/// The devices as clients know them.
#[derive(Debug)]
pub(super) struct Roll(Arc<BTreeMap<DeviceName, Arc<Served>>>);

impl Roll {
    /// Clients know these.
    pub(super) const fn of(devices: Arc<BTreeMap<DeviceName, Arc<Served>>>) -> Self {
        Self(devices)
    }

    /// What clients are to be told, so that they know these.
    pub(super) fn call(&mut self, devices: Arc<BTreeMap<DeviceName, Arc<Served>>>) -> Vec<Change> {
        let old = std::mem::replace(&mut self.0, devices);
        let new = &self.0;
        let gone = old
            .keys()
            .filter(|name| !new.contains_key(*name))
            .cloned()
            .map(Change::Removed);
        let here = new.iter().filter_map(|(name, served)| match old.get(name) {
            None => Some(Change::Added(name.clone())),
            Some(before) if Arc::ptr_eq(before, served) || before == served => None,
            Some(before) if before.identity.uid != served.identity.uid => {
                Some(Change::Replaced(name.clone()))
            }
            Some(_) => Some(Change::Updated(name.clone())),
        });
        gone.chain(here).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::merge;

    fn devices(list: &[(&str, &str, &str)]) -> Arc<BTreeMap<DeviceName, Arc<Served>>> {
        let served = list.iter().map(|(name, uid, model)| {
            let device = serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "namespace": "hall", "uid": uid},
                "spec": {"deviceModelRef": {"name": model}}
            }))
            .unwrap();
            (DeviceName::new("hall", *name), Arc::new(merge(&device, None)))
        });
        Arc::new(served.collect())
    }

    #[test]
    fn clients_are_told_what_came_went_and_changed_once() {
        let mut roll = Roll::of(devices(&[("a", "1", "m"), ("b", "2", "m"), ("c", "3", "m")]));
        let now = devices(&[("a", "1", "m"), ("b", "9", "m"), ("c", "3", "n"), ("d", "4", "m")]);
        let name = |name| DeviceName::new("hall", name);
        assert_eq!(
            roll.call(Arc::clone(&now)),
            [
                Change::Replaced(name("b")),
                Change::Updated(name("c")),
                Change::Added(name("d"))
            ]
        );
        assert_eq!(roll.call(now), []);
        assert_eq!(
            roll.call(devices(&[("d", "4", "m")])),
            ["a", "b", "c"].map(|gone| Change::Removed(name(gone)))
        );
    }
}
