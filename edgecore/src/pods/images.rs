//! Images: when to pull, when to try again, and what to say about it.
//!
//! Pulls are bounded in number and back off by pod and image, 10 s doubled up to 300 s. An image that is
//! on the device is asked of a registry only where its policy is Always, or where it was pulled with a secret
//! that the pod does not have ([`PullRecords`]). With the policy Always it is used too while the registry
//! cannot be reached.
//!
//! A pull has no deadline, as with the kubelet: how long one takes says nothing on a slow link, and only the runtime
//! sees whether anything comes (containerd gives up after 5 minutes without a byte). But one that takes long lets others
//! have its turn: what hangs for ever, in a runtime that does not look or while it unpacks, holds up nobody else.
//!
//! **Invariant:** a failed pull is not tried again before its back-off is over, whoever asks.

mod backoff;
mod credentials;
mod error;
mod name;
mod offline;
mod records;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1::{AuthConfig, Image, ImageSpec, PodSandboxConfig, PullImageRequest};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::spec;
use super::turns::keeping;
use crate::runtime::Runtime;
use backoff::{Attempts, Key};
use credentials::Keyring;
pub use error::ImageError;
pub(super) use name::with_default_tag;
use records::Proof;
pub use records::PullRecords;

/// How long a pull keeps its turn: twice as long as containerd waits for a byte.
const TURN: Duration = Duration::from_mins(10);
/// Between two looks for pulls that were cut short and could not be settled.
const SETTLE: Duration = Duration::from_mins(1);

/// An image that is on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentImage {
    /// What the runtime calls it: goes into the container's config.
    pub image_ref: String,
    /// The user it runs as, by number; 0 where the image says nothing.
    pub uid: Option<i64>,
    /// The user it runs as, by name.
    pub username: String,
}

/// Something to say about a container's image, as an event of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEvent {
    /// Type Warning rather than Normal.
    pub warning: bool,
    /// `Pulling`, `Pulled`, `Failed`, `BackOff`, ...
    pub reason: &'static str,
    /// In the kubelet's words.
    pub message: String,
}

/// Brings images to the device.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    pulls: Semaphore,
    attempts: Mutex<Attempts>,
    records: PullRecords,
}

/// One container's wish for its image.
#[derive(Clone, Copy)]
pub struct ImageWish<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The pod's sandbox, which the runtime may want to know.
    pub sandbox: &'a PodSandboxConfig,
    /// The pod's pull secrets, in its order.
    pub secrets: &'a [Arc<Secret>],
}

impl Images {
    /// Pulls through `runtime`, `parallel` images at a time, more only beside those that take long, and keeps in `records` for whom.
    pub fn new(runtime: Arc<dyn Runtime>, parallel: usize, records: PullRecords) -> Self {
        Self {
            runtime,
            pulls: Semaphore::new(parallel.max(1)),
            attempts: Mutex::default(),
            records,
        }
    }

