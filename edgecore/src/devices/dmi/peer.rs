//! The groups of whoever is at the other end of a socket.
//!
//! `SO_PEERGROUPS` would say them as they were when the socket was opened; no safe wrapper of it exists. So
//! `/proc` is asked while the connection stands. It may show a later process of that number, if the first one
//! has ended since: that one counts only if it is the same user's.

use std::path::Path;

/// The groups of a process, if it is that user's; none of one that cannot be seen from here.
pub(super) fn groups(root: &Path, pid: Option<i32>, uid: u32) -> Vec<u32> {
    // A process of another PID namespace has no number here.
    let Some(pid) = pid.filter(|pid| *pid > 0) else {
        return Vec::new();
    };
    let status = std::fs::read_to_string(root.join(format!("proc/{pid}/status")));
    groups_in(&status.unwrap_or_default(), uid)
}

fn groups_in(status: &str, uid: u32) -> Vec<u32> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(
            line.split_whitespace()
                .filter_map(|number| number.parse::<u32>().ok()),
        )
    };
    // Real, effective, saved, of files: the second is what the socket knows.
    let effective = field("Uid:").and_then(|mut uids| uids.nth(1));
    if effective != Some(uid) {
        return Vec::new();
    }
    field("Groups:").map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_groups_count_of_a_process_that_is_still_that_user_s() {
        let status =
            "Name:\tmapper\nUid:\t1000\t1001\t1001\t1001\nGid:\t5\t5\t5\t5\nGroups:\t5 998 \nNgid:\t0\n";
        assert_eq!(groups_in(status, 1001), [5, 998]);
        let none = Vec::<u32>::new();
        assert_eq!(groups_in(status, 1000), none, "its number is another's by now");
        assert_eq!(groups_in("", 0), none);
        let own = nix::unistd::Uid::effective().as_raw();
        let pid = i32::try_from(std::process::id()).unwrap();
        let mine: BTreeSet<u32> = nix::unistd::getgroups()
            .unwrap()
            .iter()
            .map(|gid| gid.as_raw())
            .collect();
        let found: BTreeSet<u32> = groups("/".as_ref(), Some(pid), own).into_iter().collect();
        assert_eq!(found, mine);
        assert_eq!(groups("/".as_ref(), None, own), none);
    }
}
