//! The group whose members may report as mappers.

use std::process::Command;

use super::{Paths, step, warn};
use crate::config::Config;
use crate::devices::dmi;

/// What became of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    /// It is there already.
    Before,
    /// It was made.
    Now,
    /// It could not be made, and why.
    Not(String),
}

/// Makes sure that the group exists. Without it the node works, and mappers must be root's; so that is told,
/// and does not undo the join.
pub(super) fn ensure(config: &Config, paths: &Paths) {
    if !paths.is_machine() {
        return;
    }
    let group = &config.dmi.group;
    match make(dmi::has_group(group), || groupadd(group)) {
        Made::Before => {}
        // Users and files may be of it by then: `reset` leaves it.
        Made::Now => step(&format!(
            "made the group {group}, whose members may report as mappers"
        )),
        Made::Not(why) => {
            warn(&format!(
                "there is no group {group}, and it could not be made ({why})"
            ));
            warn(&format!(
                "mappers that do not run as root cannot report: make it with `groupadd --system {group}`"
            ));
        }
    }
}

fn make(is_there: bool, add: impl FnOnce() -> Result<(), String>) -> Made {
    if is_there {
        return Made::Before;
    }
    match add() {
        Ok(()) => Made::Now,
        Err(why) => Made::Not(why),
    }
}

fn groupadd(group: &str) -> Result<(), String> {
    let output = Command::new("groupadd")
        .args(["--system", "--", group])
        .output()
        .map_err(|error| format!("groupadd: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_there_is_left_alone_and_one_that_cannot_be_made_is_told() {
        let never = || -> Result<(), String> { unreachable!("it is there") };
        assert_eq!(make(true, never), Made::Before);
        assert_eq!(make(false, || Ok(())), Made::Now);
        let why = "groupadd: not found".to_owned();
        assert_eq!(make(false, || Err(why.clone())), Made::Not(why));
    }
}