    /// The container's image, pulled if its policy wants it. `tell` hears the events, an error's included.
    pub async fn ensure(
        &self,
        wish: ImageWish<'_>,
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<PresentImage, ImageError> {
        let ensured = self.find_or_pull(wish, tell).await;
        if let Err(error) = &ensured {
            tell(error.event());
        }
        ensured
    }

    async fn find_or_pull(
        &self,
        wish: ImageWish<'_>,
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<PresentImage, ImageError> {
        let requested = wish.container.image.as_deref().unwrap_or_default();
        let image = name::with_default_tag(requested).map_err(|why| ImageError::InvalidName {
            image: requested.to_owned(),
            why,
        })?;
        let policy = policy(wish.container, &image);
        if policy != Policy::Always
            && let Some(present) = self.inspect(&image).await?
            && self.may_use(wish, &image, &present).await
        {
            let message = format!(
                "Container image {requested:?} already present on machine and can be accessed by the pod"
            );
            tell(ImageEvent {
                warning: false,
                reason: "Pulled",
                message,
            });
            return Ok(present);
        }
        if policy == Policy::Never {
            return Err(ImageError::NeverPull(requested.to_owned()));
        }
        match self.pull(wish, &image, tell).await {
            Err(error) if policy == Policy::Always => {
                self.do_without_registry(wish, &image, error, tell).await
            }
            pulled => pulled,
        }
    }

    /// A device that cannot reach the registry, or whose disk keeps nothing new, goes on with the image that it has,
    /// if the pod may use it: it would otherwise start nothing after a power cut offline.
    async fn do_without_registry(
        &self,
        wish: ImageWish<'_>,
        image: &str,
        error: ImageError,
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<PresentImage, ImageError> {
        let Some(cause) = offline::unreachable(&error) else {
            return Err(error);
        };
        let Ok(Some(present)) = self.inspect(image).await else {
            return Err(error);
        };
        if !self.may_use(wish, image, &present).await {
            return Err(error);
        }
        let requested = wish.container.image.as_deref().unwrap_or_default();
        tell(ImageEvent {
            warning: true,
            reason: "RegistryUnreachable",
            message: format!(
                "Image {requested:?} is used as it is on the device: its registry cannot be asked: {cause}"
            ),
        });
        Ok(present)
    }

    async fn may_use(&self, wish: ImageWish<'_>, image: &str, present: &PresentImage) -> bool {
        let requested = wish.container.image.as_deref().unwrap_or_default();
        // Secrets that cannot be read give no access; the pull says what is wrong with them.
        let proofs = || {
            let keyring = Keyring::of(wish.secrets).unwrap_or_default();
            let logins = keyring.logins(image).into_iter();
            logins.map(|login| login.proof).collect()
        };
        self.records.may_use(requested, &present.image_ref, proofs).await
    }

    async fn inspect(&self, image: &str) -> Result<Option<PresentImage>, ImageError> {
        let inspected = self.runtime.image_status(image).await;
        let failed = |cause: String| ImageError::Inspect {
            image: image.to_owned(),
            cause,
        };
        Ok(inspected.map_err(|error| failed(error.to_string()))?.map(present))
    }

    async fn pull(
        &self,
        wish: ImageWish<'_>,
        image: &str,
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<PresentImage, ImageError> {
        let requested = wish.container.image.clone().unwrap_or_default();
        let key: Key = (spec::uid(wish.pod).to_owned(), requested.clone());
        if let Some((retry_after, cause)) = self.attempts.lock().holds_back(&key, Instant::now()) {
            return Err(ImageError::BackOff {
                image: requested,
                cause,
                retry_after,
            });
        }
        tell(ImageEvent {
            warning: false,
            reason: "Pulling",
            message: format!("Pulling image {requested:?}"),
        });
        let asked = Instant::now();
        let mut turn = self.pulls.acquire().await.ok();
        let started = Instant::now();
        let pulled = keeping(&mut turn, TURN, self.pull_and_record(wish, image)).await;
        drop(turn);
        let present = match pulled {
            Ok(present) => present,
            Err(Failure::Inspect(error)) => return Err(error),
            Err(Failure::Pull(cause)) => {
                self.attempts.lock().failed(key, cause.clone(), Instant::now());
                return Err(ImageError::Pull {
                    image: requested,
                    cause,
                });
            }
        };
        self.attempts.lock().succeeded(&key);
        tell(pulled_event(&requested, started.elapsed(), asked.elapsed()));
        Ok(present)
    }
}

/// What went wrong with a pull.
enum Failure {
    /// The registry, or the store; tried again later.
    Pull(String),
    /// The runtime, afterwards.
    Inspect(ImageError),
}

impl Images {
    async fn pull_and_record(&self, wish: ImageWish<'_>, image: &str) -> Result<PresentImage, Failure> {
        let requested = wish.container.image.as_deref().unwrap_or_default();
        let holds = self.inspect(image).await.map_err(Failure::Inspect)?;
        let holds = holds.map(|present| present.image_ref);
        let under_way = self.records.under_way(requested);
        if let Err(error) = self.records.begin(requested, holds).await {
            under_way.noted();
            return Err(Failure::Pull(format!("{}: {error}", offline::NOT_KEPT)));
        }
        let proof = match self.pull_with_logins(wish, image).await {
            Ok(proof) => proof,
            Err(cause) => {
                under_way.noted();
                self.records.failed(requested).await;
                return Err(Failure::Pull(cause));
            }
        };
        let cause = "the runtime pulled it and does not have it".to_owned();
        let present = self.inspect(image).await.map_err(Failure::Inspect)?;
        let present = present.ok_or_else(|| {
            Failure::Inspect(ImageError::Inspect {
                image: requested.to_owned(),
                cause,
            })
        })?;
        under_way.noted();
        self.records.pulled(requested, &present.image_ref, proof).await;
        self.forget_removed_images().await;
        Ok(present)
    }

    async fn forget_removed_images(&self) {
        if let Some(known) = self.records.many()
            && let Ok(images) = self.runtime.list_images().await
        {
            self.records.forget_missing(known, &images).await;
        }
    }

    /// What pulls that were cut short have left: before a crash, or by pods that did not wait for them.
    pub async fn settle(&self) {
        for requested in self.records.cut_short_ones() {
            let Ok(image) = name::with_default_tag(&requested) else {
                self.records.settle(&requested, None).await;
                continue;
            };
            match self.inspect(&image).await {
                Ok(present) => {
                    let id = present.map(|present| present.image_ref);
                    self.records.settle(&requested, id.as_deref()).await;
                }
                Err(error) => tracing::warn!(%error, "it is not known what a pull has left"),
            }
        }
    }

    /// Settles what is cut short from now on, for ever.
    pub async fn keep_settled(&self) {
        loop {
            // What could not be settled is tried again when there is time for it.
            let _ = timeout(SETTLE, self.records.next_cut()).await;
            self.settle().await;
        }
    }

    /// Shows the registry one login after another; without any, asks as nobody. Tells who was let in.
    async fn pull_with_logins(&self, wish: ImageWish<'_>, image: &str) -> Result<Option<Proof>, String> {
        let keyring = Keyring::of(wish.secrets).map_err(|error| error.to_string())?;
        let logins: Vec<_> = keyring.logins(image).into_iter().map(Some).collect();
        let logins = if logins.is_empty() { vec![None] } else { logins };
        let mut told: Vec<String> = Vec::new();
        for login in logins {
            let (auth, proof) = login.map(|login| (login.auth, login.proof)).unzip();
            match self.runtime.pull_image(request(wish, image, auth)).await {
                Ok(_) => return Ok(proof),
                Err(error) => told.push(error.words()),
            }
        }
        let mut seen = BTreeSet::new();
        told.retain(|words| seen.insert(words.clone()));
        Err(match told.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// The API server fills the policy in; where it did not, `:latest` is always pulled.
fn policy(container: &Container, image: &str) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ if image.ends_with(":latest") => Policy::Always,
        _ => Policy::IfNotPresent,
    }
}

fn request(wish: ImageWish<'_>, image: &str, auth: Option<AuthConfig>) -> PullImageRequest {
    let annotations: HashMap<_, _> = wish
        .pod
        .metadata
        .annotations
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    let image = ImageSpec {
        image: image.to_owned(),
        annotations,
        ..ImageSpec::default()
    };
    PullImageRequest {
        image: Some(image),
        auth,
        sandbox_config: Some(wish.sandbox.clone()),
    }
}

fn present(image: Image) -> PresentImage {
    let by_name = image.uid.is_none() && !image.username.is_empty();
    let uid = if by_name {
        None
    } else {
        Some(image.uid.map_or(0, |uid| uid.value))
    };
    PresentImage {
        image_ref: image.id,
        uid,
        username: image.username,
    }
}

fn pulled_event(image: &str, took: Duration, with_waiting: Duration) -> ImageEvent {
    let rounded = |time: Duration| Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let (took, with_waiting) = (rounded(took), rounded(with_waiting));
    let message =
        format!("Successfully pulled image {image:?} in {took:?} ({with_waiting:?} including waiting)");
    ImageEvent {
        warning: false,
        reason: "Pulled",
        message,
    }
}

#[cfg(test)]
mod tests;
