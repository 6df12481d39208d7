//! Why a container has no image, in the kubelet's words.

use std::time::Duration;

use thiserror::Error;

use super::ImageEvent;

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
