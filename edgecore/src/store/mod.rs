//! The durable store: a narrow trait, its sled implementation, and an in-memory one.
//!
//! A [`Store`] is a blocking, single-threaded map of tables. Everybody else holds a [`Db`]: a handle to
//! the one thread that owns a store, with a bounded queue and group commit. The edge keeps its state in
//! memory and reads the store at start only, so no read ever waits for the disk later.
//!
//! ```text
//! Db ──bounded queue──► writer thread ──► Guarded ──► SledStore ──► <root>/<name>/   small values
//!  (cloned, async)       group commit     full disk             └──► <root>/objects/<name>/<aa>/<hash>   large ones
//! ```
//!
//! In front of the database of what the node has to say is a short log of its own, since its commits
//! are small and many.
//!
//! An older program finds what a newer one wrote, after an upgrade that was taken back: `format` says what
//! becomes of it.
//!
//! While the disk is read-only, a `frozen` store stands in: it refuses whatever must be kept.
//!
//! What it does not do: encode values, watch for changes, or repair on its own while running.
//!
//! **Invariant:** what [`Store::commit`] has returned `Ok` for survives a power cut at any later instant,
//! whole; a batch that was cut short leaves nothing behind.

mod batch;
mod db;
mod envelope;
mod format;
mod frozen;
mod guarded;
mod incident;
mod ledger;
mod look;
mod memory;
mod objects;
mod place;
mod pulse;
mod recovery;
#[cfg(test)]
mod rollback;
mod sled_store;
mod space;
mod stores;
#[cfg(test)]
mod suite;
mod tail;
mod untold;

use bytes::Bytes;
use std::{fmt, io, path::PathBuf, sync::Arc};
use thiserror::Error;

pub use batch::{Batch, Op};
pub use db::{Db, WriterEnded};
pub use frozen::{Frost, Thaw, open_stores_or_freeze};
pub use incident::{Incident, Rung};
pub use look::{Look, look_at};
pub use memory::MemoryStore;
pub use recovery::{Opened, open};
pub use sled_store::{Damage, Findings, SledStore};
pub use stores::{RootLock, Stores, open_stores};

/// What the name of something ends with that was given up.
pub(crate) const QUARANTINED: &str = "quarantined";

/// Most operations that one batch may hold.
pub const MAX_OPS: usize = 512;
/// Most bytes of keys and small values that one batch writes to the log; what is over it goes to files.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;
/// The largest value: an object in etcd is at most 1.5 MiB, and a body may grow by what we add to it.
pub const MAX_VALUE: usize = 8 * 1024 * 1024;
/// Values above this size become content-addressed files beside the log.
pub const INLINE_LIMIT: usize = 4 * 1024;
/// The longest key: kind, namespace and name of Kubernetes fit three times over.
pub const MAX_KEY: usize = 1024;

/// Every table there is. A table not listed here does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Objects that this node must hold, by kind, namespace and name.
    Desired,
    /// What a pod names and the cluster does not have, with the reason.
    Absent,
    /// The highest view revision seen, per kind.
    Fence,
    /// Single values: the store's epoch, the boot counter, the last server time, the cluster's identity.
    Meta,
    /// What the pod manager must remember of a pod across a restart, by UID.
    PodState,
    /// Service-account tokens, so that a pod starts offline with its last one.
    Token,
    /// Reports that the API server does not have yet: the newest per key.
    Outbox,
    /// Reports that are appended, not replaced.
    Event,
    /// Images that this node pulled, and which secrets give access to them.
    ImagePull,
    /// What devices said and should be: the journal's part that outlives the power.
    Device,
    /// Mappers that registered, and what each has accepted.
    Mapper,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 11] = [
        Self::Desired,
        Self::Absent,
        Self::Fence,
        Self::Meta,
        Self::PodState,
        Self::Token,
        Self::Outbox,
        Self::Event,
        Self::ImagePull,
        Self::Device,
        Self::Mapper,
    ];

    /// The name on disk. It never changes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Absent => "absent",
            Self::Fence => "fence",
            Self::Meta => "meta",
            Self::PodState => "podstate",
            Self::Token => "token",
            Self::Outbox => "outbox",
            Self::Event => "event",
            Self::ImagePull => "imagepull",
            Self::Device => "device",
            Self::Mapper => "mapper",
        }
    }

    /// The table of that name, where it is known here.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A durable, ordered map of tables. Blocking; owned by one thread.
///
/// # Guarantees
///
/// `commit` is atomic over all tables and returns only when the batch is durable; the one store for which this does not
/// hold says so, and of which tables. After an `Err` that
/// [breaks](StoreError::breaks) the store, no further commit succeeds until it is opened again.
pub trait Store: Send {
    /// The value of a key.
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError>;

    /// At most `limit` keys of a table in order, behind `after`.
    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError>;

    /// Makes a batch durable.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Whether batches may be made durable as one, with one answer. Not where one may be refused for what is in it:
    /// the others would share its answer.
    fn merges(&self) -> bool {
        true
    }

