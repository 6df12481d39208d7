//! Termination messages: the last words of a container that ended.
//!
//! A message is read from the file that was mounted for it, else, with policy `FallbackToLogsOnError` after a
//! failure, from the end of the log. **Invariant:** never more than the last 4096 bytes of a file, 80 lines or 2048
//! bytes of a log, and a container's share of 12 KiB a pod; no link is followed and no pipe is waited for.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use k8s_cri::v1::ContainerStatus;
use tracing::warn;

use super::spec::NodeFacts;
use super::volumes::file;

/// The annotation that names the path inside the container.
pub const PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
/// The annotation that names the policy.
pub const POLICY_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePolicy";

const FILE_LIMIT: usize = 4096;
const POD_LIMIT: usize = 12 * 1024;
const LOG_LINES: usize = 80;
const LOG_LIMIT: usize = 2048;
/// CRI adds a time stamp and tags to each line.
const LOG_TAIL: u64 = 32 * 1024;

/// Where the message of a container's `attempt`th run is written on the device.
pub fn path(facts: &NodeFacts, uid: &str, container: &str, attempt: u32) -> PathBuf {
    facts.container_dir(uid, container).join(attempt.to_string())
}

/// Removes the files of those attempts of a container that are `over`.
pub(super) fn remove(dir: &Path, over: impl Fn(u32) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let attempt = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if attempt.is_some_and(&over)
            && let Err(error) = fs::remove_file(entry.path())
        {
            warn!(%error, path = %entry.path().display(), "a file of last words resists");
        }
    }
}

/// The message of a run that ended, as its runtime status tells of it. Empty when it left none.
pub fn message(status: &ContainerStatus) -> String {
    let inside = status
        .annotations
        .get(PATH_ANNOTATION)
        .map(String::as_str)
        .unwrap_or_default();
    let mount = status
        .mounts
        .iter()
        .find(|mount| !inside.is_empty() && from_root(&mount.container_path) == from_root(inside));
    let written = mount
        .map(|mount| from_file(Path::new(&mount.host_path)))
        .unwrap_or_default();
    let policy = status.annotations.get(POLICY_ANNOTATION).map(String::as_str);
    if written.is_empty() && policy == Some("FallbackToLogsOnError") && status.exit_code != 0 {
        return from_log(Path::new(&status.log_path));
    }
    written
}

/// A path that does not say so counts from the root too: the mount's does.
fn from_root(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// Cuts the message of one of so many containers to its share of the pod's limit, the runtime's words included.
pub fn fit(message: &mut String, containers: usize) {
    let share = POD_LIMIT / containers.max(1);
    message.truncate(message.floor_char_boundary(share));
}

fn from_file(path: &Path) -> String {
    match file::read_end(path, FILE_LIMIT) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => format!("Error on reading termination log {}: {error}", path.display()),
    }
}

fn from_log(path: &Path) -> String {
    match tail(path) {
        Ok((bytes, cut)) => last_words(&String::from_utf8_lossy(&bytes), cut),
        Err(error) => format!("Error on reading termination message from logs: {error}"),
    }
}

/// The end of the log, and whether that began before it.
fn tail(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let mut log = File::open(path)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    log.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok((bytes, length > LOG_TAIL))
}

