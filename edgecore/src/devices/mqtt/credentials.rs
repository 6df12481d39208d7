//! Who the node is to the broker: where it is, and a file with the rest.
//!
//! The file is read anew for each connection, so that a changed password or certificate is used at
//! the next one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use thiserror::Error;

use super::Mqtt;

/// Why there is nothing to connect with.
#[derive(Debug, Error)]
pub(super) enum CredentialsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not usable: {why}", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What the file of credentials says; a file that devices may use too names their namespaces besides.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Credentials {
    /// The user.
    #[serde(alias = "user")]
    username: Option<String>,
    /// Its password.
    password: Option<String>,
    /// A PEM file with whom to trust; what the system trusts does not count for the site's own broker.
    ca: Option<PathBuf>,
    /// A PEM file with the node's own certificates.
    certificate: Option<PathBuf>,
    /// A PEM file with its key.
    key: Option<PathBuf>,
}

/// Everything that a connection needs.
#[derive(Clone)]
pub(super) struct Access {
    /// The broker's host; a literal IPv6 address in brackets.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// The node's name at the broker.
    pub(super) client_id: String,
    /// User and password.
    pub(super) login: Option<(String, String)>,
    tls: Option<Arc<ClientConfig>>,
}

impl Access {
    /// Reads the file, if there is one.
    pub(super) fn read(config: &Mqtt, node: &str) -> Result<Self, CredentialsError> {
        let credentials = match &config.credentials {
            Some(path) => read_file(path)?,
            None => Credentials::default(),
        };
        let tls = if config.address.tls {
            Some(Arc::new(tls(config, &credentials)?))
        } else {
            None
        };
        let host = &config.address.host;
        Ok(Self {
            host: if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            },
            port: config.address.port,
            client_id: config.client_id(node),
            login: credentials
                .username
                .map(|user| (user, credentials.password.unwrap_or_default())),
            tls,
        })
    }

    /// How the connection is made, if it is to be encrypted.
    pub(super) fn tls(&self) -> Option<rumqttc::Transport> {
        let config = Arc::clone(self.tls.as_ref()?);
        Some(rumqttc::Transport::tls_with_config(
            rumqttc::TlsConfiguration::Rustls(config),
        ))
    }
}

fn read_file(path: &Path) -> Result<Credentials, CredentialsError> {
    let text = std::fs::read_to_string(path).map_err(|source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_saphyr::from_str(&text).map_err(|_| CredentialsError::Wrong {
        path: path.to_owned(),
        // The error of the parser may show the password.
        why: "it must be a mapping with username, password, ca, certificate and key".to_owned(),
    })
}

fn tls(config: &Mqtt, credentials: &Credentials) -> Result<ClientConfig, CredentialsError> {
    let file = config.credentials.clone().unwrap_or_default();
    let wrong = |why: &dyn ToString, path: &Path| CredentialsError::Wrong {
        path: path.to_owned(),
        why: why.to_string(),
    };
    let Some(ca) = &credentials.ca else {
        return Err(wrong(&"over TLS it must name the broker's CA in `ca`", &file));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| wrong(&error, ca))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error, &file))?
        .with_root_certificates(roots);
    match (&credentials.certificate, &credentials.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key_of = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(&error, key))?;
            builder
                .with_client_auth_cert(chain, key_of)
                .map_err(|error| wrong(&error, certificate))
        }
        (Some(_), None) | (None, Some(_)) => Err(wrong(&"certificate and key go together", &file)),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let wrong = |error: rustls_pki_types::pem::Error| CredentialsError::Wrong {
        path: path.to_owned(),
        why: error.to_string(),
    };
    CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<_, _>>()
        .map_err(wrong)
}
