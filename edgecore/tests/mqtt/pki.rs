//! A certificate authority, a broker's certificate and the node's, as files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes them into a directory, with the file of credentials that names them.
pub(crate) fn write(dir: &Path) -> PathBuf {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "plant");
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for (file, name) in [("broker", "localhost"), ("node", "edgecore")] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join(file).with_extension("pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join(file).with_extension("key"), key.serialize_pem()).unwrap();
    }
    let path = dir.join("credentials");
    let of = |file: &str| dir.join(file).display().to_string();
    let text = format!(
        "ca: {}\ncertificate: {}\nkey: {}\n",
        of("ca.pem"),
        of("node.pem"),
        of("node.key")
    );
    private(&path, &text);
    path
}

/// A file that its owner alone may read, as credentials must be.
pub(crate) fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
