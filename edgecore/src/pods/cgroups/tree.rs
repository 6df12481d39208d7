//! The hand on the cgroup tree: pods' and classes' cgroups, their limits, their end.
//!
//! Under systemd the slices are systemd's: it is asked through `systemctl` and removes them itself when they
//! are empty.
//!
//! **Invariant:** nothing outside the configured root is written or removed, and a cgroup with a process in
//! it is never removed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use super::super::resources::{self, HugePages, PodLimits, Qos};
use super::hierarchy::{Hierarchy, Mount as V1Mount};
use super::layout::{CgroupDriver, CgroupLayout};
use super::limits::{self, Setting};

/// Where controllers are mounted everywhere.
const CGROUP_TOP: &str = "/sys/fs/cgroup";
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Why the cgroup tree could not be brought into shape.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted below {0}; mount one (cgroup2 or the v1 controllers)")]
    NotMounted(PathBuf),
    /// A directory or file of the tree refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// systemd refused.
    #[error("systemctl could not set up {slice}: {told}")]
    Systemd {
        /// The slice.
        slice: String,
        /// Its words.
        told: String,
    },
}

/// The tree below the mounted controllers.
#[derive(Debug)]
pub struct Cgroups {
    layout: CgroupLayout,
    hierarchy: Hierarchy,
}

impl Cgroups {
    /// Finds the mounted controllers of this device.
    pub fn detect(layout: CgroupLayout) -> Result<Self, CgroupError> {
        Self::detect_below(Path::new(CGROUP_TOP), layout)
    }

    fn detect_below(top: &Path, layout: CgroupLayout) -> Result<Self, CgroupError> {
        let found = told("read the mounts of", top, Hierarchy::detect(top))?;
        let hierarchy = found.ok_or_else(|| CgroupError::NotMounted(top.to_owned()))?;
        Ok(Self { layout, hierarchy })
    }

    /// Makes the classes' cgroups.
    pub fn ensure_classes(&self) -> Result<(), CgroupError> {
        for qos in Qos::ALL {
            let shares = if qos == Qos::BestEffort {
                resources::cpu_shares(0)
            } else {
                resources::cpu_shares(1000)
            };
            let limits = PodLimits {
                cpu_shares: shares,
                ..PodLimits::default()
            };
            let path = self.layout.qos_path(qos);
            match qos {
                Qos::Guaranteed => self.make(&path)?,
                Qos::Burstable | Qos::BestEffort => self.ensure(&path, &limits)?,
            }
        }
        Ok(())
    }

    /// Weighs the Burstable class by what all its pods request, in thousandths of a CPU.
    pub fn weigh_burstable(&self, cpu_milli: i64) -> Result<(), CgroupError> {
        let limits = PodLimits {
            cpu_shares: resources::cpu_shares(cpu_milli),
            ..PodLimits::default()
        };
        self.ensure(&self.layout.qos_path(Qos::Burstable), &limits)
    }

    /// Makes the pod's cgroup and sets its limits.
    pub fn ensure_pod(&self, qos: Qos, uid: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        self.ensure(&self.layout.pod_path(qos, uid), limits)
    }

    /// Limits the huge pages of the pod's cgroup, where the kernel can. systemd has no property for them, so
    /// the files are written under both drivers.
    pub fn limit_huge_pages(&self, qos: Qos, uid: &str, pages: &HugePages) -> Result<(), CgroupError> {
        let path = self.layout.pod_path(qos, uid);
        match &self.hierarchy {
            Hierarchy::V2(mount) => write_all(&mount.join(path), limits::huge_pages_v2(pages)),
            Hierarchy::V1(mounts) => {
                let has_pages =
                    |mount: &&V1Mount| mount.controllers.iter().any(|name| name == limits::HUGE_PAGES);
                let mut mounts = mounts.iter().filter(has_pages);
                mounts.try_for_each(|mount| write_all(&mount.path.join(&path), limits::huge_pages_v1(pages)))
            }
        }
    }

    /// Removes the pod's cgroup in whichever class it is, with those the runtime left below it. Fails while a
    /// process is in it.
    pub fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        for path in Qos::ALL.map(|qos| self.layout.pod_path(qos, uid)) {
            for mount in self.hierarchy.mounts() {
                let dir = mount.join(&path);
                told("remove", &dir, remove(&dir))?;
            }
        }
        Ok(())
    }

    /// Pods that have a cgroup: class and UID.
    pub fn pods(&self) -> Vec<(Qos, String)> {
        let mut pods = Vec::new();
        for qos in Qos::ALL {
            let class = self.layout.qos_path(qos);
            for mount in self.hierarchy.mounts() {
                let entries = std::fs::read_dir(mount.join(&class))
                    .into_iter()
                    .flatten()
                    .flatten();
                let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
                pods.extend(names.filter_map(|name| Some((qos, self.layout.pod_uid(qos, &name)?))));
            }
        }
        pods.sort();
        pods.dedup();
        pods
    }

    fn ensure(&self, path: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        self.make(path)?;
        if self.layout.driver() == CgroupDriver::Systemd {
            return systemctl(path, &limits::systemd(limits));
        }
        match &self.hierarchy {
            Hierarchy::V2(mount) => write_all(&mount.join(path), limits::v2(limits)),
            Hierarchy::V1(mounts) => {
                for mount in mounts {
                    let here = |setting: &Setting| mount.controllers.iter().any(|name| name == setting.0);
                    let settings = limits::v1(limits).into_iter().filter(here).collect();
                    write_all(&mount.path.join(path), settings)?;
                }
                Ok(())
            }
        }
    }

    fn make(&self, path: &str) -> Result<(), CgroupError> {
        if self.layout.driver() == CgroupDriver::Systemd {
            return Ok(());
        }
        let has_some = |mount: &&V1Mount| !mount.controllers.is_empty();
        match &self.hierarchy {
            Hierarchy::V2(mount) => make_v2(mount, path),
            Hierarchy::V1(mounts) => mounts.iter().filter(has_some).try_for_each(|mount| {
                let inherits = mount.controllers.iter().any(|name| name == "cpuset");
                make_v1(&mount.path, path, inherits)
            }),
        }
    }
}

/// Makes each step; a new cpuset takes what the one above has, or nothing could run in it.
fn make_v1(mount: &Path, path: &str, inherits: bool) -> Result<(), CgroupError> {
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
fn make_v2(mount: &Path, path: &str) -> Result<(), CgroupError> {
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

fn write_all(dir: &Path, settings: Vec<Setting>) -> Result<(), CgroupError> {
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
fn remove(dir: &Path) -> io::Result<()> {
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

fn systemctl(path: &str, properties: &[String]) -> Result<(), CgroupError> {
    let slice = path.rsplit('/').next().unwrap_or(path).to_owned();
    let run = |arguments: &[&str]| {
        let output = Command::new("systemctl").args(arguments).output();
        match output {
            Ok(done) if done.status.success() => Ok(()),
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    let mut set = vec!["set-property", "--runtime", slice.as_str()];
    set.extend(properties.iter().map(String::as_str));
    let done = run(&["start", slice.as_str()]).and_then(|()| run(&set));
    done.map_err(|told| CgroupError::Systemd { slice, told })
}

fn told<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, CgroupError> {
    result.map_err(|source| CgroupError::Io {
        action,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
