//! Container logs that grow long are rotated, with the kubelet's names and defaults.
//!
//! ```text
//!  web/0.log                        the runtime writes here
//!  web/0.log.20261125-224300        rotated last, still as it was
//!  web/0.log.20261125-213000.gz     older ones, compressed
//! ```
//!
//! [`Tidy`] decides what goes; [`keep_short`] looks, renames, and tells the runtime to open its log anew: also one
//! that is missing.
//!
//! **Invariant:** no line is lost to a failure: where the runtime does not open a new log, the old one gets its
//! name back, and a compressed log has its name only when it is whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::ToSpan as _;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use k8s_cri::v1 as api;
use protocol::clock::Clock;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval_at};
use tracing::{debug, warn};

use super::container_config::CONTAINER_NAME;
use super::sandbox_config::{POD_NAME, POD_NAMESPACE, POD_UID};
use crate::runtime::{Labels, Runtime, RuntimeError};

/// Between two looks, as the kubelet's.
const LOOK: Duration = Duration::from_secs(10);
/// When a log was rotated.
const STAMP: &str = "%Y%m%d-%H%M%S";
/// What a log that is being compressed ends with.
const UNFINISHED: &str = ".tmp";
/// What a compressed log ends with.
const COMPRESSED: &str = ".gz";

/// How much of a container's log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// A log longer than this many bytes is rotated.
    pub size: u64,
    /// How many files there are at most, the one that is written included.
    pub files: usize,
}

impl Default for Limits {
    /// The kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
    fn default() -> Self {
        Self {
            size: 10 << 20,
            files: 5,
        }
    }
}

/// Why a log was not rotated.
#[derive(Debug, Error)]
enum RotateError {
    #[error("{}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the runtime did not open a new log")]
    Reopen(#[source] RuntimeError),
    #[error("the node agent is stopping")]
    Stopping,
}

/// Where the logs are, who writes them, and how long they may be.
pub(super) struct Rotation {
    pub(super) runtime: Arc<dyn Runtime>,
    /// `/var/log/pods`.
    pub(super) log_dir: PathBuf,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
}

/// Rotates what is too long, for ever.
pub(super) async fn keep_short(rotation: Rotation) {
    // Not at once: pods that start have the first word.
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    let mut failing = BTreeSet::new();
    let mut resisting = Resisting::default();
    loop {
        look.tick().await;
        // What cannot be listed now is looked at the next time.
        let Ok(containers) = rotation.runtime.list_containers(Labels::new()).await else {
            continue;
        };
        failing.retain(|id| containers.iter().any(|container| container.id == *id));
        for container in containers {
            let Some(log) = rotation.log_of(&container) else {
                continue;
            };
            match rotation.shorten(&container.id, &log).await {
                Ok(resist) => {
                    failing.remove(&container.id);
                    resisting.tell(resist);
                }
                Err(error) => {
                    if failing.insert(container.id) {
                        let error: &dyn std::error::Error = &error;
                        warn!(error, log = %log.display(), "a log is not rotated");
                    }
                }
            }
        }
    }
}

/// Rotated logs that cannot be removed: of each it is told once. They are as many as there are on the disk.
#[derive(Default)]
struct Resisting(BTreeSet<PathBuf>);

impl Resisting {
    fn tell(&mut self, resist: Vec<(PathBuf, io::Error)>) {
        for (log, error) in resist {
            if self.is_new(&log) {
                warn!(%error, log = %log.display(), "a rotated log cannot be removed; its container's log is rotated all the same");
            }
        }
    }

