//! The rows of `Table::Device`.

use std::sync::Arc;

use bytes::Bytes;

use super::{Recalled, Rows};
use crate::devices::twin::{Kept, Quality, Reported, Stood};

/// The key of a property's row.
pub(crate) fn property_key(uid: &str, name: &str) -> String {
    format!("p/{uid}/{name}")
}

/// The key of the row that says how a device is.
pub(crate) fn standing_key(uid: &str) -> String {
    format!("d/{uid}")
}

/// A property's row.
pub(crate) fn property_row(kept: &Kept) -> Option<Bytes> {
    serde_json::to_vec(kept).ok().map(Bytes::from)
}

/// A device's row.
pub(crate) fn standing_row(stood: Stood) -> Option<Bytes> {
    serde_json::to_vec(&stood).ok().map(Bytes::from)
}

/// What flash holds, as it is to be taken after a boot: nobody knows how old the values are, and the
/// cluster may have newer ones.
pub(crate) fn read_rows(rows: Vec<(String, Bytes)>) -> Recalled {
    let mut recalled = Recalled::default();
    for (key, row) in rows {
        if read_row(&mut recalled, &key, &row).is_none() {
            recalled.skipped += 1;
        }
    }
    recalled
}

fn read_row(recalled: &mut Recalled, key: &str, row: &[u8]) -> Option<()> {
    let (kind, rest) = key.split_once('/')?;
    let mut rows = |uid: &str, set: &mut dyn FnMut(&mut Rows)| {
        set(recalled.devices.entry(uid.to_owned()).or_default());
    };
    if kind == "d" {
        let stood: Stood = serde_json::from_slice(row).ok()?;
        rows(rest, &mut |rows| rows.stood = Some(stood));
        return Some(());
    }
    let (uid, name) = rest.split_once('/')?;
    let mut kept: Kept = serde_json::from_slice(row).ok()?;
    kept.reported = kept.reported.map(recall);
    rows(uid, &mut |rows| {
        rows.kept.insert(name.into(), kept.clone());
    });
    Some(())
}

fn recall(reported: Arc<Reported>) -> Arc<Reported> {
    let quality = match reported.own_quality() {
        Quality::Good | Quality::Stale => Quality::Stale,
        Quality::Error => Quality::Error,
    };
    Arc::new(Reported {
        recalled: Some(reported.recalled.unwrap_or(reported.version)),
        ..Arc::unwrap_or_clone(reported).with_own_quality(quality)
    })
}
