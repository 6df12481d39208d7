//! Reading a short log: every whole frame, past what a bad disk damaged.

use std::io;

use super::{MOST_OF_BATCH, PLAIN, Tail, WITH_DICTIONARY, aside, frame};
use crate::store::{Incident, Rung, Store, StoreError};

/// What of a log cannot be read, although whole frames stand behind it.
#[derive(Debug, Default)]
struct Lost {
    places: usize,
    bytes: usize,
    /// Where the first of it begins.
    first: Option<usize>,
    /// Commits that are missing, at least.
    commits: u64,
}

impl Lost {
    fn is_any(&self) -> bool {
        self.first.is_some()
    }

    /// Takes a damaged stretch in, and how many commits it held where that is known.
    fn stretch(&mut self, at: usize, len: usize, commits: Option<u64>) {
        self.places += 1;
        self.bytes += len;
        self.first.get_or_insert(at);
        self.commits += commits.unwrap_or(1);
    }

    fn told(&self) -> Option<String> {
        let first = self.first?;
        let Self {
            places,
            bytes,
            commits,
            ..
        } = self;
        Some(format!(
            "{bytes} bytes in {places} places, the first at byte {first}, are not what was written; {commits} \
             commits or more are missing, and what stands behind them was read"
        ))
    }
}

impl<S: Store> Tail<S> {
    /// Takes in every whole frame of the file.
    pub(super) fn read(&mut self) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut self.file, &mut bytes).map_err(StoreError::io("read", &self.path))?;
        self.lasting = bytes.len() as u64;
        let (mut at, mut expected, mut lost) = (0, None, Lost::default());
        while let Some(found) = frame::seek(&bytes[at..], expected) {
            let Some((number, kind, packed)) = frame::first(&bytes[at + found..]) else {
                break;
            };
            if found > 0 {
                lost.stretch(at, found, expected.map(|expected| number - expected));
            }
            at += found;
            if kind == WITH_DICTIONARY && self.dictionary.is_empty() && lost.is_any() {
                lost.commits += 1;
            } else {
                self.take_frame(kind, packed).ok_or_else(|| self.newer(at))?;
            }
            at += frame::HEAD + packed.len();
            self.next = number + 1;
            expected = Some(self.next);
        }
        self.len = at as u64;
        let rest = bytes.len() - at;
        if rest > 0 {
            self.cut(self.len)?;
            tracing::info!(path = %self.path.display(), rest, "the end of a log is not whole; it was not acknowledged");
        }
        self.found = lost.told().map(|what| self.incident(&what));
        Ok(())
    }

    /// Takes in what a whole frame holds; `None` when it cannot be understood.
    fn take_frame(&mut self, kind: u8, packed: &[u8]) -> Option<()> {
        let raw = self.unpack(kind, packed)?;
        let batch = frame::decode(&raw)?;
        self.learn(&raw);
        self.take(&batch);
        Some(())
    }

    fn incident(&self, what: &str) -> Incident {
        let stem = self.path.file_stem().unwrap_or_default();
        let aside = aside(&self.path);
        let aside = aside.file_name().unwrap_or_default();
        Incident {
            database: stem.to_string_lossy().into_owned(),
            rung: Rung::Log,
            detail: format!("{what}; the file is kept as {}", aside.to_string_lossy()),
        }
    }

    fn newer(&self, at: usize) -> StoreError {
        StoreError::Newer {
            path: self.path.clone(),
            what: format!("what stands at byte {at} is of a kind that is not known"),
        }
    }

    fn unpack(&self, kind: u8, packed: &[u8]) -> Option<Vec<u8>> {
        let dictionary: &[u8] = match kind {
            PLAIN => &[],
            WITH_DICTIONARY => &self.dictionary,
            _ => return None,
        };
        let size = usize::try_from(zstd::zstd_safe::get_frame_content_size(packed).ok()??).ok()?;
        let mut unpacker = zstd::bulk::Decompressor::with_dictionary(dictionary).ok()?;
        unpacker.decompress(packed, size.min(4 * MOST_OF_BATCH)).ok()
    }
}
