//! The twins as their journal has them, for whoever looks while edgecore does not run. What it holds is not
//! changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use protocol::object::Object;

use super::catalog::Catalog;
use crate::devices::journal::{Log, boot_id, read_rows};
use crate::devices::seam::{Standing, TwinView};
use crate::devices::served::Served;
use crate::devices::twin::{Moment, Rules, Twin};

/// A device as the journal has it.
pub struct Held {
    /// The device with its model.
    pub served: Arc<Served>,
    /// How it was.
    pub standing: Standing,
    /// What it had said.
    pub twin: BTreeMap<String, TwinView>,
}

/// The devices that are stored, each with what the log of this boot, else the flash, has of it.
pub fn look(objects: &[Arc<Object>], journal: &Path, root: &Path, flash: Vec<(String, Bytes)>) -> Vec<Held> {
    let log = boot_id(root).ok().filter(|_| journal.is_dir());
    let log = log.and_then(|boot| Log::read(journal, &boot).ok().flatten());
    let mut kept = match log {
        Some(mut log) => {
            if log.skipped > 0 {
                log.fill(read_rows(flash));
            }
            log
        }
        None => read_rows(flash),
    };
    let served = Catalog::default().served(objects);
    let held = served.into_values().map(|served| {
        let served = Arc::new(served);
        let rows = kept.devices.remove(&served.identity.uid).unwrap_or_default();
        let rules = Rules::of(Arc::clone(&served));
        let twin = Twin::recall(rows.kept, rows.stood, Moment::default());
        Held {
            standing: twin.standing(),
            twin: twin.views(&rules),
            served,
        }
    });
    held.collect()
}
