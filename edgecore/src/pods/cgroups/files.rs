//! Directories and files of the cgroup tree: making, writing, removing.

use std::io;
use std::path::Path;

use super::error::CgroupError;
use super::limits::Setting;

const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Makes each step; a new cpuset takes what the one above has, or nothing could run in it.
pub(super) fn make_v1(mount: &Path, path: &str, inherits: bool) -> Result<(), CgroupError> {
    let mut above = mount.to_owned();
    for step in path.split('/') {
        let here = above.join(step);
        make_dir(&here)?;
        if inherits {
            for file in CPUSET_FILES {
                told(
                    "copy the cpuset of",
                    &here,
                    inherit(&above.join(file), &here.join(file)),
                )?;
            }
        }
        above = here;
    }
    Ok(())
}

fn inherit(above: &Path, here: &Path) -> io::Result<()> {
    if std::fs::read_to_string(here).is_ok_and(|set| !set.trim().is_empty()) {
        return Ok(());
    }
    std::fs::write(here, std::fs::read_to_string(above)?.trim())
}

/// Makes each step and hands the controllers down to it.
pub(super) fn make_v2(mount: &Path, path: &str) -> Result<(), CgroupError> {
    let mut above = mount.to_owned();
    for step in path.split('/') {
        hand_down(&above)?;
        above = above.join(step);
        make_dir(&above)?;
    }
    hand_down(&above)
}

fn hand_down(dir: &Path) -> Result<(), CgroupError> {
    let words = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (available, enabled) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let has = |words: &str, name: &str| words.split_whitespace().any(|word| word == name);
    for name in V2_CONTROLLERS
        .into_iter()
        .filter(|name| has(&available, name) && !has(&enabled, name))
    {
        let path = dir.join("cgroup.subtree_control");
        told(
            "enable controllers in",
            &path,
            std::fs::write(&path, format!("+{name}")),
        )?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => told("make", dir, Err(error)),
        _ => Ok(()),
    }
}

pub(super) fn write_all(dir: &Path, settings: Vec<Setting>) -> Result<(), CgroupError> {
    for (_, file, value) in settings {
        let path = dir.join(file.as_ref());
        match std::fs::write(&path, value) {
            // A kernel without bandwidth control or memory limits has no such file.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) => {}
            result => told("write", &path, result)?,
        }
    }
    Ok(())
}

/// Removes a cgroup from the leaves up. The kernel refuses while a process is in one.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a process is in this cgroup or in one below it.
pub(super) fn occupied(dir: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let processes = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    if !processes.trim().is_empty() {
        return Ok(true);
    }
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() && occupied(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn told<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, CgroupError> {
    result.map_err(|source| CgroupError::Io {
        action,
        path: path.to_owned(),
        source,
    })
}
