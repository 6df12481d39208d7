//! Devices of a node whose daemon does not run: from the journal.

use anyhow::Context as _;
use protocol::clock::Clock;

use super::DeviceView;
use crate::cli::Paths;
use crate::config::Config;
use crate::devices::look;
use crate::state::Desired;
use crate::store::{Table, open_stores};

/// Reads the devices and what is kept of them. Looking creates nothing.
pub(super) async fn read(paths: &Paths, clock: &Clock) -> anyhow::Result<Vec<DeviceView>> {
    let config = Config::load(&paths.config())?;
    let dir = paths.state_dir();
    if !dir.join("meta").is_dir() {
        return Ok(Vec::new());
    }
    let stores = open_stores(&dir).context("the store")?;
    let (desired, _) = Desired::load(stores.meta.clone())
        .await
        .context("the objects in the store")?;
    let flash = stores.outbox.scan(Table::Device).await.context("the journal")?;
    let journal = paths.at(&config.devices.journal_dir);
    let held = look(&desired.device_objects(), &journal, &paths.at("/"), flash);
    let now = clock.now_millis();
    let view = held.into_iter();
    Ok(view
        .map(|held| DeviceView::of(&held.served, Some(held.standing), held.twin, now))
        .collect())
}
