//! The device's resolver configuration as it was when there last were servers in it: a file of the same kind, on flash.
//!
//! **Invariant:** it is written only when it changes, and is whole or not there after a power cut.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use k8s_cri::v1::DnsConfig;

use super::{Read, parse};

/// What was kept, if there are servers in it.
pub(super) fn recall(file: &Path) -> Option<Read> {
    let config = parse(&fs::read_to_string(file).ok()?);
    (!config.servers.is_empty()).then(|| Read {
        file: file.to_owned(),
        config,
        is_last: true,
    })
}

/// Keeps it. That it is not kept costs pods nothing that they have now.
pub(super) fn keep(file: &Path, config: &DnsConfig) {
    let text = render(config);
    if fs::read_to_string(file).is_ok_and(|kept| kept == text) {
        return;
    }
    if let Err(error) = replace(file, &text) {
        tracing::warn!(%error, file = %file.display(), "the device's name servers are not kept for its next start");
    }
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_added_extension("new");
    let mut open = File::create(&new)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    fs::rename(new, file)
}

fn render(config: &DnsConfig) -> String {
    let servers = config
        .servers
        .iter()
        .map(|server| format!("nameserver {server}\n"));
    let mut text: String = servers.collect();
    for (key, words) in [("search", &config.searches), ("options", &config.options)] {
        if !words.is_empty() {
            text.extend([key, " ", &words.join(" "), "\n"]);
        }
    }
    text
}
