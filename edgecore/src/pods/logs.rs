//! Container logs that grow long are rotated, with the kubelet's names and defaults.
//!
//! ```text
//!  web/0.log                        the runtime writes here
//!  web/0.log.20261125-224300        rotated last, still as it was
//!  web/0.log.20261125-213000.gz     older ones, compressed
//! ```
//!
//! [`Tidy`] decides what goes; [`keep_short`] looks, renames, and tells the runtime to open its log anew.
//!
//! **Invariant:** no line is lost to a failure: where the runtime does not open a new log, the old one gets its
//! name back, and a compressed log has its name only when it is whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
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
    loop {
        look.tick().await;
        // What cannot be listed now is looked at the next time.
        let Ok(containers) = rotation.runtime.list_containers(Labels::new()).await else {
            continue;
        };
        for container in containers {
            let Some(log) = rotation.log_of(&container) else {
                continue;
            };
            match rotation.shorten(&container.id, &log).await {
                Ok(()) => drop(failing.remove(&container.id)),
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

    async fn shorten(&self, id: &str, log: &Path) -> Result<(), RotateError> {
        let exceeds = fs::metadata(log).is_ok_and(|found| found.len() > self.limits.size);
        if !exceeds {
            return Ok(());
        }
        let (of, files) = (log.to_owned(), self.limits.files);
        spawn_blocking(move || tidy(&of, files))
            .await
            .map_err(|_| RotateError::Stopping)??;
        let rotated = self.rotated_name(log);
        rename(log, &rotated)?;
        if let Err(error) = self.runtime.reopen_log(id).await {
            rename(&rotated, log)?;
            return Err(RotateError::Reopen(error));
        }
        Ok(())
    }

    fn rotated_name(&self, log: &Path) -> PathBuf {
        let now = jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default();
        let mut name = log.as_os_str().to_owned();
        name.push(now.strftime(".%Y%m%d-%H%M%S").to_string());
        name.into()
    }
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

fn tidy(log: &Path, files: usize) -> Result<(), RotateError> {
    let names = rotated_of(log).map_err(|source| failed(log, source))?;
    let plan = Tidy::plan(names, files);
    for name in plan.remove {
        let path = log.with_file_name(name);
        fs::remove_file(&path).map_err(|source| failed(&path, source))?;
    }
    for name in plan.compress {
        let path = log.with_file_name(name);
        compress(&path).map_err(|source| failed(&path, source))?;
    }
    Ok(())
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
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&unfinished, &whole)?;
    fs::remove_file(path)
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
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::pods::volumes::testing::Scratch;
    use crate::runtime::fake::FakeRuntime;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_oldest_go_the_rest_are_compressed_and_leftovers_are_removed() {
        let there = [
            "0.log.20260103-000000",
            "0.log.20260101-000000.gz",
            "0.log.20260102-000000.gz",
            "0.log.20260102-000000",
            "0.log.20260103-000000.gz.tmp",
            "0.log.20251231-000000.gz",
        ];
        let plan = Tidy::plan(names(&there), 5);
        let removed = [
            "0.log.20260102-000000",
            "0.log.20260103-000000.gz.tmp",
            "0.log.20251231-000000.gz",
        ];
        assert_eq!(plan.remove, removed);
        assert_eq!(plan.compress, ["0.log.20260103-000000"]);
    }

    struct Place {
        dir: Scratch,
        rotation: Rotation,
        runtime: Arc<FakeRuntime>,
    }

    impl Place {
        fn new() -> Self {
            let dir = Scratch::new("logs");
            let runtime = Arc::new(FakeRuntime::default());
            let rotation = Rotation {
                runtime: runtime.clone(),
                log_dir: dir.path().to_owned(),
                limits: Limits { size: 10, files: 3 },
                clock: Clock::system(),
            };
            Self {
                dir,
                rotation,
                runtime,
            }
        }

        fn log(&self, content: &str) -> PathBuf {
            let log = self.dir.path().join("0.log");
            fs::write(&log, content).unwrap();
            log
        }

        fn files(&self) -> Vec<String> {
            let files = fs::read_dir(self.dir.path()).unwrap();
            let mut files: Vec<_> = files
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort_unstable();
            files
        }
    }

    #[tokio::test]
    async fn a_short_log_is_left_alone() {
        let place = Place::new();
        let log = place.log("short");
        place.rotation.shorten("c1", &log).await.unwrap();
        assert_eq!(place.files(), ["0.log"]);
        assert_eq!(place.runtime.count("ReopenContainerLog"), 0);
    }

    #[tokio::test]
    async fn a_long_log_is_renamed_and_the_one_before_it_is_compressed() {
        let place = Place::new();
        fs::write(place.dir.path().join("0.log.20260101-000000"), "before").unwrap();
        let log = place.log("longer than ten bytes");
        place.rotation.shorten("c1", &log).await.unwrap();
        assert_eq!(place.runtime.count("ReopenContainerLog"), 1);
        let files = place.files();
        assert_eq!(files.len(), 2, "{files:?}");
        let compressed = File::open(place.dir.path().join("0.log.20260101-000000.gz")).unwrap();
        let mut content = String::new();
        flate2::read::GzDecoder::new(compressed)
            .read_to_string(&mut content)
            .unwrap();
        assert_eq!(content, "before");
        let rotated = files.iter().find(|name| !name.ends_with(COMPRESSED)).unwrap();
        let rotated = fs::read_to_string(place.dir.path().join(rotated)).unwrap();
        assert_eq!(rotated, "longer than ten bytes");
    }

    #[tokio::test]
    async fn a_log_that_the_runtime_goes_on_writing_keeps_its_name() {
        let place = Place::new();
        let log = place.log("longer than ten bytes");
        place.runtime.fail_next("ReopenContainerLog", "no");
        place.rotation.shorten("c1", &log).await.unwrap_err();
        assert_eq!(place.files(), ["0.log"]);
    }

    #[test]
    fn what_was_rotated_goes_with_the_log() {
        let place = Place::new();
        let log = place.log("");
        for name in [
            "0.log.20260101-000000",
            "0.log.20260101-000000.gz",
            "00.log",
            "1.log",
        ] {
            fs::write(place.dir.path().join(name), "").unwrap();
        }
        remove(&log);
        assert_eq!(place.files(), ["00.log", "1.log"]);
    }
}
