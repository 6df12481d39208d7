//! What this device's kernel can limit: asked once.

use std::path::Path;
use std::sync::LazyLock;

/// There when cgroup v1 counts memory and swap together.
const SWAP_COUNTER: &str = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes";

/// The limit of memory and swap together that keeps a container with that memory limit from swapping; 0 is none.
pub fn swap_limit(memory_limit: i64) -> i64 {
    static COUNTED: LazyLock<bool> = LazyLock::new(|| Path::new(SWAP_COUNTER).exists());
    without_swap(memory_limit, *COUNTED)
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
}
