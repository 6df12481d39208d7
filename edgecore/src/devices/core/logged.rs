//! The log of all devices on tmpfs, and what becomes of it when it cannot be written.

use protocol::devices::DeviceName;

use super::book::Book;
use crate::devices::journal::{Line, Log};
use crate::devices::twin::Outcome;

/// After a log could not be written, in ms.
const LOG_PAUSE: i64 = 60_000;

impl Book {
    pub(super) fn log_outcome(&mut self, name: &DeviceName, outcome: &Outcome) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let stood = entry.stood_to_log(outcome);
        let uid = entry.uid();
        let changes = outcome.changes.iter();
        let changes = changes.map(|change| Line::property(uid, &change.name, change.kept.as_ref()));
        let lines = changes.chain(stood.map(|stood| Line::standing(uid, stood)));
        let appended = self.log.as_mut().map(|log| log.append(lines));
        if let Some(Err(error)) = appended {
            self.lose_log(&error);
        }
    }

    /// Flash must have everything from now on, and soon what the log has alone.
    pub(super) fn lose_log(&mut self, error: &std::io::Error) {
        tracing::error!(%error, "the journal of devices cannot be written; values go to flash");
        if let Some(log) = self.log.take() {
            self.lost = Some((self.gathering.number, log.lose()));
        }
        for entry in self.entries.values_mut() {
            let names: Vec<_> = entry.twin.kept().map(|(name, _)| name.clone()).collect();
            entry.dirty.extend(names);
        }
    }

    /// Every line of a log that holds all there is.
    pub(super) fn lines(&self, anchor: Option<i64>) -> impl Iterator<Item = Line<'_>> {
        let devices = self.entries.values().flat_map(|entry| {
            let uid = entry.uid();
            let kept = entry.twin.kept();
            let kept = kept.map(move |(name, kept)| Line::property(uid, name, Some(kept)));
            kept.chain([Line::standing(uid, entry.twin.stood())])
        });
        let orphans = self.orphans.devices.iter().flat_map(|(uid, rows)| {
            let kept = rows.kept.iter();
            let kept = kept.map(move |(name, kept)| Line::property(uid, name, Some(kept)));
            kept.chain(rows.stood.map(|stood| Line::standing(uid, stood)))
        });
        anchor.map(Line::anchor).into_iter().chain(devices).chain(orphans)
    }

    pub(super) fn begin_log(&mut self, log: Log) {
        self.log = Some(log);
        self.lost = None;
    }

    /// Flash has everything, up to this round.
    pub(super) fn is_on_flash(&mut self, round: u64) {
        if let Some((_, lost)) = self.lost.take_if(|(number, _)| *number <= round) {
            lost.remove();
        }
    }

    /// Lets the log fail from now on.
    #[cfg(test)]
    pub(super) fn fill_disk(&mut self) {
        self.log.as_mut().unwrap().fill_disk();
    }

    /// Whether the log should be written anew.
    pub(super) fn wants_log(&self, mono: i64) -> bool {
        mono >= self.log_due && self.log.as_ref().is_none_or(Log::has_grown)
    }

    /// The log could not be written.
    pub(super) const fn retry_log_after(&mut self, mono: i64) {
        self.log_due = mono + LOG_PAUSE;
    }

    /// Notes in the log how the clock stands.
    pub(super) fn log_anchor(&mut self, anchor: i64) {
        let appended = self
            .log
            .as_mut()
            .map(|log| log.append([Line::anchor(anchor)].into_iter()));
        if let Some(Err(error)) = appended {
            self.lose_log(&error);
        }
    }

    /// How the clock stood when the log was last written.
    pub(super) const fn recalled_anchor(&self) -> Option<i64> {
        self.orphans.anchor
    }
}
