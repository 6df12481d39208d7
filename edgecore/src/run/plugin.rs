//! The link by which the runtime finds our network plugin: it leads to the program that runs.

use std::path::Path;

use crate::cli::Paths;
use crate::cli::record::{self, Entry, Record};
use crate::network::plugin;

/// Makes the link that join made, where somebody took it away, and leads it here, where the program was installed
/// elsewhere since. Without it no pod of the default network starts.
pub(super) fn lead_here(paths: &Paths) {
    // Replaced since it was started, it has the name of what is gone; the next start is the new one's.
    let Some(program) = std::env::current_exe().ok().filter(|program| program.is_file()) else {
        return;
    };
    let record = match Record::open(&paths.record()) {
        Ok(record) => record,
        Err(error) => {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "the link of the network plugin is not looked at"
            );
            return;
        }
    };
    for entry in record.entries() {
        if is_link(entry) {
            lead(entry.path(), &program);
        }
    }
}

fn is_link(entry: &Entry) -> bool {
    matches!(entry, Entry::File { path } if path.file_name().is_some_and(|name| name == plugin::NAME))
}

fn lead(link: &Path, program: &Path) {
    if std::fs::read_link(link).is_ok_and(|target| target == program) {
        return;
    }
    let (shown, to) = (link.display(), program.display());
    match record::link(link, program) {
        Ok(()) => {
            tracing::info!(link = %shown, program = %to, "the network plugin leads to this program now");
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::error!(error, program = %to, "pods cannot be connected: the network plugin leads elsewhere");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_that_join_made_is_put_right_and_no_other() {
        let root = std::env::temp_dir().join(format!("tombolo-lead-{}", std::process::id()));
        let paths = Paths::below(root.clone());
        lead_here(&paths);
        assert!(!root.exists(), "a device without a record");

        let (ours, others) = (root.join("cni/tombolo"), root.join("other/tombolo"));
        let mut record = Record::open(&paths.record()).unwrap();
        record.directory(&paths.config_dir(), 0o755).unwrap();
        record.link(&ours, Path::new("/nowhere/edgecore")).unwrap();
        std::fs::create_dir_all(&others).unwrap();
        let program = std::env::current_exe().unwrap();
        for _ in 0..2 {
            lead_here(&paths);
            assert_eq!(std::fs::read_link(&ours).unwrap(), program);
            std::fs::remove_file(&ours).unwrap();
        }
        assert!(others.is_dir());
        std::fs::remove_dir_all(root).unwrap();
    }
}
