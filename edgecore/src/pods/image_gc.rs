//! Images that nobody needs go when the disk fills.
//!
//! The kubelet's rules: above the high threshold unused images are removed, the one that was used longest ago
//! first, until the disk is below the low one; what came within the last two minutes stays, and so does what
//! the runtime has pinned. One rule more, for a node that may have no registry to ask: an image that a wanted
//! pod names stays, whether or not a container uses it now.
//!
//! [`ImageGc`] remembers and chooses; [`keep_room`] looks and removes.
//!
//! **Invariant:** where it is not known what is in use, nothing is removed; what the pods that are held need stays in
//! any case.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1 as api;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval_at};
use tracing::{info, warn};

use super::images::with_default_tag;
use super::seams::{PodSource, Report};
use super::spec;
use crate::node::Disk;
use crate::runtime::{Labels, Runtime, RuntimeError};

/// Between two looks, as the kubelet's.
const LOOK: Duration = Duration::from_mins(5);
/// What is younger may be about to be used.
const MIN_AGE: Duration = Duration::from_mins(2);
/// The high threshold at which no image goes.
const KEEP_ALL: u8 = 100;
/// How far below the high threshold the low one is, in percent.
const BAND: u64 = 5;
/// The image of sandboxes, by the last part of its name: older runtimes do not pin it, and no pod names it.
const SANDBOX_IMAGE: &str = "/pause:";

/// Of how full a disk is.
pub(super) type Measure = fn(&Path) -> Option<Disk>;

/// What removing images needs.
pub(super) struct Room {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) source: Arc<dyn PodSource>,
    pub(super) report: Arc<dyn Report>,
    /// Above so many percent images go; 100 keeps them all.
    pub(super) high_percent: u8,
    pub(super) measure: Measure,
}

/// Who asks for all the room that unused images take, and is told when it is made.
pub(super) type Plea = oneshot::Sender<()>;

/// Makes room when it is needed or asked for, for ever.
pub(super) async fn keep_room(room: Room, mut pleas: mpsc::Receiver<Plea>) {
    let mut gc = ImageGc::default();
    // What is here before the first pod was not pulled a moment ago. A failure only makes it look young.
    if let Ok(images) = room.runtime.list_images().await {
        gc.found(&images);
    }
    // Not at once: pods that start have the first word.
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    loop {
        let plea = tokio::select! {
            _ = look.tick() => None,
            Some(plea) = pleas.recv() => Some(plea),
        };
        let looked = match &plea {
            None => room.look(&mut gc).await,
            Some(_) => room.make_all(&mut gc).await,
        };
        if let Err(error) = looked {
            warn!(%error, "it is not known which images could go");
        }
        if let Some(plea) = plea {
            // Nobody may be waiting any more.
            let _ = plea.send(());
        }
    }
}

impl Room {
    async fn look(&self, gc: &mut ImageGc) -> Result<(), RuntimeError> {
        let (images, needed) = self.note(gc).await?;
        let Some(excess) = self.excess().await? else {
            return Ok(());
        };
        let freed = self
            .free(gc, (&images, needed), excess, self.source.pods_synced())
            .await?;
        if freed.is_some_and(|freed| freed < excess) {
            warn!(
                wanted = excess,
                ?freed,
                "the disk stays too full: no other image can go"
            );
        }
        Ok(())
    }

    /// Removes every image that may go, unless they are all to be kept.
    async fn make_all(&self, gc: &mut ImageGc) -> Result<(), RuntimeError> {
        if self.high_percent >= KEEP_ALL {
            return Ok(());
        }
        let (images, needed) = self.note(gc).await?;
        // Where pods would go for good instead, what the pods that are held need is enough to know: what only the
        // cluster knows of needs the link, and that brings its image too.
        let known = self.source.pods_synced() || self.source.unread().is_empty();
        self.free(gc, (&images, needed), u64::MAX, known).await.map(drop)
    }

    /// The images, and the ids of those that are in use.
    async fn note(&self, gc: &mut ImageGc) -> Result<(Vec<api::Image>, BTreeSet<String>), RuntimeError> {
        let images = self.runtime.list_images().await?;
        let containers = self.runtime.list_containers(Labels::new()).await?;
        let used = used(&images, &containers);
        gc.note(&images, &used, Instant::now());
        Ok((images, used))
    }

    /// Removes images in turn; says how many bytes that freed, or nothing when nothing could be said of what is
    /// wanted.
    async fn free(
        &self,
        gc: &ImageGc,
        (images, mut needed): (&[api::Image], BTreeSet<String>),
        bytes: u64,
        is_known: bool,
    ) -> Result<Option<u64>, RuntimeError> {
        // Only a list that the cluster has confirmed names all that is wanted.
        if !is_known {
            return Ok(None);
        }
        needed.extend(self.wanted().await?);
        let chosen = gc.choose(images, &needed, bytes, Instant::now());
        let mut freed = 0;
        for image in &chosen {
            match self.runtime.remove_image(&image.id).await {
                Ok(()) => {
                    info!(
                        image = name(image),
                        bytes = image.size,
                        "the disk fills: an unused image is removed"
                    );
                    freed += image.size;
                }
                Err(error) => warn!(image = name(image), %error, "an unused image resists"),
            }
        }
        Ok(Some(freed))
    }

