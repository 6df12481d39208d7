//! What a pod uses, as its cgroup counts it: the memory it works with, without the cache that can go at once, and its
//! processes.

use std::path::{Path, PathBuf};

use super::super::resources::Qos;
use super::hierarchy::{Hierarchy, Mount};
use super::tree::{Cgroups, number};

impl Cgroups {
    /// Bytes that the pod works with; nothing where it has no cgroup, or the kernel counts none.
    pub fn working_set(&self, qos: Qos, uid: &str) -> Option<u64> {
        let dir = self.counted_at("memory", qos, uid)?;
        match &self.hierarchy {
            Hierarchy::V2(_) => read(&dir, "memory.current", "inactive_file"),
            Hierarchy::V1(_) => read(&dir, "memory.usage_in_bytes", "total_inactive_file"),
        }
    }

    /// The pod's processes and threads; nothing where it has no cgroup, or the kernel counts none.
    pub fn processes(&self, qos: Qos, uid: &str) -> Option<u64> {
        number(&self.counted_at("pids", qos, uid)?.join("pids.current"))
    }

    /// Where a controller counts what a pod uses.
    pub(super) fn counted_at(&self, controller: &str, qos: Qos, uid: &str) -> Option<PathBuf> {
        let mount = match &self.hierarchy {
            Hierarchy::V2(mount) => mount,
            Hierarchy::V1(mounts) => {
                let counts = |mount: &&Mount| mount.controllers.iter().any(|name| name == controller);
                &mounts.iter().find(counts)?.path
            }
        };
        Some(mount.join(self.layout.pod_path(qos, uid)))
    }
}

fn read(dir: &Path, usage: &str, cache: &str) -> Option<u64> {
    let text = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
    let usage: u64 = text(usage)?.trim().parse().ok()?;
    let stat = text("memory.stat").unwrap_or_default();
    Some(usage.saturating_sub(counted(&stat, cache)))
}

fn counted(stat: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    stat.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::volumes::testing::Scratch;

    #[test]
    fn cache_that_can_go_is_not_what_a_pod_works_with() {
        let scratch = Scratch::new("working-set");
        let put = |file: &str, text: &str| std::fs::write(scratch.path().join(file), text).unwrap();
        let seen = || read(scratch.path(), "memory.current", "inactive_file");
        assert_eq!(seen(), None);
        put("memory.current", "5000\n");
        assert_eq!(seen(), Some(5000));
        put(
            "memory.stat",
            "inactive_file_x 1\nactive_file 700\ninactive_file 1200\n",
        );
        assert_eq!(seen(), Some(3800));
        put("memory.stat", "inactive_file 9000\n");
        assert_eq!(seen(), Some(0));
    }
}
