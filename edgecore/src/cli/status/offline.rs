//! What the disk tells about a node whose daemon does not run.

use anyhow::Context as _;
use protocol::tls;

use super::{Outbox, PodLine, Status, Store};
use crate::cli::Paths;
use crate::config::Config;
use crate::store::{StoreError, Stores, Table, open_stores};

/// Reads configuration, certificate and store.
pub(super) async fn read(paths: &Paths) -> anyhow::Result<Status> {
    let config = Config::load(&paths.config())?;
    let mut status = Status {
        node: config.node_name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        certificate_expires: certificate_end(paths),
        store: Store::measure(&paths.state_dir()),
        ..Status::default()
    };
    "offline".clone_into(&mut status.link.state);
    status.link.address = config
        .addresses
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    match open(paths) {
        Ok(Some(stores)) => held(&stores, &mut status).await?,
        Ok(None) => {}
        Err(error) => status.warnings.push(format!("the store cannot be read: {error}")),
    }
    Ok(status)
}

/// Opens the store of a node that ran before; looking must not create one.
fn open(paths: &Paths) -> Result<Option<Stores>, StoreError> {
    let dir = paths.state_dir();
    if dir.join("meta").is_dir() {
        open_stores(&dir).map(Some)
    } else {
        Ok(None)
    }
}

async fn held(stores: &Stores, status: &mut Status) -> anyhow::Result<()> {
    let objects = stores
        .meta
        .scan(Table::Desired)
        .await
        .context("the objects in the store")?;
    status.store.objects = objects.len() as u64;
    status.pods = objects.iter().filter_map(|(key, _)| pod(key)).collect();
    let reports = stores.outbox.scan(Table::Outbox).await.context("the outbox")?;
    let events = stores.outbox.scan(Table::Event).await.context("the outbox")?;
    status.outbox = Outbox {
        waiting: (reports.len() + events.len()) as u64,
        refused: Vec::new(),
    };
    status.warnings.extend(stores.incidents.iter().cloned());
    Ok(())
}

/// A pod by its key in the store.
fn pod(key: &str) -> Option<PodLine> {
    let mut parts = key.split('/');
    let (Some("pod" | "Pod"), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(PodLine {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        state: "Unknown".to_owned(),
        ..PodLine::default()
    })
}

/// When the node's certificate ends.
pub(super) fn certificate_end(paths: &Paths) -> Option<String> {
    let pem = std::fs::read(paths.certificate()).ok()?;
    let certificate = tls::authority_from_pem(&pem).ok()?;
    let end = tls::expiry(&certificate).ok()?;
    jiff::Timestamp::try_from(end).ok().map(|end| end.to_string())
}
