//! Where the built parts lie: binaries, CNI plugins and images made by `make setup`.
//!
//! Builds nothing itself. **Invariant:** what is missing is named together with the command that
//! brings it; no test goes on without it.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{command::run, machine::PLUGINS};

/// The cache's directory and what is expected in it.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// What Debian has comes first.
    old: bool,
}

impl Cache {
    /// `$TOMBOLO_CACHE`, or `tombolo` in `$XDG_CACHE_HOME` or `~/.cache`; as setup.sh has it.
    pub fn open() -> Result<Self> {
        let set = |name| {
            env::var_os(name)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        let root = match (set("TOMBOLO_CACHE"), set("XDG_CACHE_HOME")) {
            (Some(path), _) => path,
            (None, Some(caches)) => caches.join("tombolo"),
            (None, None) => home()?.join(".cache/tombolo"),
        };
        ensure!(root.is_dir(), "{} is not there: run `make setup`", root.display());
        Ok(Self { root, old: false })
    }

    /// The same, with the older containerd and etcd that Debian has.
    pub fn older(&self) -> Result<Self> {
        let root = self.root.clone();
        present(root.join("old")).map(|_| Self { root, old: true })
    }

    /// Whether what Debian has comes first.
    pub const fn is_old(&self) -> bool {
        self.old
    }

    /// The directories of the binaries, for a search path.
    pub fn path(&self) -> String {
        let dirs: &[&str] = if self.old { &["old", "bin"] } else { &["bin"] };
        let dirs = dirs.iter().map(|dir| self.root.join(dir).display().to_string());
        dirs.collect::<Vec<_>>().join(":")
    }

    /// The directory of the CNI plugins, which each machine has for itself.
    pub fn cni(&self) -> Result<PathBuf> {
        present(PathBuf::from(PLUGINS))
    }

    /// The directory with the kernel and the disk of the virtual machine.
    pub fn vm(&self) -> Result<PathBuf> {
        let dir = self.root.join("vm");
        for part in ["vmlinuz", "initramfs", "root.ext4"] {
            present(dir.join(part))?;
        }
        Ok(dir)
    }

    /// A binary of the cache.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let old = self.root.join("old").join(name);
        if self.old && old.exists() {
            return Ok(old);
        }
        present(self.root.join("bin").join(name))
    }

    /// An image archive of the cache.
    pub fn image(&self, name: &str) -> Result<Archive> {
        Archive::open(present(self.root.join("images").join(format!("{name}.tar")))?)
    }
}

fn home() -> Result<PathBuf> {
    env::home_dir().context("no home directory: set TOMBOLO_CACHE")
}

fn present(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.exists(), "{} is not there: run `make setup`", path.display());
    Ok(path)
}

/// A docker archive and the first name it carries.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Where it lies.
    pub path: PathBuf,
    /// The image's name, tag included.
    pub tag: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    repo_tags: Vec<String>,
}

impl Archive {
    /// Reads the archive's own list for the image's name.
    pub fn open(path: PathBuf) -> Result<Self> {
        let archive = path.to_string_lossy().into_owned();
        let manifest = run("tar", ["-xOf", &archive, "manifest.json"])?;
        let tag = first_tag(&manifest).with_context(|| format!("{archive} names no image"))?;
        Ok(Self { path, tag })
    }

    /// The archive's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn first_tag(manifest: &str) -> Result<String> {
    let entries: Vec<Entry> = serde_json::from_str(manifest)?;
    entries
        .into_iter()
        .flat_map(|entry| entry.repo_tags)
        .next()
        .context("no tag")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_part_is_named_with_its_remedy() {
        let root = PathBuf::from("/nonexistent");
        let error = Cache { root, old: false }
            .program("etcd")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/bin/etcd") && error.contains("make setup"),
            "{error}"
        );
    }

    #[test]
    fn the_first_tag_of_an_archive_is_its_name() {
        let manifest = r#"[{"Config":"c.json","RepoTags":["registry.k8s.io/pause:3.10"],"Layers":[]}]"#;
        assert_eq!(first_tag(manifest).unwrap(), "registry.k8s.io/pause:3.10");
    }
}
