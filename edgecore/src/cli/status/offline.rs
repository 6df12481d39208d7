//! What the disk tells about a node whose daemon does not run. Looking changes nothing there.

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
use crate::store::{Look, look_at};

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
    match look_at(&paths.state_dir()) {
        Ok(Some(stores)) => held(stores, &mut status).await?,
        Ok(None) => {}
        Err(error) => {
            let error = anyhow::Error::new(error);
            status
                .warnings
                .push(format!("the store cannot be read: {error:#}"));
        }
    }
    Ok(status)
}

async fn held(stores: Look, status: &mut Status) -> anyhow::Result<()> {
    let (desired, _) = Desired::load(stores.meta)
        .await
        .context("the objects in the store")?;
    let reporter = Reporter::load(stores.outbox).await.context("the outbox")?;
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
    status.warnings.extend(stores.troubles);
    Ok(())
}