/// The end of what the container wrote, without the CRI log's own words.
fn last_words(log: &str, cut: bool) -> String {
    // A line that began before the tail has no header here, and may be all there is.
    let (first, rest) = match log.split_once('\n') {
        Some(parts) if cut => parts,
        None if cut => (log, ""),
        _ => ("", log),
    };
    let begun = Some(format!("{first}\n")).filter(|_| cut);
    let lines: Vec<_> = begun
        .into_iter()
        .chain(rest.lines().filter_map(content))
        .collect();
    let text: String = lines[lines.len().saturating_sub(LOG_LINES)..].concat();
    let from = text.len().saturating_sub(LOG_LIMIT);
    let start = (from..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    text[start..].to_owned()
}

/// `<time> <stream> <F|P> <text>`: a full line ends, a part goes on.
fn content(line: &str) -> Option<String> {
    let mut words = line.splitn(4, ' ');
    let stream = words.nth(1)?;
    let (tag, text) = (words.next()?, words.next().unwrap_or_default());
    let end = if tag == "P" { "" } else { "\n" };
    matches!(stream, "stdout" | "stderr").then(|| format!("{text}{end}"))
}

#[cfg(test)]
mod tests {
    use k8s_cri::v1::Mount;

    use super::super::volumes::testing::Scratch;
    use super::*;

    fn status(host_path: &Path, log: &Path, policy: &str, exit_code: i32) -> ContainerStatus {
        let annotations = [
            (PATH_ANNOTATION, "/dev/termination-log"),
            (POLICY_ANNOTATION, policy),
        ];
        ContainerStatus {
            annotations: annotations
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            mounts: vec![Mount {
                container_path: "/dev/termination-log".to_owned(),
                host_path: host_path.display().to_string(),
                ..Mount::default()
            }],
            log_path: log.display().to_string(),
            exit_code,
            ..ContainerStatus::default()
        }
    }

    #[test]
    fn a_message_is_the_last_4096_bytes_of_its_file() {
        let scratch = Scratch::new("termination");
        let (file, log) = (scratch.path().join("0"), scratch.path().join("log"));
        std::fs::write(&file, format!("{}why", "x".repeat(1 << 20))).unwrap();
        let told = message(&status(&file, &log, "File", 1));
        assert!(told.len() == 4096 && told.ends_with("xwhy"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(message(&status(&file, &log, "File", 1)), "");
        assert_eq!(
            message(&status(&scratch.path().join("none"), &log, "File", 1)),
            ""
        );
    }

    #[test]
    fn the_path_of_a_message_counts_from_the_root_also_where_it_does_not_say_so() {
        let scratch = Scratch::new("termination-relative");
        let (file, log) = (scratch.path().join("0"), scratch.path().join("log"));
        std::fs::write(&file, "why").unwrap();
        for inside in ["dev/termination-log", "/dev/termination-log"] {
            let mut ended = status(&file, &log, "File", 1);
            ended
                .annotations
                .insert(PATH_ANNOTATION.to_owned(), inside.to_owned());
            assert_eq!(message(&ended), "why", "{inside}");
        }
    }

    #[test]
    fn a_failure_without_words_is_told_by_the_end_of_its_log() {
        let scratch = Scratch::new("termination-log");
        let (file, log) = (scratch.path().join("0"), scratch.path().join("log"));
        std::fs::write(&file, "").unwrap();
        let line = |n: usize| format!("2026-01-01T00:00:00.0Z stderr F line {n}\n");
        let part = "2026-01-01T00:00:00.0Z stdout P half \n2026-01-01T00:00:00.0Z stdout F done\n";
        std::fs::write(&log, (0..100).map(line).collect::<String>() + part).unwrap();
        let told = message(&status(&file, &log, "FallbackToLogsOnError", 1));
        assert!(
            told.starts_with("line 22\n") && told.ends_with("line 99\nhalf done\n"),
            "{told}"
        );
        assert_eq!(message(&status(&file, &log, "FallbackToLogsOnError", 0)), "");
        std::fs::write(&file, "own words").unwrap();
        assert_eq!(
            message(&status(&file, &log, "FallbackToLogsOnError", 1)),
            "own words"
        );
    }

    #[test]
    fn a_log_without_line_ends_is_bounded() {
        let scratch = Scratch::new("termination-long");
        let log = scratch.path().join("log");
        std::fs::write(
            &log,
            format!("2026-01-01T00:00:00.0Z stdout F {}\n", "y".repeat(20_000)),
        )
        .unwrap();
        assert!(
            message(&status(
                &scratch.path().join("0"),
                &log,
                "FallbackToLogsOnError",
                1
            ))
            .len()
                <= LOG_LIMIT
        );
    }

    #[test]
    fn a_line_longer_than_what_is_read_of_a_log_still_tells_its_end() {
        let scratch = Scratch::new("termination-endless");
        let log = scratch.path().join("log");
        let line = format!("2026-01-01T00:00:00.0Z stdout F {}the end", "y".repeat(100_000));
        for end in ["", "\n"] {
            std::fs::write(&log, format!("{line}{end}")).unwrap();
            let file = scratch.path().join("0");
            let told = message(&status(&file, &log, "FallbackToLogsOnError", 1));
            assert_eq!(
                (told.len(), told.trim_end().ends_with("the end")),
                (LOG_LIMIT, true)
            );
        }
    }

    #[test]
    fn a_message_is_cut_at_the_end_of_a_character() {
        for (containers, length) in [(0, 4000), (3, 4000), (7, 1754), (8, 1536)] {
            let mut text = "é".repeat(2000);
            fit(&mut text, containers);
            assert_eq!(text.len(), length, "{containers}");
        }
    }
}
