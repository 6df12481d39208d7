//! Users and groups, as `/etc/passwd` and `/etc/group` have them.
//!
//! Not by the C library's look-up: edgecore is a static program, and the library would load the system's name
//! services into it, which ends it.

use std::fs;
use std::path::Path;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) gid: u32,
    /// Users who are of it besides those whose own group it is.
    pub(super) members: Vec<String>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) gid: u32,
}

/// The group of that name.
pub(super) fn group(name: &str) -> Option<Group> {
    group_in(&read(GROUP), name)
}

/// Whether there is a group of that name.
pub(crate) fn has_group(name: &str) -> bool {
    group(name).is_some()
}

/// The user of that number.
pub(super) fn user(uid: u32) -> Option<User> {
    user_in(&read(PASSWD), uid)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn group_in(text: &str, name: &str) -> Option<Group> {
    text.lines().find_map(|line| {
        let [found, _, gid, members] = line.split(':').collect::<Vec<_>>()[..] else {
            return None;
        };
        let members = members.split(',').filter(|member| !member.is_empty());
        (found == name).then_some(Group {
            gid: gid.parse().ok()?,
            members: members.map(str::to_owned).collect(),
        })
    })
}

fn user_in(text: &str, uid: u32) -> Option<User> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, found, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (found.parse() == Ok(uid)).then_some(User {
            name: name.to_owned(),
            gid: gid.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_users_are_found_by_name_and_number() {
        let groups = "root:x:0:\n# odd\ntombolo-mapper:x:998:modbus,opcua\n";
        let found = group_in(groups, "tombolo-mapper").unwrap();
        assert_eq!(
            (found.gid, found.members),
            (998, vec!["modbus".into(), "opcua".into()])
        );
        assert_eq!(group_in(groups, "root").unwrap().members, Vec::<String>::new());
        assert_eq!(group_in(groups, "tombolo"), None);
        let users = "root:x:0:0:root:/root:/bin/sh\nmodbus:x:997:996::/:/bin/false\n";
        assert_eq!(user_in(users, 997).unwrap().gid, 996);
        assert_eq!(user_in(users, 99), None);
    }
}
