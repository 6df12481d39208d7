//! What an older program may rely on when it finds what a newer one wrote.
//!
//! An upgrade may be taken back at any time, so a newer program may change what is on the disk in two ways:
//!
//! - **What an older program need not understand:** more tables, with rows in the [envelope](super::envelope).
//!   It keeps such rows and their content files as they are, and carries them from the log of small commits into
//!   the database. Nobody need be told.
//! - **What it cannot do without:** another envelope for a table that it knows, another kind of frame in the log of
//!   small commits, other files. Before the first of these is written, a higher number is written into the file
//!   `format` below the store's directory, durably. A program that knows a lower one opens nothing, touches
//!   nothing, and says which program to run; the containers of the node go on without it.
//!
//! A store without that file is of format 1. What is met beyond the known in spite of that is not thrown
//! away either: as long as its digest fits, the store is not opened.

use super::StoreError;
use std::{fs, io::ErrorKind, path::Path};

/// The newest format that this program can read.
const KNOWN: u32 = 1;
/// Where a higher one stands.
const FILE: &str = "format";

/// Whether this program may open the store below `root`.
pub(super) fn check(root: &Path) -> Result<(), StoreError> {
    let path = root.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // Nobody but a newer program makes that file.
        Err(error) if error.kind() == ErrorKind::InvalidData => String::new(),
        read => read.map_err(StoreError::io("read", &path))?,
    };
    if text.trim().parse::<u32>().is_ok_and(|format| format <= KNOWN) {
        return Ok(());
    }
    Err(StoreError::Newer {
        path: root.to_owned(),
        what: format!(
            "{} says {:?}, and {KNOWN} is known here",
            path.display(),
            text.trim()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::suite::Scratch;
    use super::*;

    #[test]
    fn a_store_of_a_later_format_or_of_one_that_cannot_be_told_is_not_opened() {
        let root = Scratch::new();
        assert!(check(root.path()).is_ok());
        for (text, is_known) in [("1\n", true), ("0", true), ("2\n", false), ("", false)] {
            fs::write(root.path().join(FILE), text).unwrap();
            assert_eq!(check(root.path()).is_ok(), is_known, "{text:?}");
        }
        fs::write(root.path().join(FILE), [0xff, 0xfe]).unwrap();
        let error = check(root.path()).unwrap_err().to_string();
        assert!(
            error.contains("written by a newer edgecore") && error.contains("run that one again"),
            "{error}"
        );
    }
}
