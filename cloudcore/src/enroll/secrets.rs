//! The release's Secrets as small maps, written by create and by compare-and-swap only.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use thiserror::Error;
use tokio::time::timeout;

/// How long one request may take: those who wait for it have work beside it. Without a limit a connection that is
/// dead is waited for until TCP gives it up.
const LIMIT: Duration = Duration::from_secs(15);

/// Says what a Secret is; all of ours carry it.
pub(super) const KIND_LABEL: &str = "tombolo.dev/kind";

/// The kind of the Secret with the CA.
pub(super) const CA: &str = "ca";

/// What a Secret holds.
pub(super) type Data = BTreeMap<String, String>;

/// A Secret as it was read.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) data: Data,
    pub(super) annotations: BTreeMap<String, String>,
    meta: ObjectMeta,
}

impl Stored {
    pub(super) fn of(secret: Secret) -> Self {
        let text = |bytes: ByteString| String::from_utf8(bytes.0).unwrap_or_default();
        let data = secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, text(value)))
            .collect();
        Self {
            name: secret.metadata.name.clone().unwrap_or_default(),
            data,
            annotations: secret.metadata.annotations.clone().unwrap_or_default(),
            meta: secret.metadata,
        }
    }

    /// What kind of record it is, by its label.
    pub(super) fn kind(&self) -> &str {
        self.meta
            .labels
            .as_ref()
            .and_then(|labels| labels.get(KIND_LABEL))
            .map_or("", String::as_str)
    }
}

/// What became of a write that may lose a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Race {
    Won,
    Lost,
}

/// No answer came in time.
#[derive(Debug, Error)]
#[error("no answer within {} s", LIMIT.as_secs())]
struct NoAnswer;

/// Makes one request, within the limit.
pub(super) async fn within<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let answer = timeout(LIMIT, request).await;
    answer.unwrap_or_else(|_| Err(kube::Error::Service(Box::new(NoAnswer))))
}

/// The Secrets of one namespace.
#[derive(Clone)]
pub(super) struct Secrets {
    api: Api<Secret>,
}

impl Secrets {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
        }
    }

    pub(super) const fn api(&self) -> &Api<Secret> {
        &self.api
    }

    pub(super) async fn read(&self, name: &str) -> Result<Option<Stored>, kube::Error> {
        Ok(within(self.api.get_opt(name)).await?.map(Stored::of))
    }

    pub(super) async fn list(&self, kind: &str) -> Result<Vec<Stored>, kube::Error> {
        let ours = ListParams::default().labels(&format!("{KIND_LABEL}={kind}"));
        let listed = within(self.api.list(&ours)).await?;
        Ok(listed.items.into_iter().map(Stored::of).collect())
    }

    /// Creates a Secret; loses where one of that name exists.
    pub(super) async fn create(
        &self,
        name: &str,
        kind: &str,
        data: Data,
        annotations: BTreeMap<String, String>,
    ) -> Result<Race, kube::Error> {
        let meta = ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(KIND_LABEL.to_owned(), kind.to_owned())].into()),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        };
        let (how, made) = (PostParams::default(), secret(meta, data));
        race(within(self.api.create(&how, &made)).await)
    }

    /// Replaces what was read; loses where somebody else wrote or removed it since.
    pub(super) async fn replace(&self, read: &Stored, data: Data) -> Result<Race, kube::Error> {
        let (how, replaced) = (PostParams::default(), secret(read.meta.clone(), data));
        match within(self.api.replace(&read.name, &how, &replaced)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Race::Lost),
            other => race(other),
        }
    }

    /// Writes one annotation of what was read, and leaves all else to whoever wrote it; loses where somebody
    /// else wrote or removed the Secret since.
    pub(super) async fn annotate(&self, read: &Stored, name: &str, value: &str) -> Result<Race, kube::Error> {
        let version = &read.meta.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version, "annotations": { name: value } } });
        let (how, patch) = (PatchParams::default(), Patch::Merge(patch));
        match within(self.api.patch(&read.name, &how, &patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Race::Lost),
            other => race(other),
        }
    }

    /// Removes a Secret; false where there was none.
    pub(super) async fn remove(&self, name: &str) -> Result<bool, kube::Error> {
        match within(self.api.delete(name, &DeleteParams::default())).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn secret(metadata: ObjectMeta, data: Data) -> Secret {
    let data = data
        .into_iter()
        .map(|(key, value)| (key, ByteString(value.into_bytes())))
        .collect();
    Secret {
        metadata,
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn race(written: Result<Secret, kube::Error>) -> Result<Race, kube::Error> {
    match written {
        Ok(_) => Ok(Race::Won),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(Race::Lost),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt, future::BoxFuture};
    use http::{Request, Response};
    use kube::client::Body;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_an_api_server_that_never_answers_is_told_so() {
        let mute = |_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>();
        let secrets = Secrets::new(Client::new(tower::service_fn(mute), "ns"), "ns");
        let meta = ObjectMeta {
            name: Some("a".to_owned()),
            ..ObjectMeta::default()
        };
        let stored = Stored::of(secret(meta, Data::new()));
        let requests: [BoxFuture<'_, Option<kube::Error>>; 6] = [
            secrets.read("a").map(Result::err).boxed(),
            secrets.list(CA).map(Result::err).boxed(),
            secrets
                .create("a", CA, Data::new(), BTreeMap::new())
                .map(Result::err)
                .boxed(),
            secrets.replace(&stored, Data::new()).map(Result::err).boxed(),
            secrets
                .annotate(&stored, "name", "value")
                .map(Result::err)
                .boxed(),
            secrets.remove("a").map(Result::err).boxed(),
        ];
        for request in requests {
            let began = Instant::now();
            let error = request.await;
            assert!(matches!(error, Some(kube::Error::Service(_))), "{error:?}");
            assert_eq!(began.elapsed(), LIMIT);
        }
    }
}