    /// Goes on with the disk, if this store stands in for it while it cannot be written. After an error that does not
    /// break the store it stands in still.
    fn thaw(&mut self, disk: Box<dyn Store>) -> Result<(), StoreError> {
        drop(disk);
        Ok(())
    }
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The batch is over the limit; nothing was written.
    #[error("a batch of {ops} changes is over the store's limit of 512")]
    TooManyOps {
        /// How many it held.
        ops: usize,
    },
    /// A key or a value is over its limit; nothing was written.
    #[error("{table}/{key} with {len} bytes is over the store's limits")]
    TooLarge {
        /// The table it was meant for.
        table: Table,
        /// The key, cut to 80 characters.
        key: String,
        /// The length of the value.
        len: usize,
    },
    /// A stored value is not what was written.
    #[error("the value of {table}/{key} is damaged: {why}")]
    Damaged {
        /// The table.
        table: Table,
        /// The key.
        key: String,
        /// What does not fit.
        why: &'static str,
    },
    /// The file system refused.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// The storage engine refused.
    #[error("the storage engine of {path} failed")]
    Engine {
        /// The database's directory.
        path: PathBuf,
        /// What it said.
        source: Arc<sled::Error>,
    },
    /// The storage engine panicked while opening.
    #[error("the storage engine of {path} panicked: {message}")]
    Panicked {
        /// The database's directory.
        path: PathBuf,
        /// What it panicked with.
        message: String,
    },
    /// The disk is full, or nearly; nothing was written, and the next commit is tried again.
    #[error(
        "the disk of {path} is full ({free} bytes are free): make room there; edgecore goes on and tries again"
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// What is left.
        free: u64,
    },
    /// Others filled the disk during the commit: the batch is written whole or not at all, and the store is
    /// open again, or will be.
    #[error(
        "the disk of {path} was filled during a write ({free} bytes are free): make room there; edgecore goes \
         on and tries again"
    )]
    Filled {
        /// The store's directory.
        path: PathBuf,
        /// What is left.
        free: u64,
    },
    /// The disk takes no writes any more; nothing was written, and the next commit is tried again.
    #[error(
        "the store in {path} cannot be written, because its disk is read-only: dmesg says why; have the disk checked \
         (a reboot does, as a rule) or replace it; until then edgecore goes on with what it holds, and keeps nothing new"
    )]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
    },
    /// While its disk was read-only, somebody else has changed the store: what was taken in memory is not of it.
    #[error(
        "the store in {path} is another one than when its disk became read-only; edgecore restarts to open it"
    )]
    Moved {
        /// The store's directory.
        path: PathBuf,
    },
    /// A newer program wrote what this one needs and cannot read. It is left as it is.
    #[error(
        "the store in {path} was written by a newer edgecore ({what}): run that one again, or a newer one; \
         what it holds is kept, and pods go on"
    )]
    Newer {
        /// What was to be opened.
        path: PathBuf,
        /// What is not known here.
        what: String,
    },
    /// Another process has the store open.
    #[error("the store in {path} is in use by another process")]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// The writer has stopped after an earlier failure; only opening the store again helps.
    #[error("the store has stopped after an earlier failure; edgecore must be restarted")]
    Stopped,
}

impl StoreError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            what,
            path,
            source: Arc::new(source),
        }
    }

    /// What a panic of the engine said.
    fn panicked(path: PathBuf, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Self::Panicked {
            path,
            message: text.unwrap_or("no message").to_owned(),
        }
    }

    /// Whether the store must be opened again before anything else is written.
    ///
    /// A refused batch leaves the store as it was, and a store whose disk was filled is opened again by itself;
    /// everything else may have left it half way.
    pub const fn breaks(&self) -> bool {
        !matches!(
            self,
            Self::TooManyOps { .. }
                | Self::TooLarge { .. }
                | Self::Damaged { .. }
                | Self::Full { .. }
                | Self::Filled { .. }
                | Self::ReadOnly { .. }
        )
    }

    /// Whether it is sure that nothing of the batch was written.
    pub const fn wrote_nothing(&self) -> bool {
        matches!(
            self,
            Self::TooManyOps { .. } | Self::TooLarge { .. } | Self::Full { .. } | Self::ReadOnly { .. }
        )
    }

    /// Whether the disk takes no writes: the kernel does not trust it any more.
    fn is_read_only(&self) -> bool {
        let read_only = |e: &io::Error| e.kind() == io::ErrorKind::ReadOnlyFilesystem;
        if let Self::Engine { source, .. } = self {
            return matches!(&**source, sled::Error::Io(e) if read_only(e));
        }
        matches!(self, Self::ReadOnly { .. }) || matches!(self, Self::Io { source, .. } if read_only(source))
    }

    /// Whether the disk is full: the one failure that an operator ends by making room.
    pub fn is_full(&self) -> bool {
        let full = |e: &io::Error| e.kind() == io::ErrorKind::StorageFull;
        if let Self::Engine { source, .. } = self {
            return matches!(&**source, sled::Error::Io(e) if full(e));
        }
        matches!(self, Self::Full { .. } | Self::Filled { .. })
            || matches!(self, Self::Io { source, .. } if full(source))
    }
}
