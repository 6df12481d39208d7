//! Secrets for brokers and devices: files on the node. Devices name them, and those of the namespaces
//! in a file may use it; the node's own bridge is given a file in edgecore.yaml.
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

/// Where they are, unless a test says otherwise.
pub(crate) const DIRECTORY: &str = "/etc/tombolo/device-credentials";
/// The most bytes of a file.
const MOST: u64 = 64 * 1024;
/// What a file may say.
const KEYS: &str = "namespaces, username, password, token, ca, certificate and key";

/// One file.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Credentials {
    /// The namespaces whose Devices may use it.
    pub(crate) namespaces: Vec<String>,
    /// The user.
    #[serde(alias = "user")]
    pub(crate) username: Option<String>,
    /// Its password.
    pub(crate) password: Option<String>,
    /// What stands for user and password where devices speak HTTP.
    pub(crate) token: Option<String>,
    /// The file of the authorities that the other side's certificate must come from; the system's by
    /// default.
    pub(crate) ca: Option<PathBuf>,
    /// The file of a client certificate.
    pub(crate) certificate: Option<PathBuf>,
    /// The file of its key.
    pub(crate) key: Option<PathBuf>,
}

impl Credentials {
    /// User and password, if there is a user.
    pub(crate) fn login(&self) -> Option<(String, String)> {
        let user = self.username.clone()?;
        Some((user, self.password.clone().unwrap_or_default()))
    }
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
    /// The file cannot be read.
    #[error("the credentials {} cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not as it must be.
    #[error("the credentials {} are not usable: {why}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what mends it.
        why: String,
    },
}

/// Reads the node's own credentials.
pub(crate) fn own(path: &Path) -> Result<Credentials, NoCredentials> {
    let unread = |source| NoCredentials::Read {
        path: path.to_owned(),
        source,
    };
    let unusable = |why| NoCredentials::Unusable {
        path: path.to_owned(),
        why,
    };
    let file = File::open(path).map_err(unread)?;
    check(&file, path).map_err(unusable)?;
    // The error of the parser may show the password.
    parse(&text(&file).map_err(unread)?).ok_or_else(|| unusable(format!("it must be a mapping of {KEYS}")))
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
    let path = directory.join(name);
    let file = File::open(&path).map_err(|_| not_given())?;
    // What is wrong with a file is told to its users alone, and they stand inside.
    let checked = check(&file, &path);
    let text = text(&file).map_err(|_| not_given())?;
    let Some(credentials) = parse(&text) else {
        tracing::warn!(path = %path.display(), "device credentials must be a mapping of {KEYS}");
        return Err(not_given());
    };
    if !credentials.namespaces.iter().any(|given| given == namespace) {
        return Err(not_given());
    }
    checked.map_err(|why| NoCredentials::Unusable { path, why })?;
    Ok(credentials)
}

fn text(file: &File) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Option<Credentials> {
    serde_saphyr::from_str(text).ok()
}

fn check(file: &File, path: &Path) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let path = path.display();
    if !metadata.is_file() {
        return Err("it must be a plain file".to_owned());
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(format!(
            "others may read it (mode {mode:04o}); it must have mode 0600: chmod 0600 {path}"
        ));
    }
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(format!("it must be root's: chown root {path}"));
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

        fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
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
        folder.write("nobody", "username: u\npassword: p\n", 0o600);
        let found = load(&folder.0, "broker", "hall").unwrap();
        assert_eq!(found.login(), Some(("u".to_owned(), "p".to_owned())));
        let others = load(&folder.0, "broker", "lab").unwrap_err().to_string();
        for other in ["none", "nobody"] {
            let told = load(&folder.0, other, "lab").unwrap_err().to_string();
            assert_eq!(others.replace("broker", other), told);
        }
        assert!(!format!("{found:?}").contains("\"p\""));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_whoever_asks() {
        let folder = Folder::new("mode");
        let path = folder.write("broker", "namespaces: [hall]\npassword: p\n", 0o644);
        for error in [
            load(&folder.0, "broker", "hall").unwrap_err(),
            own(&path).unwrap_err(),
        ] {
            let told = error.to_string();
            let remedy = format!("chmod 0600 {}", path.display());
            assert!(
                told.contains("mode 0644") && told.contains(&remedy) && !told.contains("password"),
                "{told}"
            );
        }
        let others = load(&folder.0, "broker", "lab").unwrap_err();
        assert!(matches!(others, NoCredentials::NotGiven { .. }), "{others}");
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

    #[test]
    fn the_nodes_own_need_no_namespace_and_what_is_wrong_with_them_is_told() {
        let folder = Folder::new("own");
        let path = folder.write("broker", "username: u\npassword: p\n", 0o600);
        assert_eq!(
            own(&path).unwrap().login(),
            Some(("u".to_owned(), "p".to_owned()))
        );
        let path = folder.write("wrong", "pasword: hidden\n", 0o600);
        let told = own(&path).unwrap_err().to_string();
        assert!(
            told.contains("wrong") && told.contains(KEYS) && !told.contains("hidden"),
            "{told}"
        );
        let absent = own(&folder.0.join("none")).unwrap_err().to_string();
        assert!(absent.contains("none cannot be read"), "{absent}");
    }
}
