//! What the disk tells about a node whose daemon does not run.

use std::sync::Arc;

use anyhow::Context as _;
use protocol::clock::Clock;

use super::{Outbox, PodLine, Status, Store};
use crate::cli::Paths;
use crate::config::Config;
use crate::identity::{CertificateView, end_on_disk};
use crate::pods::desired::DesiredPod;
use crate::pods::seams::PodSource as _;
use crate::reported::Reporter;
use crate::state::Desired;
use crate::store::{StoreError, Stores, open_stores};

/// Reads configuration, certificate and store.
pub(super) async fn read(paths: &Paths, clock: &Clock) -> anyhow::Result<Status> {
    let config = Config::load(&paths.config())?;
    let mut status = Status {
        node: config.node_name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: Store::measure(&paths.state_dir()),
        ..Status::default()
    };
    if let Some(ends) = end_on_disk(&paths.certificate()) {
        let view = CertificateView {
            ends: Some(ends),
            renews: None,
            trouble: None,
            unwritten: None,
        };
        status.tell_certificate(&view, clock.now());
    }
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
    let (desired, _) = Desired::load(stores.meta.clone())
        .await
        .context("the objects in the store")?;
    let reporter = Reporter::load(stores.outbox.clone())
        .await
        .context("the outbox")?;
    status.store.objects = desired.objects() as u64;
    let line = |pod: &Arc<DesiredPod>| {
        let last = pod
            .pod
            .metadata
            .uid
            .as_deref()
            .and_then(|uid| reporter.last_status(uid));
        PodLine::of(&pod.pod, &last.unwrap_or_default())
    };
    status.pods = desired.pods().iter().map(line).collect();
    status.outbox = Outbox {
        waiting: reporter.pending() as u64,
        deferred: 0,
        refused: reporter.troubles(),
    };
    status
        .warnings
        .extend(stores.incidents.iter().map(ToString::to_string));
    Ok(())
}
