//! A disk that knows what has been synced.
//!
//! Files and directories alike have a durable state and a list of changes that came after it. A sync moves
//! changes into the durable state; a power cut leaves that, and of the rest what the [`Model`] says. A name
//! is durable when its directory was synced, whatever became of the file itself.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::trace::Event;

const BLOCK: u64 = 4096;

/// What a power cut leaves of changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    /// Nothing.
    A,
    /// Each block in its newest state with probability 1/2, else in any older one; each name likewise.
    B,
    /// Nothing, but a range that `sync_file_range` has waited for counts as synced.
    C,
}

impl Model {
    pub(crate) const ALL: [Self; 3] = [Self::A, Self::B, Self::C];
}

#[derive(Clone, Debug)]
enum FileChange {
    Write { at: u64, bytes: Arc<[u8]> },
    Truncate(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String, usize),
    Exchange(String, String),
}

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug)]
enum Node {
    File {
        durable: Vec<u8>,
        /// With the time of each.
        pending: Vec<(u64, FileChange)>,
    },
    Dir {
        durable: Names,
        live: Names,
        pending: Vec<(u64, NameChange)>,
    },
}

impl Node {
    const fn dir() -> Self {
        Self::Dir {
            durable: Names::new(),
            live: Names::new(),
            pending: Vec::new(),
        }
    }
}

/// The disk of the committing process, as of some event.
pub(crate) struct Disk {
    model: Model,
    nodes: Vec<Node>,
    open: HashMap<i32, usize>,
    /// Syncs that have begun, and when.
    syncing: HashMap<u32, (usize, u64)>,
    clock: u64,
}

impl Disk {
    /// An empty, durable root directory.
    pub(crate) fn new(model: Model) -> Self {
        Self {
            model,
            nodes: vec![Node::dir()],
            open: HashMap::new(),
            syncing: HashMap::new(),
            clock: 0,
        }
    }

    /// Carries out one event.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.clock += 1;
        match event {
            Event::Open {
                fd,
                path,
                create,
                truncate,
            } => self.opened(*fd, path, *create, *truncate),
            Event::Duplicate { fd, to } => {
                self.open.insert(*to, self.open[fd]);
            }
            Event::Close { fd } => {
                self.open.remove(fd);
            }
            Event::Write { fd, at, bytes } => {
                let change = FileChange::Write {
                    at: *at,
                    bytes: bytes.clone(),
                };
                self.change(self.open[fd], change);
            }
            Event::Copy {
                from,
                from_at,
                to,
                to_at,
                len,
            } => {
                let whole = self.content(self.open[from]);
                let (start, end) = (*from_at, from_at + len);
                let bytes = whole[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].into();
                self.change(self.open[to], FileChange::Write { at: *to_at, bytes });
            }
            Event::Truncate { fd, len } => self.change(self.open[fd], FileChange::Truncate(*len)),
            Event::SyncBegins { fd, thread } => {
                self.syncing.insert(*thread, (self.open[fd], self.clock));
            }
            Event::SyncEnds { thread, .. } => {
                let (node, began) = self.syncing.remove(thread).unwrap();
                self.synced(node, |time, _| time < began);
            }
            Event::SyncRange { fd, from, to } if self.model == Model::C => {
                self.synced(self.open[fd], |_, change| match change {
                    FileChange::Write { at, bytes } => at >= from && at + bytes.len() as u64 <= *to,
                    FileChange::Truncate(_) => false,
                });
            }
            Event::MakeDir(_) | Event::Rename { .. } | Event::Exchange { .. } | Event::Remove(_) => {
                self.named(event);
            }
            Event::SyncRange { .. } | Event::Said(_) => {}
        }
    }

    /// Carries out what changes a directory.
    fn named(&mut self, event: &Event) {
        match event {
            Event::MakeDir(path) => {
                self.nodes.push(Node::dir());
                let made = self.nodes.len() - 1;
                let (dir, name) = self.parent(path);
                self.rename(dir, NameChange::Set(name, made));
            }
            Event::Rename { from, to } => {
                let ((dir, a), (other, b)) = (self.parent(from), self.parent(to));
                assert_eq!(dir, other, "a rename across directories is not modelled");
                let node = self.find(from).unwrap();
                self.rename(dir, NameChange::Rename(a, b, node));
            }
            Event::Exchange { a, b } => {
                let ((dir, a), (other, b)) = (self.parent(a), self.parent(b));
                assert_eq!(dir, other, "a rename across directories is not modelled");
                self.rename(dir, NameChange::Exchange(a, b));
            }
            Event::Remove(path) => {
                let (dir, name) = self.parent(path);
                self.rename(dir, NameChange::Remove(name));
            }
            Event::Open { .. }
            | Event::Duplicate { .. }
            | Event::Close { .. }
            | Event::Write { .. }
            | Event::Copy { .. }
            | Event::Truncate { .. }
            | Event::SyncBegins { .. }
            | Event::SyncEnds { .. }
            | Event::SyncRange { .. }
            | Event::Said(_) => {}
        }
    }

    /// What a process reads.
    fn content(&self, node: usize) -> Vec<u8> {
        let Node::File { durable, pending } = &self.nodes[node] else {
            panic!("a directory is no file")
        };
        let mut bytes = durable.clone();
        for (_, change) in pending {
            change.apply(&mut bytes);
        }
        bytes
    }

    fn opened(&mut self, fd: i32, path: &Path, create: bool, truncate: bool) {
        let node = self.find(path).unwrap_or_else(|| {
            assert!(create, "{} was opened and is not known", path.display());
            self.nodes.push(Node::File {
                durable: Vec::new(),
                pending: Vec::new(),
            });
            let made = self.nodes.len() - 1;
            let (dir, name) = self.parent(path);
            self.rename(dir, NameChange::Set(name, made));
            made
        });
        if truncate {
            self.change(node, FileChange::Truncate(0));
        }
        self.open.insert(fd, node);
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(0, |node, name| match &self.nodes[node] {
            Node::Dir { live, .. } => live.get(name.to_str().unwrap()).copied(),
            Node::File { .. } => None,
        })
    }

    fn parent(&self, path: &Path) -> (usize, String) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (self.find(path.parent().unwrap()).unwrap(), name)
    }

    fn change(&mut self, node: usize, change: FileChange) {
        let Node::File { pending, .. } = &mut self.nodes[node] else {
            panic!("a directory was written")
        };
        pending.push((self.clock, change));
    }

    fn rename(&mut self, dir: usize, change: NameChange) {
        let Node::Dir { live, pending, .. } = &mut self.nodes[dir] else {
            panic!("a file is no directory")
        };
        change.apply(live);
        pending.push((self.clock, change));
    }

    fn synced(&mut self, node: usize, covers: impl Fn(u64, &FileChange) -> bool) {
        match &mut self.nodes[node] {
            Node::File { durable, pending } => pending.retain(|(time, change)| {
                let covered = covers(*time, change);
                if covered {
                    change.apply(durable);
                }
                !covered
            }),
            Node::Dir { durable, pending, .. } => pending.retain(|(time, change)| {
                let covered = covers(*time, &FileChange::Truncate(0));
                if covered {
                    change.apply(durable);
                }
                !covered
            }),
        }
    }

    /// Writes into `to` what the power cut leaves.
    pub(crate) fn cut(&self, seed: u64, to: &Path) {
        let mut rng = StdRng::seed_from_u64(seed);
        self.leave(0, to, &mut rng);
    }

    fn leave(&self, node: usize, to: &Path, rng: &mut StdRng) {
        match &self.nodes[node] {
            Node::File { durable, pending } => {
                let mut bytes = durable.clone();
                if self.model == Model::B {
                    survive(&mut bytes, pending, rng);
                }
                fs::write(to, bytes).unwrap();
            }
            Node::Dir { durable, pending, .. } => {
                let mut names = durable.clone();
                for (_, change) in pending {
                    if self.model == Model::B && rng.random() {
                        change.apply(&mut names);
                    }
                }
                fs::create_dir_all(to).unwrap();
                for (name, node) in names {
                    self.leave(node, &to.join(name), rng);
                }
            }
        }
    }
}

