//! Devices of a node whose daemon does not run: from the journal.

use anyhow::Context as _;
use protocol::clock::Clock;

use super::DeviceView;
use crate::cli::Paths;
use crate::config::Config;
use crate::devices::look;
use crate::state::Desired;
use crate::store::{Table, look_at};

/// Reads the devices and what is kept of them, and what is wrong with the store. Looking changes nothing.
pub(super) async fn read(paths: &Paths, clock: &Clock) -> anyhow::Result<(Vec<DeviceView>, Vec<String>)> {
    let config = Config::load(&paths.config())?;
    let Some(stores) = look_at(&paths.state_dir()).context("the store cannot be read")? else {
        return Ok((Vec::new(), Vec::new()));
    };
    let (desired, _) = Desired::load(stores.meta)
        .await
        .context("the objects in the store")?;
    let flash = stores.outbox.scan(Table::Device).await.context("the journal")?;
    let journal = paths.at(&config.devices.journal_dir);
    let held = look(&desired.device_objects(), &journal, &paths.at("/"), flash);
    let now = clock.now_millis();
    let view = held.into_iter();
    let view = view.map(|held| DeviceView::of(&held.served, Some(held.standing), held.twin, now));
    Ok((view.collect(), stores.troubles))
}
