//! What the API server was asked to do, from its own audit log.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::Result;
use serde::Deserialize;

/// The audit log.
#[derive(Clone, Debug)]
pub struct Audit(PathBuf);

/// One request that was answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// When in the request's life this was recorded.
    pub stage: String,
    /// Who asked.
    pub user: User,
    /// As whom, when impersonating.
    pub impersonated_user: Option<User>,
    /// About what.
    pub object_ref: Option<Object>,
    /// The answer.
    pub response_status: Option<Status>,
}

/// A user as the API server knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// The user's name.
    #[serde(default)]
    pub username: String,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// The plural of the kind.
    pub resource: String,
    /// Such as `status`.
    pub subresource: String,
    /// The namespace, empty for what has none.
    pub namespace: String,
    /// The name, empty for a list.
    pub name: String,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Status {
    /// The HTTP code.
    #[serde(default)]
    pub code: u16,
}

impl Request {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
    }

    /// Who is behind it: the one who asked, not the one impersonated.
    pub fn by(&self, username: &str) -> bool {
        self.user.username == username
    }

    /// A line for a message.
    pub fn summary(&self) -> String {
        let object = self.object_ref.clone().unwrap_or_default();
        let code = self.response_status.map_or(0, |status| status.code);
        let Object {
            resource,
            subresource,
            namespace,
            name,
        } = object;
        let whom = self
            .impersonated_user
            .as_ref()
            .map_or_else(String::new, |user| format!(" as {}", user.username));
        format!(
            "{} {resource}/{subresource} {namespace}/{name}{whom} -> {code}",
            self.verb
        )
    }
}

impl Audit {
    /// The log at that path.
    pub const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The log's end as of now, to be given to [`Audit::since`].
    pub fn mark(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    /// The answered requests since a mark.
    pub fn since(&self, mark: u64) -> Result<Vec<Request>> {
        let mut file = File::open(&self.0)?;
        file.seek(SeekFrom::Start(mark))?;
        let mut requests = Vec::new();
        for line in BufReader::new(file).lines() {
            // The last line may be half written.
            let Ok(request) = serde_json::from_str::<Request>(&line?) else {
                continue;
            };
            if request.stage == "ResponseComplete" {
                requests.push(request);
            }
        }
        Ok(requests)
    }

    /// The writes since a mark that succeeded, by the service account of cloudcore.
    pub fn cloudcore_writes(&self, mark: u64) -> Result<Vec<Request>> {
        let mut requests = self.since(mark)?;
        requests.retain(|request| {
            let done = request.response_status.is_some_and(|status| status.code < 300);
            done && request.is_write() && request.by("system:serviceaccount:tombolo-system:cloudcore")
        });
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impersonated_write_is_told_as_such() {
        let line = r#"{"stage":"ResponseComplete","verb":"patch","user":{"username":"cc"},
            "impersonatedUser":{"username":"system:node:e1"},
            "objectRef":{"resource":"nodes","subresource":"status","name":"e1"},"responseStatus":{"code":200}}"#;
        let request: Request = serde_json::from_str(line).unwrap();
        assert!(request.is_write() && request.by("cc"));
        assert_eq!(
            request.summary(),
            "patch nodes/status /e1 as system:node:e1 -> 200"
        );
    }
}