/// Applies what survives of unsynced changes: of each block all of them, or with equal odds fewer.
fn survive(bytes: &mut Vec<u8>, pending: &[(u64, FileChange)], rng: &mut StdRng) {
    let mut left: HashMap<u64, usize> = HashMap::new();
    for (_, change) in pending {
        for (at, _) in change.blocks() {
            *left.entry(at / BLOCK).or_default() += 1;
        }
    }
    let mut blocks: Vec<_> = left.iter_mut().collect();
    blocks.sort_unstable(); // So that one seed is one disk.
    for (_, count) in blocks {
        if rng.random() {
            *count = rng.random_range(0..*count);
        }
    }
    for (_, change) in pending {
        if let FileChange::Truncate(_) = change
            && rng.random()
        {
            change.apply(bytes);
        }
        for (at, part) in change.blocks() {
            let left = left.get_mut(&(at / BLOCK)).unwrap();
            if *left > 0 {
                *left -= 1;
                write_at(bytes, at, part);
            }
        }
    }
}

impl FileChange {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes: part } => write_at(bytes, *at, part),
            Self::Truncate(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
        }
    }

    /// A write, cut where blocks end.
    fn blocks(&self) -> Vec<(u64, &[u8])> {
        let Self::Write { at, bytes } = self else {
            return Vec::new();
        };
        let (mut at, mut rest, mut parts) = (*at, &bytes[..], Vec::new());
        while !rest.is_empty() {
            let len = usize::try_from(BLOCK - at % BLOCK).unwrap().min(rest.len());
            parts.push((at, &rest[..len]));
            at += len as u64;
            rest = &rest[len..];
        }
        parts
    }
}

fn write_at(bytes: &mut Vec<u8>, at: u64, part: &[u8]) {
    let at = usize::try_from(at).unwrap();
    if bytes.len() < at + part.len() {
        bytes.resize(at + part.len(), 0);
    }
    bytes[at..at + part.len()].copy_from_slice(part);
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            Self::Exchange(a, b) => {
                let (of_a, of_b) = (names.remove(a), names.remove(b));
                names.extend(of_b.map(|node| (a.clone(), node)));
                names.extend(of_a.map(|node| (b.clone(), node)));
            }
        }
    }
}
