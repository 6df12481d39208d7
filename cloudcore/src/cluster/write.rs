//! Acting for a node: who may be acted for, and why a write did not happen.
//!
//! What it is: the one gate through which every impersonated request goes. What it is not: a
//! second authorizer; what the node itself may do is the API server's business.
//!
//! **Invariant:** no request is made as a node that is not enrolled, or whose Node object exists
//! without the label that only cloudcore sets.

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::name::NodeName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use super::api::{Actor, ApiError, Call};
use super::document::DocumentError;
use super::{Cluster, labels};

/// Who is enrolled: answered by the enrolment authority.
pub trait Enrolment: Send + Sync + 'static {
    /// Whether the name has an accepted key and is not banned, as far as this process knows.
    fn is_enrolled(&self, node: &NodeName) -> bool;

    /// The same, read from the cluster: asked before a Node is made.
    fn confirm<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<bool, BoxError>>;
}

/// Any error, when the caller can only show it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why something was not written for a node.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The name has no accepted key, or is banned.
    #[error("node {node} is not enrolled: nothing is done in its name")]
    NotEnrolled {
        /// The node.
        node: NodeName,
    },
    /// Whether the name is enrolled could not be read.
    #[error("whether node {node} is still enrolled is not known")]
    Unconfirmed {
        /// The node.
        node: NodeName,
        /// Why.
        source: BoxError,
    },
    /// A Node of that name exists and is not an edge node of ours.
    #[error(
        "node {node} exists without the label {}: it is not an edge node",
        labels::OURS
    )]
    NotOurs {
        /// The node.
        node: NodeName,
    },
    /// The edge asked for something that a node may not say of itself.
    #[error("the document of node {node} is refused")]
    Document {
        /// The node.
        node: NodeName,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The object is not there any more.
    #[error("{what} is gone")]
    Gone {
        /// The object.
        what: String,
    },
    /// The object exists with another UID: the one that was meant is gone.
    #[error("{what} now is another object (uid {found})")]
    AnotherUid {
        /// The object.
        what: String,
        /// The UID it has now.
        found: String,
    },
    /// The device is not at this node, whatever the node believes.
    #[error("{what} is at {}", if .node.is_empty() { "no node" } else { .node.as_str() })]
    AnotherNode {
        /// The device.
        what: String,
        /// Where it is.
        node: String,
    },
    /// What was reported will never be understood.
    #[error("the report of {what} is refused: {text}")]
    Unreadable {
        /// The object.
        what: String,
        /// What is wrong with it.
        text: String,
    },
    /// It is not known yet, or the cluster does not have it.
    #[error("{what}: not known yet")]
    Unlisted {
        /// What is not known.
        what: &'static str,
    },
    /// Another session of the node has the Lease: this one writes nothing more.
    #[error("node {node} is held by a newer session")]
    Superseded {
        /// The node.
        node: NodeName,
    },
    /// The API server did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl WriteError {
    /// Whether trying again cannot help: the API server itself said that the object is gone or
    /// that it is another one.
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Gone { .. }
            | Self::AnotherUid { .. }
            | Self::AnotherNode { .. }
            | Self::Unreadable { .. } => true,
            Self::Api(error) => error.is_not_found(),
            Self::NotEnrolled { .. }
            | Self::Unconfirmed { .. }
            | Self::NotOurs { .. }
            | Self::Document { .. }
            | Self::Unlisted { .. }
            | Self::Superseded { .. } => false,
        }
    }

    /// Whether the object does not exist.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_not_found())
    }

    /// A number for the wire, in HTTP's terms.
    pub const fn code(&self) -> u16 {
        match self {
            Self::NotEnrolled { .. } | Self::NotOurs { .. } => 403,
            Self::Document { .. } | Self::Unreadable { .. } => 422,
            Self::Unlisted { .. } | Self::Unconfirmed { .. } => 503,
            Self::Gone { .. } => 404,
            Self::AnotherUid { .. } | Self::AnotherNode { .. } | Self::Superseded { .. } => 409,
            Self::Api(error) => match error.code() {
                0 => 503,
                code => code,
            },
        }
    }
}

impl Cluster {
    /// Makes a request as the node, if the node may be acted for.
    pub async fn request_as_node(&self, node: &NodeName, call: Call) -> Result<Bytes, WriteError> {
        self.admit(node).await?;
        Ok(self.api().call(Actor::Node(node), call).await?)
    }

    pub(super) async fn as_node<T: DeserializeOwned>(
        &self,
        node: &NodeName,
        call: Call,
    ) -> Result<T, WriteError> {
        self.admit(node).await?;
        Ok(self.api().call_as(Actor::Node(node), call).await?)
    }

    /// Whether the node may be acted for: enrolled, and its Node ours if it exists.
    pub async fn admit(&self, node: &NodeName) -> Result<(), WriteError> {
        if !self.enrolment().is_enrolled(node) {
            return Err(WriteError::NotEnrolled { node: node.clone() });
        }
        // The watch holds labelled Nodes alone: one that is not in it does not exist, or is not ours.
        if self.knows_node(node) {
            return Ok(());
        }
        let found = self
            .api()
            .call_as::<Value>(Actor::Cloudcore, Call::get(format!("/api/v1/nodes/{node}")))
            .await;
        match found {
            Ok(found) if labels::is_ours(&found) => Ok(()),
            Ok(_) => Err(WriteError::NotOurs { node: node.clone() }),
            // Before the Node exists the accepted key is the proof.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
