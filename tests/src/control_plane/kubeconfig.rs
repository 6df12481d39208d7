//! Kubeconfig files: where the API server is and who one is to it.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::pki::Identity;

/// A kubeconfig for one user; JSON, which is YAML too.
pub fn kubeconfig(server: &str, authority: &str, user: &Identity) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "clusters": [{ "name": "testbed", "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(authority) } }],
        "users": [{ "name": "user", "user": {
            "client-certificate-data": STANDARD.encode(&user.certificate),
            "client-key-data": STANDARD.encode(&user.key) } }],
        "contexts": [{ "name": "testbed", "context": { "cluster": "testbed", "user": "user" } }],
    })
}

/// Writes a kubeconfig file.
pub fn save(path: &Path, config: &Value) -> Result<()> {
    let text = serde_json::to_vec_pretty(config)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
