//! What this device's kernel can limit: asked once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

const CGROUPS: &str = "/sys/fs/cgroup";
/// There when cgroup v1 counts memory and swap together.
const SWAP_COUNTER: &str = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes";
/// Of each cgroup of v2 but the first, when swap is counted.
const SWAP_LIMIT: &str = "memory.swap.max";
/// Whether the kernel ends all processes of a cgroup when it ends one for want of memory.
const OOM_GROUP: &str = "memory.oom.group";

/// The limit of memory and swap together that keeps a container with that memory limit from swapping; 0 is none.
pub fn swap_limit(memory_limit: i64) -> i64 {
    static COUNTED: LazyLock<bool> = LazyLock::new(|| Path::new(SWAP_COUNTER).exists());
    without_swap(memory_limit, *COUNTED)
}

/// The files of cgroup v2 that every container gets beside those that CRI has fields for; none under v1.
pub fn unified() -> HashMap<String, String> {
    static FILES: LazyLock<HashMap<String, String>> = LazyLock::new(|| files(unified_tree(), swap_counted()));
    FILES.clone()
}

fn unified_tree() -> bool {
    statfs(CGROUPS).is_ok_and(|mount| mount.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn swap_counted() -> bool {
    let table = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own_cgroup(&table).is_some_and(|path| Path::new(CGROUPS).join(path).join(SWAP_LIMIT).exists())
}

/// Where this process is in the tree of v2, without a leading slash.
fn own_cgroup(table: &str) -> Option<&str> {
    table.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// A container that runs out of memory ends as a whole, and it does not swap: the kubelet's defaults.
fn files(unified_tree: bool, swap_counted: bool) -> HashMap<String, String> {
    let files = [
        (OOM_GROUP, "1", unified_tree),
        (SWAP_LIMIT, "0", unified_tree && swap_counted),
    ];
    let wanted = files.into_iter().filter(|(.., wanted)| *wanted);
    wanted
        .map(|(file, value, _)| (file.to_owned(), value.to_owned()))
        .collect()
}

const fn without_swap(memory_limit: i64, counted: bool) -> i64 {
    if counted { memory_limit } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_no_swap_beyond_its_memory_where_swap_is_counted() {
        assert_eq!(without_swap(1 << 20, true), 1 << 20);
        assert_eq!(without_swap(1 << 20, false), 0);
        assert_eq!(without_swap(0, true), 0, "no limit, no limit");
    }

    #[test]
    fn under_v2_a_container_ends_as_a_whole_and_does_not_swap() {
        let said = |unified_tree, counted| {
            let mut said: Vec<_> = files(unified_tree, counted).into_iter().collect();
            said.sort();
            said.into_iter()
                .map(|(file, value)| format!("{file}={value}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(said(true, true), ["memory.oom.group=1", "memory.swap.max=0"]);
        assert_eq!(said(true, false), ["memory.oom.group=1"]);
        assert!(said(false, true).is_empty(), "v1 has no such files");
    }

    #[test]
    fn a_process_finds_its_place_in_the_tree() {
        assert_eq!(
            own_cgroup("0::/system.slice/a.service\n"),
            Some("system.slice/a.service")
        );
        assert_eq!(own_cgroup("4:memory:/a\n1:name=systemd:/b\n0::/\n"), Some(""));
        assert_eq!(own_cgroup("4:memory:/a\n"), None);
    }
}
