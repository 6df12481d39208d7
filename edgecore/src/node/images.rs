//! Where images lie, when that is not on the file system of the pods.
//!
//! What containers write beside their volumes lies there too. The runtime is asked until it has answered once: it
//! cannot move its images while it runs.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::runtime::{Runtime, RuntimeError};

/// How long the runtime may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// The directory of the images. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct ImagesApart(Arc<OnceCell<Option<PathBuf>>>);

impl ImagesApart {
    /// Asks the runtime, unless it has answered before. `pods` is the directory whose file system pods fill.
    pub async fn learn(&self, runtime: &dyn Runtime, pods: &Path) {
        let ask = self.0.get_or_try_init(|| find(runtime, pods));
        match timeout(PATIENCE, ask).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the runtime does not say where images lie"),
            Err(_) => tracing::debug!("the runtime takes its time to say where images lie"),
        }
    }

    /// The directory; nothing where images share the file system of the pods, or while it is not known.
    pub fn dir(&self) -> Option<&Path> {
        self.0.get()?.as_deref()
    }
}

async fn find(runtime: &dyn Runtime, pods: &Path) -> Result<Option<PathBuf>, RuntimeError> {
    let info = runtime.image_fs_info().await?;
    let place = info.image_filesystems.into_iter().find_map(|fs| fs.fs_id);
    let images = place.map(|id| PathBuf::from(id.mountpoint));
    let pods = pods.ancestors().find_map(device);
    let apart = |dir: &PathBuf| device(dir).is_some_and(|device| pods.is_some_and(|pods| pods != device));
    Ok(images.filter(apart))
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.dev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    async fn of(images: &str, pods: &str) -> Option<PathBuf> {
        let (runtime, apart) = (FakeRuntime::with_images(&[]), ImagesApart::default());
        runtime.images_at(images);
        apart.clone().learn(&runtime, Path::new(pods)).await;
        apart.dir().map(Path::to_owned)
    }

    #[tokio::test]
    async fn images_lie_apart_when_they_are_on_another_file_system() {
        assert_eq!(
            of("/proc", "/var/lib/none/pods").await,
            Some(PathBuf::from("/proc"))
        );
        assert_eq!(of("/", "/var/lib/none/pods").await, None);
        assert_eq!(of("/nowhere", "/").await, None, "it cannot be measured");
    }

    #[tokio::test]
    async fn a_runtime_that_is_down_is_asked_again() {
        let (runtime, apart) = (FakeRuntime::with_images(&[]), ImagesApart::default());
        runtime.images_at("/proc");
        runtime.set_down(true);
        apart.learn(&runtime, Path::new("/")).await;
        assert_eq!(apart.dir(), None);
        runtime.set_down(false);
        for _ in 0..2 {
            apart.learn(&runtime, Path::new("/")).await;
        }
        assert_eq!(apart.dir(), Some(Path::new("/proc")));
        let asked = runtime
            .calls()
            .into_iter()
            .filter(|call| call.starts_with("ImageFsInfo"));
        assert!(asked.count() <= 2, "what is known is not asked again");
    }
}
