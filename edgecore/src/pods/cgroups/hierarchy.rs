//! Where the cgroup controllers are mounted on this device.

use std::io;
use std::path::{Path, PathBuf};

/// What runc and the kubelet need of v1; a missing one is not an error.
const V1_CONTROLLERS: [&str; 11] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "pids",
    "devices",
    "freezer",
    "blkio",
    "hugetlb",
    "perf_event",
    "systemd",
];

/// The mounted controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hierarchy {
    /// One mount a controller (or a few that share one), and perhaps a v2 tree without any beside them: the
    /// agent has no use for that, but runc makes the pods' cgroups there too.
    V1(Vec<Mount>),
    /// One mount for all.
    V2(PathBuf),
}

/// One v1 mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) path: PathBuf,
    pub(super) controllers: Vec<String>,
}

impl Hierarchy {
    /// Reads `/proc/self/mountinfo`; `None` when no controller is mounted below `top`.
    pub(super) fn detect(top: &Path) -> io::Result<Option<Self>> {
        Ok(Self::of_table(&std::fs::read("/proc/self/mountinfo")?, top))
    }

    /// Any name in the table may be other than UTF-8: somebody's USB stick must not hide the controllers.
    fn of_table(table: &[u8], top: &Path) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(table), top)
    }

    fn parse(table: &str, top: &Path) -> Option<Self> {
        let mut v1: Vec<Mount> = Vec::new();
        let (mut unified, mut beside) = (None, None);
        for line in table.lines() {
            let Some((path, kind, options)) = mount(line).filter(|(path, ..)| path.starts_with(top)) else {
                continue;
            };
            match kind {
                "cgroup2" if path == top => unified = Some(path),
                "cgroup2" => beside = Some(path),
                "cgroup" => {
                    let controllers = controllers(options);
                    if !controllers.is_empty() && !v1.iter().any(|mount| mount.path == path) {
                        v1.push(Mount { path, controllers });
                    }
                }
                _ => {}
            }
        }
        if let Some(path) = unified {
            return Some(Self::V2(path));
        }
        if v1.is_empty() {
            return None;
        }
        v1.extend(beside.map(|path| Mount {
            path,
            controllers: Vec::new(),
        }));
        Some(Self::V1(v1))
    }

    /// Every mount point.
    pub(super) fn mounts(&self) -> Vec<&Path> {
        match self {
            Self::V1(mounts) => mounts.iter().map(|mount| mount.path.as_path()).collect(),
            Self::V2(path) => vec![path],
        }
    }
}

/// The controllers that are there for pods below `top`; none when none is mounted.
pub(crate) fn controllers_below(top: &Path) -> io::Result<Vec<String>> {
    match Hierarchy::detect(top)? {
        None => Ok(Vec::new()),
        Some(Hierarchy::V1(mounts)) => Ok(mounts.into_iter().flat_map(|mount| mount.controllers).collect()),
        Some(Hierarchy::V2(top)) => {
            let names = std::fs::read_to_string(top.join("cgroup.controllers"))?;
            Ok(names.split_whitespace().map(str::to_owned).collect())
        }
    }
}

/// Mount point, file system and its own options of one line.
fn mount(line: &str) -> Option<(PathBuf, &str, &str)> {
    let (head, tail) = line.split_once(" - ")?;
    let mut tail = tail.split(' ');
    Some((PathBuf::from(head.split(' ').nth(4)?), tail.next()?, tail.nth(1)?))
}

fn controllers(options: &str) -> Vec<String> {
    let named = options
        .split(',')
        .map(|option| option.strip_prefix("name=").unwrap_or(option));
    named
        .filter(|option| V1_CONTROLLERS.contains(option))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_mounts_are_found_with_their_controllers_and_the_v2_tree_beside_them() {
        let table = "30 1 0:2 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:3 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 30 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            34 1 0:6 / /elsewhere rw - cgroup cgroup rw,memory\n";
        let mount = |path: &str, controllers: &[&str]| Mount {
            path: PathBuf::from(path),
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let expected = vec![
            mount("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
            mount("/sys/fs/cgroup/systemd", &["systemd"]),
            mount("/sys/fs/cgroup/unified", &[]),
        ];
        assert_eq!(
            Hierarchy::parse(table, Path::new("/sys/fs/cgroup")),
            Some(Hierarchy::V1(expected))
        );
    }

    #[test]
    fn a_mount_whose_name_is_no_utf8_hides_no_other() {
        let table = b"29 1 8:1 / /media/M\xfcller rw - vfat /dev/sda1 rw\n\
            30 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let top = Path::new("/sys/fs/cgroup");
        assert_eq!(
            Hierarchy::of_table(table, top),
            Some(Hierarchy::V2(top.to_owned()))
        );
    }

    #[test]
    fn one_mount_for_all_is_v2_and_none_is_none() {
        let top = Path::new("/sys/fs/cgroup");
        let unified = "30 1 0:2 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            Hierarchy::parse(unified, top),
            Some(Hierarchy::V2(top.to_owned()))
        );
        assert_eq!(Hierarchy::parse("1 0 0:1 / / rw - ext4 /dev/sda rw\n", top), None);
    }
}