    /// By how many bytes the disk of the images is too full; nothing below the high threshold.
    async fn excess(&self) -> Result<Option<u64>, RuntimeError> {
        let info = self.runtime.image_fs_info().await?;
        let place = info.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref());
        let disk = place.and_then(|id| (self.measure)(Path::new(&id.mountpoint)));
        Ok(disk.and_then(|disk| too_full(&disk, self.high_percent)))
    }

    /// The ids of the images that pods name which are wanted and run or will, as far as they are here. What has ended,
    /// an evicted pod for one, makes no use of its image any more.
    async fn wanted(&self) -> Result<BTreeSet<String>, RuntimeError> {
        let pods = self.source.pods().into_iter();
        let pods: Vec<_> = pods
            .filter(|desired| !self.report.is_over(&desired.pod))
            .collect();
        let containers = pods.iter().flat_map(|desired| spec::all_containers(&desired.pod));
        let names: BTreeSet<String> = containers
            .filter_map(|container| with_default_tag(container.image.as_deref()?).ok())
            .collect();
        let mut ids = BTreeSet::new();
        for name in names {
            ids.extend(self.runtime.image_status(&name).await?.map(|image| image.id));
        }
        Ok(ids)
    }
}

/// The ids of the images that containers were made from.
fn used(images: &[api::Image], containers: &[api::Container]) -> BTreeSet<String> {
    let named: BTreeSet<&str> = containers
        .iter()
        .flat_map(|container| {
            let asked = container.image.as_ref().map(|image| image.image.as_str());
            [
                Some(container.image_ref.as_str()),
                Some(container.image_id.as_str()),
                asked,
            ]
        })
        .flatten()
        .collect();
    let holds = |image: &api::Image| {
        let own = image.repo_tags.iter().chain(&image.repo_digests);
        own.chain([&image.id]).any(|own| named.contains(own.as_str()))
    };
    let used = images.iter().filter(|image| holds(image));
    used.map(|image| image.id.clone()).collect()
}

fn too_full(disk: &Disk, high_percent: u8) -> Option<u64> {
    let of = |percent: u64| disk.bytes / 100 * percent;
    let used = disk.bytes.saturating_sub(disk.bytes_free);
    let high = u64::from(high_percent.min(100));
    let exceeds = high < 100 && disk.bytes > 0 && used > of(high);
    exceeds.then(|| used.saturating_sub(of(high.saturating_sub(BAND))))
}

fn name(image: &api::Image) -> &str {
    image.repo_tags.first().unwrap_or(&image.id)
}

/// When an image was first seen (nothing: it was here before anybody looked), and when it was last in use.
#[derive(Clone, Copy, Debug)]
struct Known {
    since: Option<Instant>,
    used: Option<Instant>,
}

/// What is remembered of the images between two looks.
#[derive(Debug, Default)]
struct ImageGc {
    known: BTreeMap<String, Known>,
}

impl ImageGc {
    fn found(&mut self, images: &[api::Image]) {
        let old = Known {
            since: None,
            used: None,
        };
        self.known
            .extend(images.iter().map(|image| (image.id.clone(), old)));
    }

    fn note(&mut self, images: &[api::Image], used: &BTreeSet<String>, now: Instant) {
        self.known
            .retain(|id, _| images.iter().any(|image| &image.id == id));
        for image in images {
            let known = self.known.entry(image.id.clone()).or_insert(Known {
                since: Some(now),
                used: None,
            });
            if used.contains(&image.id) {
                known.used = Some(now);
            }
        }
    }

    /// Those to remove, in turn, to free so many bytes.
    fn choose<'a>(
        &self,
        images: &'a [api::Image],
        needed: &BTreeSet<String>,
        bytes: u64,
        now: Instant,
    ) -> Vec<&'a api::Image> {
        let known = |image: &api::Image| self.known.get(&image.id).copied();
        let may_go = |image: &&api::Image| {
            let settled = known(image).is_some_and(|k| k.since.is_none_or(|since| now >= since + MIN_AGE));
            let of_sandboxes = image.repo_tags.iter().any(|tag| tag.contains(SANDBOX_IMAGE));
            settled && !image.pinned && !of_sandboxes && !needed.contains(&image.id)
        };
        let mut candidates: Vec<_> = images.iter().filter(may_go).collect();
        candidates.sort_by_key(|image| known(image).map(|k| (k.used, k.since)));
        let mut freed = 0;
        candidates
            .into_iter()
            .take_while(|image| {
                let more = freed < bytes;
                freed += image.size;
                more
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
