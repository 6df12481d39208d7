//! Who the node is to the broker: where it is, and a file with the rest.
//!
//! The file is read anew for each connection, so that a changed password or certificate is used at
//! the next one.

use std::sync::Arc;

use rustls::ClientConfig;
use thiserror::Error;

use super::Mqtt;
use crate::devices::credentials::{self, NoCredentials};
use crate::devices::tls::{self, NoTls};

/// Why there is nothing to connect with.
#[derive(Debug, Error)]
pub(super) enum CredentialsError {
    /// The file cannot be used.
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
    /// What it names cannot be used.
    #[error(transparent)]
    Tls(#[from] NoTls),
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
        let credentials = config.credentials.as_deref().map(credentials::own).transpose()?;
        let credentials = credentials.as_ref();
        let tls = config.address.tls.then(|| tls::client(credentials)).transpose()?;
        Ok(Self {
            host: config.address.bracketed().into_owned(),
            port: config.address.port,
            client_id: config.client_id(node),
            login: credentials.and_then(credentials::Credentials::login),
            tls: tls.map(Arc::new),
        })
    }

    /// How the connection is encrypted, if it is to be.
    pub(super) fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }
}
