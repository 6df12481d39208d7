//! Which address stands on the loopback device for the API server, noted until the next boot, as the address itself is.
//!
//! An agent that is killed takes nothing back: the next one, or `edgecore reset`, does it by the note.
//!
//! **Invariant:** it is written before the address is added, and removed after the address is.

use std::fs;
use std::io;
use std::net::{AddrParseError, SocketAddr};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::super::{addresses, netlink};
use super::ApiEndpoint;

/// Why the note, or what it names, is not as it should be.
#[derive(Debug, Error)]
pub enum NoteError {
    /// The file.
    #[error("the note {} of the API server's address: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its text, which names no address.
    #[error(
        "the note {} names no address of the API server ({error}): ip address show dev lo shows what may be left there",
        path.display()
    )]
    Unread {
        /// Which.
        path: PathBuf,
        /// Why.
        error: AddrParseError,
    },
    /// What it names.
    #[error(transparent)]
    Address(#[from] netlink::AddressError),
}

/// The file in which it stands.
#[derive(Clone, Debug)]
pub struct Note {
    file: PathBuf,
}

impl Note {
    /// In this file, which need not be there.
    pub fn at(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
        }
    }

    /// What it names; nothing where nothing is to be taken back.
    pub fn read(&self) -> Result<Option<ApiEndpoint>, NoteError> {
        let text = match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| self.failed(error))?,
        };
        let parsed = text.trim().parse::<SocketAddr>();
        let named = parsed.map_err(|error| NoteError::Unread {
            path: self.file.clone(),
            error,
        })?;
        Ok(Some(ApiEndpoint {
            address: named.ip(),
            port: named.port(),
        }))
    }

    /// Names `endpoint`, whose address is about to be added, and takes back another that an agent before left.
    pub(super) fn name(&self, endpoint: ApiEndpoint) -> Result<(), NoteError> {
        let left = self.read();
        let taken = match &left {
            Ok(Some(left)) if left.address != endpoint.address => netlink::remove(left.address),
            Ok(_) | Err(_) => Ok(()),
        };
        let draft = self.file.with_extension("new");
        fs::write(&draft, format!("{endpoint}\n"))
            .and_then(|()| fs::rename(&draft, &self.file))
            .map_err(|error| self.failed(error))?;
        taken?;
        left.map(drop)
    }

    /// Nothing is left to be taken back.
    pub(super) fn clear(&self) -> Result<(), NoteError> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|error| self.failed(error)),
        }
    }

    /// Takes back what it names, where nobody listens any more.
    pub fn take_back(&self) -> Result<(), NoteError> {
        if let Some(left) = self.read()?
            && addresses::has(left.address).unwrap_or(true)
        {
            netlink::remove(left.address)?;
        }
        self.clear()
    }

    fn failed(&self, error: io::Error) -> NoteError {
        let path = self.file.clone();
        NoteError::File { path, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::in_a_namespace;

    fn note(name: &str) -> Note {
        let file = std::env::temp_dir().join(format!("tombolo-note-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&file);
        Note { file }
    }

    #[test]
    fn a_note_that_cannot_be_read_is_named_and_no_note_is_fine() {
        let note = note("unread");
        assert!(matches!(note.read(), Ok(None)));
        note.take_back().unwrap();
        fs::write(&note.file, "10.96").unwrap();
        let told = note.take_back().unwrap_err().to_string();
        assert!(told.contains(&note.file.display().to_string()), "{told}");
        note.clear().unwrap();
    }

    /// Runs in a network namespace of its own, started by the test below.
    #[test]
    #[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
    fn after_agents_that_were_killed() {
        let note = note("killed");
        let endpoint = |address: &str| {
            let address = address.parse().unwrap();
            ApiEndpoint { address, port: 443 }
        };
        let (first, second) = (endpoint("10.96.0.1"), endpoint("fd00::1"));
        let has = |endpoint: ApiEndpoint| addresses::has(endpoint.address).unwrap();
        note.name(first).unwrap();
        netlink::add(first.address).unwrap();
        note.name(first).unwrap();
        assert!(has(first), "the next agent serves it on");
        note.name(second).unwrap();
        assert!(!has(first), "the cluster has given the Service another address");
        netlink::add(second.address).unwrap();
        assert_eq!(note.read().unwrap(), Some(second));
        note.take_back().unwrap();
        assert!(!has(second) && note.read().unwrap().is_none());
    }

    #[test]
    fn what_a_killed_agent_left_on_the_loopback_device_is_taken_back() {
        in_a_namespace("network::api::note::tests::after_agents_that_were_killed");
    }
}
