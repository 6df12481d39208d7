//! The images of a pod's containers: sought while the sandbox is made, or when a container is to start.
//!
//! Each is sought by a task of its own: it holds one of the node's few turns to pull, and must come to its end while
//! the worker does something else. One that does not come at once is not waited for in place: an hour may pass, and who
//! runs already is probed, told and killed meanwhile. Its container starts when it has come, and those that start after
//! it wait for that too, as with the kubelet: one may count on what another does before it.

use std::collections::BTreeMap;
use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::select_all;
use k8s_cri::v1::PodSandboxConfig;
use k8s_openapi::api::core::v1::Container;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Worker;
use super::act::field;
use super::ground::Sought;
use super::permit::PATIENCE;
use crate::pods::events::Tone;
use crate::pods::images::{ImageError, ImageEvent, ImageWish, PresentImage};
use crate::pods::lifecycle::{Plan, Step, backoff_key};

/// An image that a container needs, and that may be there before anybody asks for it.
struct Image {
    sought: Sought<PresentImage, ImageError>,
    since: Instant,
    /// Its container could start but for it.
    awaited: bool,
}

impl Image {
    fn result(&self) -> Option<Result<PresentImage, ImageError>> {
        self.sought.clone().now_or_never()
    }
}

/// The images that are sought, by container and its definition. Each result is used once.
#[derive(Default)]
pub(super) struct Pulling {
    images: BTreeMap<String, Image>,
}

impl Pulling {
    /// Whether a container waits for its image.
    pub(super) fn is_awaited(&self) -> bool {
        self.images.values().any(|image| image.awaited)
    }

    /// Ends when an image that a container waits for has come, or has failed to; once for each.
    pub(super) async fn come(&mut self) {
        let mut awaited: Vec<&mut Image> = self.images.values_mut().filter(|i| i.awaited).collect();
        if awaited.is_empty() {
            return pending().await;
        }
        let (_, at, _) = select_all(awaited.iter().map(|image| image.sought.clone())).await;
        awaited[at].awaited = false;
    }

    /// Seeks no longer what none of these containers needs.
    pub(super) fn keep_for<'a>(&mut self, containers: impl Iterator<Item = &'a Container>) {
        let keys: Vec<String> = containers.map(backoff_key).collect();
        self.images.retain(|key, _| keys.contains(key));
    }
}

impl Worker {
    /// Begins to seek a container's image, unless that is under way.
    pub(super) fn seek_ahead(&mut self, container: &Container, sandbox: &PodSandboxConfig) {
        let key = backoff_key(container);
        let failed = |image: &Image| matches!(image.result(), Some(Err(_)));
        if self.ahead.pulling.images.get(&key).is_none_or(failed) {
            let image = self.seek_image(container, sandbox);
            self.ahead.pulling.images.insert(key, image);
        }
    }

    /// The container's image, sought before or now. Nothing where it does not come soon: then it is awaited.
    pub(super) async fn image(
        &mut self,
        container: &Container,
        sandbox: &PodSandboxConfig,
    ) -> Option<Result<PresentImage, ImageError>> {
        let key = backoff_key(container);
        let ahead = self.ahead.pulling.images.remove(&key);
        let mut image = ahead.unwrap_or_else(|| self.seek_image(container, sandbox));
        if let Some(result) = image.result() {
            return Some(result);
        }
        self.permit = None;
        let soon = timeout_at(image.since + PATIENCE, image.sought.clone()).await;
        if soon.is_err() {
            image.awaited = true;
            self.ahead.pulling.images.insert(key, image);
        }
        soon.ok()
    }

    /// Takes out of the plan who waits for an image, and who would start for the first time after that: who has run in
    /// this sandbox does not stay away for another's image.
    pub(super) fn hold_for_images(&mut self, plan: &mut Plan) {
        let pod = &self.order.desired.pod;
        let observed = &self.observed;
        let images = &mut self.ahead.pulling.images;
        let mut held = false;
        plan.steps.retain(|step| {
            let Step::Start(start) = step else { return true };
            let Some(container) = start.place.of(pod) else {
                return !held;
            };
            let mut own = false;
            if let Some(image) = images.get_mut(&backoff_key(container))
                && image.since + PATIENCE <= Instant::now()
            {
                own = image.result().is_none();
                image.awaited = own;
            }
            held |= own;
            let again = observed
                .latest(&container.name)
                .is_some_and(|seen| seen.sandbox == start.sandbox);
            !own && (again || !held)
        });
    }

    fn seek_image(&self, container: &Container, sandbox: &PodSandboxConfig) -> Image {
        let (kit, desired) = (Arc::clone(&self.kit), Arc::clone(&self.order.desired));
        let (container, sandbox) = (container.clone(), sandbox.clone());
        let sought = on_its_own(async move {
            let (pod, field) = (&desired.pod, field(&desired.pod, &container.name));
            let tell = |event: ImageEvent| {
                let tone = if event.warning {
                    Tone::Warning
                } else {
                    Tone::Normal
                };
                kit.events
                    .container(pod, &field, (tone, event.reason, &event.message));
            };
            let secrets = kit.pull_secrets(pod);
            let wish = ImageWish {
                pod,
                container: &container,
                sandbox: &sandbox,
                secrets: &secrets,
            };
            kit.images.ensure(wish, &tell).await
        });
        Image {
            sought,
            since: Instant::now(),
            awaited: false,
        }
    }
}

/// Work that goes on whoever waits for it, until nobody holds it any more.
fn on_its_own<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Sought<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    let mut task = JoinSet::new();
    task.spawn(work);
    async move {
        match task
            .join_next()
            .await
            .map(|ended| ended.map_err(tokio::task::JoinError::try_into_panic))
        {
            Some(Ok(result)) => result,
            Some(Err(Ok(panic))) => resume_unwind(panic),
            // Aborted: the process ends.
            Some(Err(Err(_))) | None => pending().await,
        }
    }
    .boxed()
    .shared()
}
