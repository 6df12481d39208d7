//! Secrets of devices: files on the node, named by Devices and usable by the namespaces in them.
//!
//! ```yaml
//! # /etc/tombolo/device-credentials/broker, owned by root, 0600
//! namespaces: [hall, lab]
//! username: hall
//! password: secret
//! ca: /etc/tombolo/broker-ca.pem
//! ```
//!
//! **Invariant:** a Device learns nothing of a file that does not list its namespace, not even whether
//! the file is there.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// The most bytes of a file.
const MOST: u64 = 64 * 1024;

/// One file.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    /// Who may use it.
    pub(crate) namespaces: Vec<String>,
    /// The user.
    #[serde(default, alias = "user")]
    pub(crate) username: Option<String>,
    /// Its password.
    #[serde(default)]
    pub(crate) password: Option<String>,
    /// The file of the authorities that the other side's certificate must come from; the system's by
    /// default.
    #[serde(default)]
    pub(crate) ca: Option<PathBuf>,
    /// The file of a client certificate.
    #[serde(default)]
    pub(crate) certificate: Option<PathBuf>,
    /// The file of its key.
    #[serde(default)]
    pub(crate) key: Option<PathBuf>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials")
            .field("namespaces", &self.namespaces)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Why there are no credentials.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum NoCredentials {
    /// There are none for this namespace, or none at all; which of the two is not told.
    #[error("there are no credentials {name} that namespace {namespace} may use")]
    NotGiven {
        /// Their name.
        name: String,
        /// The namespace.
        namespace: String,
    },
    /// The file is not as it must be.
    #[error("the credentials {name} are not usable: {why}")]
    Unusable {
        /// Their name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Reads the credentials of that name for a namespace.
pub(crate) fn load(directory: &Path, name: &str, namespace: &str) -> Result<Credentials, NoCredentials> {
    let not_given = || NoCredentials::NotGiven {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    };
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(not_given());
    }
    let unusable = |why: String| NoCredentials::Unusable {
        name: name.to_owned(),
        why,
    };
    let file = File::open(directory.join(name)).map_err(|_| not_given())?;
    // What is wrong with a file is told to its users alone, and they stand inside.
    let checked = check(&file);
    let mut text = String::new();
    file.take(MOST)
        .read_to_string(&mut text)
        .map_err(|_| not_given())?;
    let credentials: Credentials = serde_saphyr::from_str(&text).map_err(|_| {
        tracing::warn!(name, "a file of device credentials does not parse");
        not_given()
    })?;
    if !credentials.namespaces.iter().any(|given| given == namespace) {
        return Err(not_given());
    }
    checked.map_err(unusable)?;
    Ok(credentials)
}

fn check(file: &File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err("the file must be a plain one with mode 0600".to_owned());
    }
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err("the file must be root's".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("tombolo-credentials-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn credentials_are_for_the_namespaces_in_the_file_alone() {
        let folder = Folder::new("namespaces");
        folder.write("broker", "namespaces: [hall]\nusername: u\npassword: p\n", 0o600);
        let found = load(&folder.0, "broker", "hall").unwrap();
        assert_eq!(found.password.as_deref(), Some("p"));
        let others = load(&folder.0, "broker", "lab").unwrap_err().to_string();
        let absent = load(&folder.0, "none", "lab").unwrap_err().to_string();
        assert_eq!(others.replace("broker", "none"), absent);
        assert!(!format!("{found:?}").contains("\"p\""));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = Folder::new("mode");
        folder.write("broker", "namespaces: [hall]\n", 0o644);
        let error = load(&folder.0, "broker", "hall").unwrap_err().to_string();
        assert!(error.contains("0600"), "{error}");
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let folder = Folder::new("names");
        folder.write("broker", "namespaces: [hall]\n", 0o600);
        std::fs::create_dir_all(folder.0.join("sub")).unwrap();
        for name in ["", "..", "../x", "sub/../broker", ".broker", "sub", "a b"] {
            assert!(load(&folder.0, name, "hall").is_err(), "{name:?}");
        }
    }
}