    fn is_new(&mut self, log: &Path) -> bool {
        self.0.retain(|told| told.exists());
        self.0.insert(log.to_owned())
    }
}

impl Rotation {
    /// The log that a running container of a pod writes.
    fn log_of(&self, container: &api::Container) -> Option<PathBuf> {
        if container.state != api::ContainerState::ContainerRunning as i32 {
            return None;
        }
        let label = |key: &str| container.labels.get(key);
        let (namespace, name, uid) = (label(POD_NAMESPACE)?, label(POD_NAME)?, label(POD_UID)?);
        let attempt = container.metadata.as_ref()?.attempt;
        let pod = self.log_dir.join(format!("{namespace}_{name}_{uid}"));
        Some(pod.join(label(CONTAINER_NAME)?).join(format!("{attempt}.log")))
    }

    /// Rotates a log that is too long. Gives back those of the older ones that had to go and did not.
    async fn shorten(&self, id: &str, log: &Path) -> Result<Vec<(PathBuf, io::Error)>, RotateError> {
        if self.length(id, log).await? <= self.limits.size {
            return Ok(Vec::new());
        }
        let (of, files) = (log.to_owned(), self.limits.files);
        let resist = spawn_blocking(move || tidy(&of, files))
            .await
            .map_err(|_| RotateError::Stopping)??;
        let rotated = self.rotated_name(log)?;
        rename(log, &rotated)?;
        if let Err(error) = self.runtime.reopen_log(id).await {
            rename(&rotated, log)?;
            return Err(RotateError::Reopen(error));
        }
        Ok(resist)
    }

    /// Of a log that is there. One that is missing is opened anew, or nothing is logged for as long as its container
    /// runs: somebody removed it, or the node agent ended between renaming it and having it opened.
    async fn length(&self, id: &str, log: &Path) -> Result<u64, RotateError> {
        let there = match fs::metadata(log) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                self.runtime.reopen_log(id).await.map_err(RotateError::Reopen)?;
                fs::metadata(log)
            }
            there => there,
        };
        there
            .map(|there| there.len())
            .map_err(|source| failed(log, source))
    }

    fn rotated_name(&self, log: &Path) -> Result<PathBuf, RotateError> {
        let now = jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default();
        let names = rotated_of(log).map_err(|source| failed(log, source))?;
        let stamp = next_stamp(now.to_zoned(TimeZone::UTC).datetime(), &names);
        let mut name = log.as_os_str().to_owned();
        name.push(stamp.strftime(&format!(".{STAMP}")).to_string());
        Ok(name.into())
    }
}

/// Names stand for ages: none may be older than what was rotated before, nor its name, whatever the clock says.
fn next_stamp(now: DateTime, rotated: &[String]) -> DateTime {
    let after = |name: &String| {
        let name = name.trim_end_matches(UNFINISHED).trim_end_matches(COMPRESSED);
        let stamp = DateTime::strptime(STAMP, name.rsplit_once('.')?.1).ok()?;
        stamp.checked_add(1.second()).ok()
    };
    rotated.iter().filter_map(after).fold(now, DateTime::max)
}

/// The count of the next instance of a container whose logs are in `dir`: one more than the highest of `<n>.log` and
/// of what was rotated out of them. 0 when there is none.
pub(super) fn next_attempt(dir: &Path) -> u32 {
    attempts(dir)
        .map(|(attempt, _)| attempt.saturating_add(1))
        .max()
        .unwrap_or(0)
}

/// Removes what is logged of a container's instances before the newest one. The runtime has forgotten all of them, so
/// that none would go with its container; and at each reboot there is one more.
pub(super) fn remove_older(dir: &Path) {
    let logs: Vec<_> = attempts(dir).collect();
    let newest = logs.iter().map(|(attempt, _)| *attempt).max();
    for (_, path) in logs.iter().filter(|(attempt, _)| Some(*attempt) < newest) {
        unlink(path);
    }
}

/// The logs in the directory of a container, each with its instance.
fn attempts(dir: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| !path.is_dir());
    files.filter_map(|path| {
        let attempt = attempt(path.file_name()?.to_str()?)?;
        Some((attempt, path))
    })
}

/// The instance whose log has this name.
fn attempt(name: &str) -> Option<u32> {
    let (count, rest) = name.split_once(".log")?;
    let is_log = rest.is_empty() || rest.starts_with('.');
    let count = (is_log && count.bytes().all(|byte| byte.is_ascii_digit())).then_some(count)?;
    count.parse().ok()
}

