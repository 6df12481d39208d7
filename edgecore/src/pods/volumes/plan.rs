//! What is to be done for one volume, decided before the disk is touched.

use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::mount::MsFlags;

use super::super::spec;
use super::MountedVolume;
use super::atomic::{self, Payload};
use super::empty_dir::EmptyDir;
use super::file::{self, Access};
use super::{host_path, mounts};

/// One volume of one pod.
pub(super) struct Planned {
    pub(super) name: String,
    fs_group: Option<u32>,
    what: What,
}

enum What {
    EmptyDir(EmptyDir),
    HostPath {
        path: PathBuf,
        kind: String,
    },
    Files {
        plugin: &'static str,
        payload: Payload,
        in_memory: bool,
    },
}

impl Planned {
    /// Decides; the payload is that of a volume made of files.
    pub(super) fn new(
        pod: &Pod,
        volume: &Volume,
        payload: Option<Payload>,
        memory: u64,
    ) -> Result<Self, String> {
        let what = if let Some(source) = &volume.empty_dir {
            What::EmptyDir(EmptyDir::of(source, pod, memory))
        } else if let Some(source) = &volume.host_path {
            What::HostPath {
                path: absolute(&source.path)?,
                kind: source.type_.clone().unwrap_or_default(),
            }
        } else {
            let (plugin, in_memory) = plugin(volume);
            What::Files {
                plugin,
                payload: payload.ok_or("this type of volume is not supported")?,
                in_memory,
            }
        };
        Ok(Self {
            name: volume.name.clone(),
            fs_group: spec::fs_group(pod),
            what,
        })
    }

    /// Brings it to disk. The error is in the kubelet's words.
    pub(super) fn carry_out(&self, pod_dir: &Path) -> Result<MountedVolume, String> {
        let told = |error: io::Error| error.to_string();
        let place = |plugin: &str| {
            pod_dir
                .join("volumes")
                .join(format!("kubernetes.io~{plugin}"))
                .join(&self.name)
        };
        match &self.what {
            What::HostPath { path, kind } => {
                host_path::check(path, kind)?;
                Ok(MountedVolume {
                    host_path: path.clone(),
                    read_only: false,
                })
            }
            What::EmptyDir(dir) => {
                let host_path = place("empty-dir");
                dir.make(&host_path, self.fs_group).map_err(told)?;
                Ok(MountedVolume {
                    host_path,
                    read_only: false,
                })
            }
            What::Files {
                plugin,
                payload,
                in_memory,
            } => {
                let host_path = place(plugin);
                self.make_files_dir(&host_path, *in_memory).map_err(told)?;
                atomic::write(&host_path, payload, self.fs_group).map_err(|error| error.told())?;
                Ok(MountedVolume {
                    host_path,
                    read_only: true,
                })
            }
        }
    }

    fn make_files_dir(&self, path: &Path, in_memory: bool) -> io::Result<()> {
        std::fs::create_dir_all(path)?;
        if in_memory {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mounts::ensure_tmpfs(path, flags, "mode=0755")?;
        }
        let access = Access::of_volume(self.fs_group);
        let access = if in_memory { access.on_tmpfs() } else { access };
        file::set_access(file::open_dir(path)?, access)
    }
}

/// The kubelet's name of the type, and whether the kubelet keeps it in memory: most may hold what must not
/// rest on disk.
fn plugin(volume: &Volume) -> (&'static str, bool) {
    if volume.config_map.is_some() {
        ("configmap", false)
    } else if volume.secret.is_some() {
        ("secret", true)
    } else if volume.downward_api.is_some() {
        ("downward-api", true)
    } else {
        ("projected", true)
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && !climbs {
        return Ok(path.to_owned());
    }
    Err(format!("invalid path {text:?}: must be absolute, without '..'"))
}
