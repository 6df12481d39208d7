//! Which devices are here: decoded once per version, with their models folded in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::devices::{Device, DeviceModel, DeviceName};
use protocol::object::{Kind, Object, ObjectKey, Version};
use tokio_util::sync::CancellationToken;

use super::Core;
use crate::devices::served::{Served, merge};

/// What was decoded already.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    devices: BTreeMap<ObjectKey, (Version, Device)>,
    models: BTreeMap<ObjectKey, (Version, DeviceModel)>,
}

impl Catalog {
    /// The devices that these objects describe. One that cannot be read keeps what it was.
    pub(super) fn served(&mut self, objects: &[Arc<Object>]) -> BTreeMap<DeviceName, Served> {
        let here: BTreeSet<&ObjectKey> = objects.iter().map(|object| &object.key).collect();
        self.devices.retain(|key, _| here.contains(key));
        self.models.retain(|key, _| here.contains(key));
        for object in objects {
            match object.key.kind {
                Kind::Device => take(&mut self.devices, object),
                Kind::DeviceModel => take(&mut self.models, object),
                Kind::Pod
                | Kind::Service
                | Kind::RuntimeClass
                | Kind::ConfigMap
                | Kind::Secret
                | Kind::Node => {}
            }
        }
        let serve = |(key, (_, device)): (&ObjectKey, &(Version, Device))| {
            let named = device
                .spec
                .device_model_ref
                .as_ref()
                .map(|model| model.name.as_str());
            let model = named.map(|name| ObjectKey::new(Kind::DeviceModel, &key.namespace, name));
            let model = model.and_then(|key| self.models.get(&key));
            let served = merge(device, model.map(|(_, model)| model));
            (served.name(), served)
        };
        self.devices.iter().map(serve).collect()
    }
}

fn take<T: serde::de::DeserializeOwned>(held: &mut BTreeMap<ObjectKey, (Version, T)>, object: &Object) {
    if held
        .get(&object.key)
        .is_some_and(|(version, _)| *version == object.version)
    {
        return;
    }
    let decoded = object
        .body
        .json()
        .map_err(|error| error.to_string())
        .and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string()));
    match decoded {
        Ok(decoded) => drop(held.insert(object.key.clone(), (object.version.clone(), decoded))),
        Err(error) => tracing::warn!(key = %object.key, error, "an object of a device cannot be read"),
    }
}

impl Core {
    /// Follows the devices of this node until `stop`.
    pub(super) async fn follow(&self, stop: &CancellationToken) {
        let mut changed = self.ground.source.changed();
        loop {
            self.refresh();
            tokio::select! {
                () = stop.cancelled() => return,
                still = changed.changed() => if still.is_err() { return stop.cancelled().await },
            }
        }
    }

    /// Serves the devices that are here now.
    pub(super) fn refresh(&self) {
        // Before the list is read: what comes in between is not in it, and not gone.
        let confirmed = self.ground.source.is_confirmed();
        let fresh = self.catalog.lock().served(&self.ground.source.objects());
        let before = Arc::clone(&self.devices.read());
        let mut now: BTreeMap<DeviceName, Arc<Served>> = BTreeMap::new();
        let mut changed = Vec::new();
        for (name, served) in fresh {
            let same = before.get(&name).filter(|before| ***before == served).cloned();
            let served = same.unwrap_or_else(|| {
                let served = Arc::new(served);
                changed.push(Arc::clone(&served));
                served
            });
            now.insert(name, served);
        }
        let gone: Vec<_> = before
            .keys()
            .filter(|name| !now.contains_key(*name))
            .cloned()
            .collect();
        let is_other = !changed.is_empty() || !gone.is_empty();
        if !self.fold(changed, &gone, confirmed) {
            return;
        }
        if is_other {
            *self.devices.write() = Arc::new(now);
            self.touched.notify_one();
            self.wanted.notify_one();
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// False if there are no numbers left for what the cluster wants; the next change tries again.
    fn fold(&self, changed: Vec<Arc<Served>>, gone: &[DeviceName], confirmed: bool) -> bool {
        let mut book = self.book.lock();
        for name in gone {
            book.remove(name);
        }
        for served in changed {
            match self.moment(&book) {
                Ok(now) => book.serve(&served, now),
                Err(error) => {
                    tracing::error!(%error, "a changed device cannot be served yet");
                    return false;
                }
            }
        }
        if confirmed {
            book.drop_orphans();
        }
        true
    }
}
