//! The hand on the cgroup tree: pods' and classes' cgroups, their limits, their end.
//!
//! Under systemd the slices are systemd's: it makes and stops them, and is told their limits. The same limits are written
//! into the files besides, as the kubelet does: systemd takes its time, and does not know every file.
//!
//! **Invariant:** nothing outside the configured root is written or removed, and a cgroup with a process in
//! it is never removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::resources::{self, HugePages, PodLimits, Qos};
use super::error::CgroupError;
use super::files::{make_v1, make_v2, occupied, remove, told, write_all};
use super::hierarchy::{Hierarchy, Mount as V1Mount};
use super::layout::{CgroupDriver, CgroupLayout, ancestry};
use super::limits::{self, Setting};
use super::systemd::{Systemd, SystemdError};

/// Where controllers are mounted everywhere.
pub(crate) const CGROUP_TOP: &str = "/sys/fs/cgroup";

/// The tree below the mounted controllers.
#[derive(Debug)]
pub struct Cgroups {
    pub(super) layout: CgroupLayout,
    pub(super) hierarchy: Hierarchy,
    systemd: Systemd,
}

impl Cgroups {
    /// Finds the mounted controllers of this device.
    pub fn detect(layout: CgroupLayout) -> Result<Self, CgroupError> {
        Self::detect_below(Path::new(CGROUP_TOP), layout)
    }

    fn detect_below(top: &Path, layout: CgroupLayout) -> Result<Self, CgroupError> {
        let found = told("read the mounts of", top, Hierarchy::detect(top))?;
        let hierarchy = found.ok_or_else(|| CgroupError::NotMounted(top.to_owned()))?;
        Ok(Self {
            layout,
            hierarchy,
            systemd: Systemd::default(),
        })
    }

    /// Does `work` where it may block: systemd takes its time.
    pub async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, CgroupError> + Send + 'static,
    ) -> Result<T, CgroupError> {
        let cgroups = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&cgroups)).await;
        done.unwrap_or(Err(CgroupError::BrokenOff))
    }

    /// Makes the classes' cgroups. All pods together, which is where Guaranteed ones stand, get `all`.
    pub fn ensure_classes(&self, all: &PodLimits) -> Result<(), CgroupError> {
        let weighed = |milli| PodLimits {
            cpu_shares: resources::cpu_shares(milli),
            ..PodLimits::default()
        };
        let made = Qos::ALL.map(|qos| {
            let limits = match qos {
                Qos::Guaranteed => *all,
                Qos::Burstable => weighed(1000),
                Qos::BestEffort => weighed(0),
            };
            self.ensure(&self.layout.qos_path(qos), &limits)
        });
        // Each was tried: a limit that is refused for one must not leave the others out.
        made.into_iter().collect()
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

    /// Limits the huge pages of the pod's cgroup, where the kernel can. systemd has no property for them.
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

    /// How many bytes of memory the pod uses, or that of its containers whose cgroup the runtime named after this
    /// id. Nothing where the kernel does not count.
    pub fn memory_used(&self, qos: Qos, uid: &str, container: Option<&str>) -> Option<u64> {
        let dir = self.counted_at("memory", qos, uid)?;
        let file = match &self.hierarchy {
            Hierarchy::V2(_) => "memory.current",
            Hierarchy::V1(_) => "memory.usage_in_bytes",
        };
        let Some(id) = container else {
            return number(&dir.join(file));
        };
        let entries = std::fs::read_dir(dir).ok()?.flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().contains(id));
        named.filter_map(|entry| number(&entry.path().join(file))).max()
    }

    /// Removes the pod's cgroup in whichever class it is, with those the runtime left below it. Fails while a
    /// process is in it.
    pub fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        let mut paths = Qos::ALL.iter().map(|qos| self.layout.pod_path(*qos, uid));
        paths.try_for_each(|path| self.remove(&path))
    }

    /// Removes the cgroups of all pods and of the classes, for a device that is a node no more. Fails while a process
    /// is in one.
    pub fn remove_all(&self) -> Result<(), CgroupError> {
        for (_, uid) in self.pods() {
            self.remove_pod(&uid)?;
        }
        // The first of them is the one that the others are in.
        let mut classes = Qos::ALL.iter().rev().map(|qos| self.layout.qos_path(*qos));
        classes.try_for_each(|path| self.remove(&path))
    }

    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let dirs = self.hierarchy.mounts().into_iter().map(|mount| mount.join(path));
        let dirs: Vec<PathBuf> = dirs.filter(|dir| dir.exists()).collect();
        if self.layout.driver() == CgroupDriver::Systemd && !dirs.is_empty() {
            self.stop(path, &dirs)?;
        }
        let mut dirs = dirs.iter();
        dirs.try_for_each(|dir| told("remove", dir, remove(dir)))
    }

    /// systemd would stop a slice together with all that runs in it.
    fn stop(&self, path: &str, dirs: &[PathBuf]) -> Result<(), CgroupError> {
        for dir in dirs {
            if told("look into", dir, occupied(dir))? {
                return Err(CgroupError::InUse(dir.clone()));
            }
        }
        let (_, slice) = ancestry(path);
        asked("stop", slice, self.systemd.stop(slice))
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
        let mut limits = *limits;
        if self.layout.driver() == CgroupDriver::Systemd {
            let (above, slice) = ancestry(path);
            asked("make", slice, self.systemd.start_slice(slice, above))?;
            limits = limits::as_systemd_counts(limits);
            let properties = match &self.hierarchy {
                Hierarchy::V2(_) => limits::systemd_v2(&limits),
                Hierarchy::V1(_) => limits::systemd_v1(&limits),
            };
            asked("limit", slice, self.systemd.set(slice, &properties))?;
        }
        self.make(path)?;
        match &self.hierarchy {
            Hierarchy::V2(mount) => write_all(&mount.join(path), limits::v2(&limits)),
            Hierarchy::V1(mounts) => {
                for mount in mounts {
                    let here = |setting: &Setting| mount.controllers.iter().any(|name| name == setting.0);
                    let settings = limits::v1(&limits).into_iter().filter(here).collect();
                    write_all(&mount.path.join(path), settings)?;
                }
                Ok(())
            }
        }
    }

    /// The directories, in every controller; systemd makes those that it knows itself.
    fn make(&self, path: &str) -> Result<(), CgroupError> {
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

pub(super) fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn asked(action: &'static str, slice: &str, result: Result<(), SystemdError>) -> Result<(), CgroupError> {
    result.map_err(|source| CgroupError::Systemd {
        action,
        slice: slice.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
