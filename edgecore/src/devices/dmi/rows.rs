//! What outlives a restart: who registered, and what each mapper has accepted.
//!
//! A mapper registers once, when it starts; edgecore may start later, and must then find it again and not
//! tell it anew what it has already. Each registration has a mark, and a row of another mark counts for
//! nothing: so it does no harm when a registration is cut off between two writes.
//!
//! **Invariant:** the row of a registration is not written before the rows that come with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::devices::DeviceName;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::message::{Digest, ModelName};
use super::plan::{Accepted, Step, Verb};

/// Rows that go into one write.
const CHUNK: usize = 256;

/// Who registered, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registration {
    /// The protocol whose devices it serves.
    pub(super) protocol: String,
    /// Its socket.
    pub(super) address: PathBuf,
    /// What it calls itself.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// Tells this registration from earlier ones of the protocol.
    pub(super) mark: u64,
}

/// Durable rows, by key. What the store is to this module; tests bring their own.
pub trait Rows: Send + Sync + 'static {
    /// Every row.
    fn load(&self) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, RowsError>>;
    /// Sets rows, or removes those without a value; all of them or none.
    fn write(&self, rows: Vec<(String, Option<Bytes>)>) -> BoxFuture<'_, Result<(), RowsError>>;
}

/// Why rows could not be read or written.
#[derive(Debug, Error)]
#[error("what mappers have accepted cannot be stored")]
pub struct RowsError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

#[derive(Serialize, Deserialize)]
enum Row {
    Mapper(Registration),
    Model {
        protocol: String,
        mark: u64,
        name: ModelName,
        digest: Digest,
    },
    Device {
        protocol: String,
        mark: u64,
        name: DeviceName,
        digest: Digest,
        model: ModelName,
    },
}

impl Row {
    fn protocol(&self) -> &str {
        match self {
            Self::Mapper(Registration { protocol, .. })
            | Self::Model { protocol, .. }
            | Self::Device { protocol, .. } => protocol,
        }
    }

    /// Namespaces and names have no bar, so that keys of different rows differ.
    fn key(&self) -> String {
        match self {
            Self::Mapper(mapper) => format!("mapper|{}", mapper.protocol),
            Self::Model { protocol, name, .. } => model_key(protocol, name),
            Self::Device { protocol, name, .. } => device_key(protocol, name),
        }
    }

    fn write(&self) -> (String, Option<Bytes>) {
        // Names, digests and numbers: there is nothing that JSON could refuse.
        (self.key(), serde_json::to_vec(self).ok().map(Bytes::from))
    }
}

fn model_key(protocol: &str, name: &ModelName) -> String {
    format!("model|{protocol}|{name}")
}

fn device_key(protocol: &str, name: &DeviceName) -> String {
    format!("device|{protocol}|{name}")
}

/// Every registration, with what the mapper has accepted since.
pub(super) async fn load(rows: &dyn Rows) -> Result<Vec<(Registration, Accepted)>, RowsError> {
    let rows: Vec<Row> = rows
        .load()
        .await?
        .iter()
        // A row of a later version is as good as none: the mapper is told again.
        .filter_map(|(_, value)| serde_json::from_slice(value).ok())
        .collect();
    let mut found: Vec<(Registration, Accepted)> = Vec::new();
    for row in &rows {
        if let Row::Mapper(registration) = row {
            found.push((registration.clone(), Accepted::default()));
        }
    }
    for row in rows {
        let (Row::Model { protocol, mark, .. } | Row::Device { protocol, mark, .. }) = &row else {
            continue;
        };
        let same =
            |registration: &Registration| registration.protocol == *protocol && registration.mark == *mark;
        let Some((_, accepted)) = found.iter_mut().find(|(registration, _)| same(registration)) else {
            continue;
        };
        match row {
            Row::Model { name, digest, .. } => drop(accepted.models.insert(name, digest)),
            Row::Device {
                name, digest, model, ..
            } => drop(accepted.devices.insert(name, (digest, model))),
            Row::Mapper(_) => {}
        }
    }
    Ok(found)
}

/// A new registration, with what the mapper accepts with its reply, in place of all there was.
pub(super) async fn register(
    rows: &dyn Rows,
    registration: &Registration,
    accepted: &Accepted,
) -> Result<(), RowsError> {
    let models = accepted
        .models
        .keys()
        .map(|name| model_row(registration, accepted, name));
    let devices = accepted
        .devices
        .keys()
        .map(|name| device_row(registration, accepted, name));
    let mut writes: BTreeMap<String, Option<Bytes>> = models.chain(devices).collect();
    for (key, value) in rows.load().await? {
        let row = serde_json::from_slice::<Row>(&value);
        if row.is_ok_and(|row| row.protocol() == registration.protocol) {
            writes.entry(key).or_insert(None);
        }
    }
    let last = Row::Mapper(registration.clone()).write();
    writes.remove(&last.0);
    let writes: Vec<_> = writes.into_iter().chain([last]).collect();
    for chunk in writes.chunks(CHUNK) {
        rows.write(chunk.to_vec()).await?;
    }
    Ok(())
}

/// What the mapper has accepted by one step.
pub(super) async fn accept(
    rows: &dyn Rows,
    registration: &Registration,
    accepted: &Accepted,
    step: &Step,
) -> Result<(), RowsError> {
    let row = match step.verb {
        Verb::CreateModel | Verb::UpdateModel | Verb::RemoveModel => {
            model_row(registration, accepted, &step.name)
        }
        Verb::Register | Verb::Update | Verb::Remove => device_row(registration, accepted, &step.name),
    };
    rows.write(vec![row]).await
}

fn model_row(registration: &Registration, accepted: &Accepted, name: &ModelName) -> (String, Option<Bytes>) {
    let (protocol, mark) = (registration.protocol.clone(), registration.mark);
    match accepted.models.get(name).cloned() {
        None => (model_key(&protocol, name), None),
        Some(digest) => Row::Model {
            protocol,
            mark,
            name: name.clone(),
            digest,
        }
        .write(),
    }
}

fn device_row(
    registration: &Registration,
    accepted: &Accepted,
    name: &DeviceName,
) -> (String, Option<Bytes>) {
    let (protocol, mark) = (registration.protocol.clone(), registration.mark);
    match accepted.devices.get(name).cloned() {
        None => (device_key(&protocol, name), None),
        Some((digest, model)) => Row::Device {
            protocol,
            mark,
            name: name.clone(),
            digest,
            model,
        }
        .write(),
    }
}

#[cfg(test)]
pub(super) mod tests;