/// Removes a container's log and all that was rotated out of it.
pub(super) fn remove(log: &Path) {
    let rotated = rotated_of(log).unwrap_or_default();
    let all = rotated.into_iter().map(|name| log.with_file_name(name));
    for path in all.chain([log.to_owned()]) {
        unlink(&path);
    }
}

/// Removes a file; what is gone already is no failure.
pub(super) fn unlink(path: &Path) {
    if path.as_os_str().is_empty() {
        return;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            debug!(%error, path = %path.display(), "a log file resists");
        }
        Ok(()) | Err(_) => {}
    }
}

/// What happens to the older logs before another one is rotated.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tidy {
    remove: Vec<String>,
    compress: Vec<String>,
}

impl Tidy {
    /// `names` are those that [`rotated_of`] finds; `files` counts the two that rotating leaves as well.
    fn plan(mut names: Vec<String>, files: usize) -> Self {
        let all: BTreeSet<String> = names.iter().cloned().collect();
        let useless =
            |name: &String| name.ends_with(UNFINISHED) || all.contains(&format!("{name}{COMPRESSED}"));
        let mut remove: Vec<String> = names.extract_if(.., |name| useless(name)).collect();
        names.sort_unstable();
        let excess = names.len().saturating_sub(files.saturating_sub(2));
        remove.extend(names.drain(..excess));
        names.retain(|name| !name.ends_with(COMPRESSED));
        Self {
            remove,
            compress: names,
        }
    }
}

/// Gives back what should have been removed and is still there: it stops no rotation, or the newest log would grow for it.
fn tidy(log: &Path, files: usize) -> Result<Vec<(PathBuf, io::Error)>, RotateError> {
    let names = rotated_of(log).map_err(|source| failed(log, source))?;
    let plan = Tidy::plan(names, files);
    let mut resist = Vec::new();
    for name in plan.remove {
        let path = log.with_file_name(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => resist.push((path, error)),
            Ok(()) | Err(_) => {}
        }
    }
    let newest = plan.compress.last();
    for name in &plan.compress {
        let path = log.with_file_name(name);
        // It stays as it is, and goes in its turn. Of an older one it was said when that was the newest.
        if let Err(error) = compress(&path)
            && Some(name) == newest
        {
            warn!(%error, log = %path.display(), "a rotated log cannot be compressed");
        }
    }
    Ok(resist)
}

/// The names of what was rotated out of a log.
fn rotated_of(log: &Path) -> io::Result<Vec<String>> {
    let Some((dir, name)) = log.parent().zip(log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Ok(found) = entry?.file_name().into_string()
            && found.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
        {
            names.push(found);
        }
    }
    Ok(names)
}

fn compress(path: &Path) -> io::Result<()> {
    let whole = path.with_added_extension("gz");
    let unfinished = whole.with_added_extension("tmp");
    let made = write_compressed(path, &unfinished).and_then(|()| fs::rename(&unfinished, &whole));
    if made.is_err() {
        unlink(&unfinished);
    }
    made?;
    fs::remove_file(path)
}

fn write_compressed(path: &Path, to: &Path) -> io::Result<()> {
    let mut log = File::open(path)?;
    // Whoever may not read the log may not read it compressed.
    let mode = log.metadata()?.permissions().mode();
    let mut new = File::options();
    let new = new.write(true).create(true).truncate(true).mode(mode);
    let mut encoder = GzEncoder::new(new.open(to)?, Compression::default());
    io::copy(&mut log, &mut encoder)?;
    encoder.finish()?.sync_all()
}

fn rename(from: &Path, to: &Path) -> Result<(), RotateError> {
    fs::rename(from, to).map_err(|source| failed(from, source))
}

fn failed(path: &Path, source: io::Error) -> RotateError {
    RotateError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
