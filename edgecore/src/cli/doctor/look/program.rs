//! Looks which programs are edgecore here: the one that looks, the one that the service starts, and the one that runs.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::facts::{Program, Programs, Started};

/// How the name of a program ends that was removed or replaced since it was started.
const DELETED: &str = " (deleted)";
/// The name under which edgecore is installed.
const NAME: &str = "edgecore";

/// What systemd says that it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    path: PathBuf,
    root: String,
    is_stale: bool,
}

/// Reads what `systemctl show` prints of `ExecStart` and `NeedDaemonReload`; nothing where there is no such unit:
/// `ExecStart={ path=/x/edgecore ; argv[]=/x/edgecore run ; ignore_errors=no ; … }`.
pub(super) fn unit(shown: &str) -> Option<Unit> {
    let value = |name: &str| {
        let mut lines = shown.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    let (_, line) = value("ExecStart")?.split_once("path=")?;
    let (path, line) = line.split_once(" ; argv[]=")?;
    let words = line.split(" ; ignore_errors=").next().unwrap_or_default();
    let words: Vec<&str> = words.split_whitespace().collect();
    // Something may stand before it: nice, or a shell.
    let is_edgecore = |word: &&&str| Path::new(word).is_absolute() && Path::new(word).ends_with(NAME);
    let path = words.iter().find(is_edgecore).copied().unwrap_or(path);
    Path::new(path).is_absolute().then(|| Unit {
        path: PathBuf::from(path),
        root: root(&words),
        is_stale: value("NeedDaemonReload") == Some("yes"),
    })
}

/// The directory that `--root` names.
fn root(words: &[&str]) -> String {
    let after = |at: usize| words.get(at + 1).copied();
    let named = words.iter().enumerate().find_map(|(at, word)| {
        let rest = word.strip_prefix("--root")?;
        rest.strip_prefix('=')
            .or_else(|| after(at).filter(|_| rest.is_empty()))
    });
    named.unwrap_or("/").to_owned()
}

/// The three of them. May block.
pub(super) fn look(unit: Option<Unit>, daemon: Option<i32>, proc: &Path) -> io::Result<Programs> {
    let mut known = Vec::new();
    let own = running(&proc.join("self/exe"), &mut known)?;
    let service = unit.map(|unit| Started {
        program: Program {
            content: content(&unit.path, &mut known),
            path: unit.path.display().to_string(),
        },
        root: unit.root,
        is_stale: unit.is_stale,
    });
    let daemon = daemon.map(|pid| proc.join(pid.to_string()).join("exe"));
    Ok(Programs {
        own,
        service,
        // It may have ended meanwhile.
        daemon: daemon.and_then(|exe| running(&exe, &mut known).ok()),
    })
}

/// The program of a process. Its link leads to the file even when that has no name any more.
fn running(exe: &Path, known: &mut Vec<PathBuf>) -> io::Result<Program> {
    let path = fs::read_link(exe)?.display().to_string();
    Ok(Program {
        path: path.strip_suffix(DELETED).unwrap_or(&path).to_owned(),
        content: content(exe, known),
    })
}

/// A number for what is in a file: the same for the same. Nothing for a file that is not there.
fn content(file: &Path, known: &mut Vec<PathBuf>) -> Option<usize> {
    fs::metadata(file).ok()?;
    let same = |other: &PathBuf| are_alike(file, other).unwrap_or(false);
    let number = known.iter().position(same);
    Some(number.unwrap_or_else(|| {
        known.push(file.to_owned());
        known.len() - 1
    }))
}

/// Whether two names are of one file, or of files with the same content.
fn are_alike(one: &Path, other: &Path) -> io::Result<bool> {
    let (first, second) = (fs::metadata(one)?, fs::metadata(other)?);
    if (first.dev(), first.ino()) == (second.dev(), second.ino()) {
        return Ok(true);
    }
    if first.len() != second.len() {
        return Ok(false);
    }
    let open = |path: &Path| File::open(path).map(BufReader::new);
    let (mut first, mut second) = (open(one)?.bytes(), open(other)?.bytes());
    loop {
        match (first.next().transpose()?, second.next().transpose()?) {
            (None, None) => return Ok(true),
            (left, right) if left != right => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str, argv: &str, reload: &str) -> String {
        format!(
            "ExecStart={{ path={path} ; argv[]={argv} ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; \
             pid=0 ; code=(null) ; status=0/0 }}\nNeedDaemonReload={reload}\n"
        )
    }

    fn read(path: &str, argv: &str) -> Unit {
        unit(&shown(path, argv, "no")).unwrap()
    }

    #[test]
    fn what_systemd_starts_is_read_from_its_own_words() {
        let (usual, other) = ("/usr/local/bin/edgecore", "/opt/edge core/100%/edgecore");
        let found = read(usual, "/usr/local/bin/edgecore run");
        let expected = Unit {
            path: PathBuf::from(usual),
            root: "/".to_owned(),
            is_stale: false,
        };
        assert_eq!(found, expected);
        assert_eq!(
            read(other, "/opt/edge core/100%/edgecore run").path,
            Path::new(other)
        );
        let behind = read("/usr/bin/nice", "/usr/bin/nice -n 5 /usr/local/bin/edgecore run");
        assert_eq!(behind.path, Path::new(usual));
        let renamed = read("/opt/node-agent", "/opt/node-agent run");
        assert_eq!(renamed.path, Path::new("/opt/node-agent"));
        assert!(unit(&shown(usual, usual, "yes")).unwrap().is_stale);
        assert_eq!(unit("NeedDaemonReload=no\n"), None, "there is no such unit");
    }

    #[test]
    fn the_directory_of_the_service_is_read_however_it_is_written() {
        let root = |argv: &str| read("/x/edgecore", argv).root;
        assert_eq!(root("/x/edgecore --root /data run"), "/data");
        assert_eq!(root("/x/edgecore --root=/data run"), "/data");
        assert_eq!(root("/x/edgecore run"), "/");
    }

    #[test]
    fn programs_are_told_apart_by_what_is_in_them() {
        let dir = std::env::temp_dir().join(format!("tombolo-program-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for process in ["self", "7"] {
            fs::create_dir_all(dir.join(process)).unwrap();
        }
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (own, copy, other) = (file("own", "one"), file("copy", "one"), file("other", "two"));
        std::os::unix::fs::symlink(&own, dir.join("self/exe")).unwrap();
        std::os::unix::fs::symlink(&other, dir.join("7/exe")).unwrap();
        let unit = |path: &Path| Unit {
            path: path.to_owned(),
            root: "/".to_owned(),
            is_stale: false,
        };
        let found = look(Some(unit(&copy)), Some(7), &dir).unwrap();
        let service = found.service.unwrap().program;
        assert_eq!(service.content, found.own.content);
        assert_ne!(found.daemon.unwrap().content, found.own.content);
        let gone = look(Some(unit(&dir.join("gone"))), Some(8), &dir).unwrap();
        assert_eq!(gone.service.unwrap().program.content, None);
        assert_eq!(gone.daemon, None);
        fs::remove_dir_all(dir).unwrap();
    }
}
