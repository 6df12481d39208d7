//! hostPath: a path of the device, checked for what the pod says it is.
//!
//! Nothing is mounted here and nothing is ever removed.

use std::fs::{DirBuilder, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Checks `path` for its type, and makes it where the type says so. The error is in the kubelet's words.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), String> {
    let made = match kind {
        "DirectoryOrCreate" => make_dir(path),
        "FileOrCreate" => make_file(path),
        _ => Ok(()),
    };
    made.map_err(|error| error.to_string())?;
    let Some((expected, matches)) = expectation(kind) else {
        return Ok(());
    };
    let is = std::fs::metadata(path).is_ok_and(|found| matches(&found.file_type()));
    if is {
        Ok(())
    } else {
        Err(format!(
            "hostPath type check failed: {} is not {expected}",
            path.display()
        ))
    }
}

/// What the path must be, in words and as a question.
type Expectation = (&'static str, fn(&FileType) -> bool);

fn expectation(kind: &str) -> Option<Expectation> {
    Some(match kind {
        "Directory" | "DirectoryOrCreate" => ("a directory", FileType::is_dir),
        "File" | "FileOrCreate" => ("a file", FileType::is_file),
        "Socket" => ("a socket file", FileType::is_socket),
        "CharDevice" => ("a character device", FileType::is_char_device),
        "BlockDevice" => ("a block device", FileType::is_block_device),
        _ => return None,
    })
}

fn make_dir(path: &Path) -> io::Result<()> {
    if path.exists() {
        Ok(())
    } else {
        DirBuilder::new().recursive(true).mode(0o755).create(path)
    }
}

/// The directory above must be there, as with the kubelet.
fn make_file(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    #[test]
    fn every_type_is_checked_and_some_are_made() {
        let scratch = Scratch::new("host-path");
        let (dir, file) = (scratch.path().join("d/e"), scratch.path().join("f"));
        let missing = scratch.path().join("missing");
        check(&missing, "").unwrap();
        assert!(
            check(&missing, "Directory")
                .unwrap_err()
                .ends_with("missing is not a directory")
        );
        assert!(check(&missing.join("x"), "FileOrCreate").is_err());
        check(&dir, "DirectoryOrCreate").unwrap();
        check(&file, "FileOrCreate").unwrap();
        check(&dir, "Directory").unwrap();
        check(&file, "File").unwrap();
        let told = check(&dir, "File").unwrap_err();
        assert_eq!(
            told,
            format!("hostPath type check failed: {} is not a file", dir.display())
        );
        assert!(check(&file, "DirectoryOrCreate").is_err());
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        assert!(check(&file, "BlockDevice").is_err());
        let _socket = std::os::unix::net::UnixListener::bind(scratch.path().join("s")).unwrap();
        check(&scratch.path().join("s"), "Socket").unwrap();
    }
}
