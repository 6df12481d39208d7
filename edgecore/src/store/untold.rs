//! What was done to a database and the cluster was not told yet.
//!
//! A repair is made once, and whoever made it may be gone before it can tell: by a power cut, or because
//! the start fails further on. So it is written down first, and forgotten when the cluster's event is in
//! the outbox.

use super::{
    Incident, StoreError,
    objects::{sync_dir, write_synced},
};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Incidents that are kept of one database; the oldest go.
const MOST: usize = 32;

/// Where the incidents of the database in `db` are.
pub(super) fn path(db: &Path) -> PathBuf {
    db.with_extension("untold")
}

/// What is written down. A line that is not understood is another version's; it is in the log then.
pub(super) fn load(path: &Path) -> Vec<Incident> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let incident = serde_json::from_str::<Incident>(line);
        incident
            .inspect_err(|error| tracing::warn!(%error, line, "an incident cannot be read"))
            .ok()
    });
    lines.collect()
}

/// Writes down what is not there yet. Incidents matter less than the repair: when it fails, that is logged.
pub(super) fn add(path: &Path, incidents: &[Incident]) {
    let mut all = load(path);
    let before = all.len();
    for incident in incidents {
        if !all.contains(incident) {
            all.push(incident.clone());
        }
    }
    if all.len() == before {
        return;
    }
    if let Err(error) = write(path, &all[all.len().saturating_sub(MOST)..]) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "what is done to the store is not written down");
    }
}

fn write(path: &Path, incidents: &[Incident]) -> Result<(), StoreError> {
    let lines = incidents.iter().map(serde_json::to_string);
    let lines: Vec<String> = lines
        .collect::<Result<_, _>>()
        .map_err(|error| StoreError::io("write", path)(error.into()))?;
    let new = path.with_extension("untold-new");
    write_synced(&new, lines.join("\n").as_bytes())?;
    fs::rename(&new, path).map_err(StoreError::io("rename", new))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Forgets what is written down: the cluster is told.
pub(super) fn clear(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Rung, suite::Scratch};
    use super::*;

    fn incident(detail: &str) -> Incident {
        Incident {
            database: "meta".to_owned(),
            rung: Rung::Stale,
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn what_is_written_down_stays_until_it_is_told_each_once_and_the_newest() {
        let root = Scratch::new();
        let path = path(&root.path().join("meta"));
        add(&path, &[incident("a\nb")]);
        add(&path, &[incident("a\nb"), incident("c")]);
        assert_eq!(load(&path), [incident("a\nb"), incident("c")]);
        for number in 0..MOST {
            add(&path, &[incident(&number.to_string())]);
        }
        assert_eq!((load(&path).len(), &load(&path)[0]), (MOST, &incident("0")));
        clear(&path).unwrap();
        clear(&path).unwrap();
        assert_eq!(load(&path), []);
    }

    #[test]
    fn a_line_of_another_version_does_not_hide_the_others() {
        let root = Scratch::new();
        let path = path(&root.path().join("meta"));
        add(&path, &[incident("a")]);
        let line = fs::read_to_string(&path).unwrap();
        let later = line.replace("Stale", "Melted");
        assert_ne!(line, later);
        fs::write(&path, format!("{later}\n{line}")).unwrap();
        assert_eq!(load(&path), [incident("a")]);
    }
}
