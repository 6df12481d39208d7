//! Who the node is to the broker: where it is, and a file with the rest.
//!
//! The file is read anew for each connection, so that a changed password or certificate is used at
//! the next one.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use thiserror::Error;

use super::Mqtt;
use crate::devices::Broker;
use crate::devices::credentials::{self, Credentials, NoCredentials};
use crate::devices::tls::{self, NoTls};

/// How long the broker keeps the bridge's session while the node is away.
const SESSION: Duration = Duration::from_hours(24);

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
pub(crate) struct Access {
    /// The broker's host; a literal IPv6 address in brackets.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// The node's name at the broker.
    pub(super) client_id: String,
    /// User and password.
    pub(super) login: Option<(String, String)>,
    /// How long the broker keeps the session of a node that is away; on 3.1.1 only its own settings say.
    pub(super) kept: Duration,
    tls: Option<Arc<ClientConfig>>,
    /// Whether the node shows a certificate of its own.
    pub(super) has_certificate: bool,
}

impl Access {
    /// Reads the file, if there is one.
    pub(super) fn read(config: &Mqtt, node: &str) -> Result<Self, CredentialsError> {
        let credentials = config.credentials.as_deref().map(credentials::own).transpose()?;
        let client_id = config.client_id(node);
        Ok(Self::new(
            &config.address,
            client_id,
            credentials.as_ref(),
            SESSION,
        )?)
    }

    /// What a connection to this broker needs, as this client, whose session is kept for so long.
    pub(crate) fn new(
        broker: &Broker,
        client_id: String,
        credentials: Option<&Credentials>,
        kept: Duration,
    ) -> Result<Self, NoTls> {
        let tls = broker.tls.then(|| tls::client(credentials)).transpose()?;
        let has_certificate = credentials.is_some_and(|own| own.certificate.is_some());
        Ok(Self {
            host: broker.bracketed().into_owned(),
            port: broker.port,
            client_id,
            login: credentials.and_then(Credentials::login),
            kept,
            has_certificate: has_certificate && tls.is_some(),
            tls: tls.map(Arc::new),
        })
    }

    /// How the connection is encrypted, if it is to be.
    pub(super) fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }
}
