//! TLS to brokers and devices, for all who dial them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use super::credentials::Credentials;

/// Why there is no TLS.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum NoTls {
    /// A file is not what it should be.
    #[error("{key} of the credentials, {}: {why}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// One of the two is missing.
    #[error("certificate and key of the credentials go together: name both or none")]
    HalfAClient,
    /// Nobody is trusted.
    #[error(
        "there are no authorities in the system's own store ({0}); name the other side's with ca in the credentials"
    )]
    NoAuthorities(String),
    /// The library refused.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

/// A client that trusts the `ca` of the credentials, else whom the system trusts.
pub(crate) fn client(credentials: Option<&Credentials>) -> Result<ClientConfig, NoTls> {
    let named = credentials.and_then(|credentials| credentials.ca.as_deref());
    let roots = named.map_or_else(of_the_system, of_file)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let own = credentials.map(|own| (own.certificate.as_deref(), own.key.as_deref()));
    match own {
        None | Some((None, None)) => Ok(config.with_no_client_auth()),
        Some((Some(certificate), Some(key))) => {
            let read = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("key", key, &error))?;
            let chain = certificates("certificate", certificate)?;
            let config = config.with_client_auth_cert(chain, read);
            config.map_err(|error| wrong("certificate", certificate, &error))
        }
        Some((Some(_), None) | (None, Some(_))) => Err(NoTls::HalfAClient),
    }
}

fn of_file(path: &Path) -> Result<RootCertStore, NoTls> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        roots
            .add(certificate)
            .map_err(|error| wrong("ca", path, &error))?;
    }
    Ok(roots)
}

fn of_the_system() -> Result<RootCertStore, NoTls> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One that rustls does not take is no reason to trust none.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        return Err(NoTls::NoAuthorities(
            why.unwrap_or_else(|| "none was found".to_owned()),
        ));
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, NoTls> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| wrong(key, path, &error))?;
    if found.is_empty() {
        return Err(wrong(key, path, &"there is no certificate in it (PEM is meant)"));
    }
    Ok(found)
}

fn wrong(key: &'static str, path: &Path, why: &dyn ToString) -> NoTls {
    NoTls::File {
        key,
        path: path.to_owned(),
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(credentials: &Credentials) -> String {
        client(Some(credentials)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_names_the_key_and_the_file() {
        let path = std::env::temp_dir().join(format!("tombolo-tls-{}.pem", std::process::id()));
        let ca = Credentials {
            ca: Some(path.clone()),
            ..Credentials::default()
        };
        let shown = format!("ca of the credentials, {}", path.display());
        assert!(told(&ca).contains(&shown), "{}", told(&ca));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(
            told(&ca).contains("there is no certificate in it"),
            "{}",
            told(&ca)
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let path = std::env::temp_dir().join(format!("tombolo-half-{}.pem", std::process::id()));
        std::fs::write(&path, certificate.self_signed(&key).unwrap().pem()).unwrap();
        let half = Credentials {
            ca: Some(path.clone()),
            certificate: Some(path.clone()),
            ..Credentials::default()
        };
        assert!(told(&half).contains("name both or none"), "{}", told(&half));
        std::fs::remove_file(&path).unwrap();
    }
}
