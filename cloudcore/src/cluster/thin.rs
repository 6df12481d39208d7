//! Just enough of an object to know whose it is, borrowed from the bytes it came in.
//!
//! What it is: names, revision and the few fields that decide routing. What it is not: a typed
//! object; the body is never built.

use std::borrow::Cow;

use protocol::object::Revision;
use serde::Deserialize;

/// The metadata of any object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ThinMeta<'a> {
    #[serde(borrow, default)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    /// As text it sorts as it came to be.
    #[serde(borrow, default)]
    pub(super) creation_timestamp: Cow<'a, str>,
    #[serde(borrow, default)]
    annotations: Option<ThinAnnotations<'a>>,
}

#[derive(Debug, Deserialize)]
struct ThinAnnotations<'a> {
    #[serde(borrow, default, rename = "k8s.io/initial-events-end")]
    initial_events_end: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "kubernetes.io/config.mirror")]
    mirror: Option<Cow<'a, str>>,
}

impl ThinMeta<'_> {
    /// The revision; 0 when the server gave none that is a number.
    pub(super) fn revision(&self) -> Revision {
        Revision(self.resource_version.parse().unwrap_or(0))
    }

    /// Whether this pod only mirrors one that its node runs by itself.
    pub(super) fn is_mirror(&self) -> bool {
        self.annotations.as_ref().is_some_and(|all| all.mirror.is_some())
    }

    /// Whether this bookmark ends a streaming list.
    pub(super) fn ends_list(&self) -> bool {
        self.annotations
            .as_ref()
            .is_some_and(|all| all.initial_events_end.as_deref() == Some("true"))
    }
}

/// Any object, with nothing but its metadata.
#[derive(Debug, Deserialize)]
pub(super) struct Thin<'a> {
    #[serde(borrow)]
    pub(super) metadata: ThinMeta<'a>,
}

/// A pod, with the node it is bound to.
#[derive(Debug, Deserialize)]
pub(super) struct ThinPod<'a> {
    #[serde(borrow)]
    pub(super) metadata: ThinMeta<'a>,
    #[serde(borrow)]
    pub(super) spec: ThinPodSpec<'a>,
}

/// The part of a pod's spec that decides whose it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ThinPodSpec<'a> {
    #[serde(borrow, default)]
    pub(super) node_name: Cow<'a, str>,
}
