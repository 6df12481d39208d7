//! Looks at the store's files without opening it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::super::facts::Store;
use crate::store::QUARANTINED;

/// The database without which there is no store.
const META: &str = "meta";
/// What is read of them at most, each file from its beginning: enough to notice a card that is dying.
const MOST: u64 = 64 << 20;

/// Reads every file. May block.
pub(super) fn look(dir: &Path) -> Store {
    if !dir.join(META).is_dir() {
        return Store::None;
    }
    let mut left = MOST;
    match read_all(dir, &mut left) {
        Ok(()) => Store::Readable {
            quarantined: quarantined(dir),
        },
        Err(why) => Store::Unreadable(why),
    }
}

fn read_all(path: &Path, left: &mut u64) -> Result<(), String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    for entry in fs::read_dir(path).map_err(told)? {
        let entry = entry.map_err(told)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(told)?);
        if kind.is_dir() {
            read_all(&path, left)?;
        } else if kind.is_file() {
            let read = read(&path, *left).map_err(|error| format!("{}: {error}", path.display()))?;
            *left = left.saturating_sub(read);
        }
    }
    Ok(())
}

fn read(path: &Path, most: u64) -> io::Result<u64> {
    match File::open(path) {
        Ok(file) => io::copy(&mut file.take(most), &mut io::sink()),
        // A daemon that starts meanwhile tidies up.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn quarantined(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    let given_up = paths.filter(|path| path.extension().is_some_and(|extension| extension == QUARANTINED));
    given_up.map(|path| path.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_read_and_what_was_given_up_is_named() {
        let dir = std::env::temp_dir().join(format!("tombolo-doctor-store-{}", std::process::id()));
        assert_eq!(look(&dir), Store::None);
        fs::create_dir_all(dir.join("meta")).unwrap();
        fs::write(dir.join("meta/db"), "x").unwrap();
        let quarantined = |store| {
            let Store::Readable { quarantined } = store else {
                unreachable!("{store:?}")
            };
            quarantined.len()
        };
        assert_eq!(quarantined(look(&dir)), 0);
        fs::create_dir_all(dir.join("outbox.quarantined")).unwrap();
        assert_eq!(quarantined(look(&dir)), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
