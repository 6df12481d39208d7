//! Images: when to pull, when to try again, and what to say about it.
//!
//! Pulls are bounded in number and back off by pod and image, 10 s doubled up to 300 s. An image that is
//! on the device is never asked of a registry unless its policy is Always.
//!
//! **Invariant:** a failed pull is not tried again before its back-off is over, whoever asks.

mod backoff;
mod credentials;
mod name;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1::{AuthConfig, Image, ImageSpec, PodSandboxConfig, PullImageRequest};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::spec;
use crate::runtime::Runtime;
use backoff::{Attempts, Key};
use credentials::Keyring;

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

/// Why there is no image. The container waits with [`ImageError::reason`] and the message.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// The reference does not parse.
    #[error("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}")]
    InvalidName {
        /// As the pod names it.
        image: String,
        /// Why.
        why: &'static str,
    },
    /// imagePullPolicy Never and not there.
    #[error("Container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    /// The runtime could not say whether the image is there.
    #[error("Failed to inspect image {image:?}: {cause}")]
    Inspect {
        /// As the pod names it.
        image: String,
        /// The runtime's words.
        cause: String,
    },
    /// The pull failed just now.
    #[error("failed to pull image {image:?}: {cause}")]
    Pull {
        /// As the pod names it.
        image: String,
        /// The runtime's words.
        cause: String,
    },
    /// It failed before; not tried again yet.
    #[error("Back-off pulling image {image:?}: ErrImagePull: {cause}")]
    BackOff {
        /// As the pod names it.
        image: String,
        /// The last failure.
        cause: String,
        /// When the next try may be.
        retry_after: Duration,
    },
}

impl ImageError {
    /// The waiting reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull(_) => "ErrImageNeverPull",
            Self::Inspect { .. } => "ImageInspectError",
            Self::Pull { .. } => "ErrImagePull",
            Self::BackOff { .. } => "ImagePullBackOff",
        }
    }

    /// What the kubelet says of it in an event.
    pub fn event(&self) -> ImageEvent {
        let (warning, reason, message) = match self {
            Self::InvalidName { .. } | Self::Inspect { .. } => (true, "InspectFailed", self.to_string()),
            Self::NeverPull(_) => (true, "ErrImageNeverPull", self.to_string()),
            Self::Pull { image, cause } => {
                (true, "Failed", format!("Failed to pull image {image:?}: {cause}"))
            }
            Self::BackOff { image, .. } => (false, "BackOff", format!("Back-off pulling image {image:?}")),
        };
        ImageEvent {
            warning,
            reason,
            message,
        }
    }
}

/// Brings images to the device.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    pulls: Semaphore,
    attempts: Mutex<Attempts>,
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
    /// Pulls through `runtime`, at most `parallel` images at a time.
    pub fn new(runtime: Arc<dyn Runtime>, parallel: usize) -> Self {
        Self {
            runtime,
            pulls: Semaphore::new(parallel.max(1)),
            attempts: Mutex::default(),
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
        self.pull(wish, &image, tell).await
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
        let _permit = self.pulls.acquire().await;
        let started = Instant::now();
        if let Err(cause) = self.pull_with_logins(wish, image).await {
            self.attempts.lock().failed(key, cause.clone(), Instant::now());
            return Err(ImageError::Pull {
                image: requested,
                cause,
            });
        }
        self.attempts.lock().succeeded(&key);
        tell(pulled(&requested, started.elapsed(), asked.elapsed()));
        let cause = "the runtime pulled it and does not have it".to_owned();
        self.inspect(image).await?.ok_or(ImageError::Inspect {
            image: requested,
            cause,
        })
    }
}

impl Images {
    /// Shows the registry one login after another; without any, asks as nobody.
    async fn pull_with_logins(&self, wish: ImageWish<'_>, image: &str) -> Result<(), String> {
        let keyring = Keyring::of(wish.secrets).map_err(|error| error.to_string())?;
        let logins: Vec<_> = keyring.logins(image).into_iter().map(Some).collect();
        let logins = if logins.is_empty() { vec![None] } else { logins };
        let mut told: Vec<String> = Vec::new();
        for login in logins {
            match self.runtime.pull_image(request(wish, image, login)).await {
                Ok(_) => return Ok(()),
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

fn pulled(image: &str, took: Duration, with_waiting: Duration) -> ImageEvent {
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
