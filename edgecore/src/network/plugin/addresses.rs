//! Who has which address: one symbolic link each, named by the address, leading to its holder.
//!
//! `ls -l` shows them. A link is made whole or not at all, and only where there is none: two pods that come at once
//! need no lock. As an address would be given to another pod when the first's connections
//! are not over everywhere, the search begins behind the one that was given last.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use super::answer::PluginError;
use crate::network::pod_cidr::PodCidr;

/// The link that leads to the address which was given last. No holder has such a name.
const LAST: &str = "last";

/// The directory in which addresses are handed out.
#[derive(Debug)]
pub(super) struct Addresses {
    dir: PathBuf,
}

impl Addresses {
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn failed(&self, error: io::Error) -> PluginError {
        let dir = self.dir.clone();
        PluginError::Addresses { dir, error }
    }

    /// Gives an address of `range` to `owner`: not the first, which is the bridge's.
    pub(super) fn take(&self, range: PodCidr, owner: &str) -> Result<Ipv4Addr, PluginError> {
        let failed = |error| self.failed(error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(failed)?;
        let last = fs::read_link(self.dir.join(LAST)).ok();
        let last = last.and_then(|last| last.to_str()?.parse().ok());
        for address in behind(range, last) {
            match symlink(owner, self.dir.join(address.to_string())) {
                Ok(()) => {
                    self.note(address);
                    return Ok(address);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(PluginError::NoAddress {
            range,
            dir: self.dir.clone(),
        })
    }

    /// Without it the search begins elsewhere, and finds what is free all the same.
    fn note(&self, address: Ipv4Addr) {
        let draft = self.dir.join(format!("{LAST}.{address}"));
        let noted = symlink(address.to_string(), &draft);
        let _ = noted.and_then(|()| fs::rename(&draft, self.dir.join(LAST)));
    }

    /// Takes back what `owner` has; fine when that is nothing. The runtime may ask twice at once, and the second is not
    /// to take from whoever got the address after the first.
    pub(super) fn give_back(&self, owner: &str) -> Result<(), PluginError> {
        let failed = |error| self.failed(error);
        let dir = match File::open(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => dir.map_err(failed)?,
        };
        dir.lock().map_err(failed)?;
        while let Some(address) = self.of(owner)? {
            fs::remove_file(self.dir.join(address.to_string())).map_err(failed)?;
        }
        Ok(())
    }

    /// What `owner` has.
    pub(super) fn of(&self, owner: &str) -> Result<Option<Ipv4Addr>, PluginError> {
        let failed = |error| self.failed(error);
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let address = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let is_its = || fs::read_link(entry.path()).is_ok_and(|holder| holder.as_os_str() == owner);
            if address.is_some() && is_its() {
                return Ok(address);
            }
        }
        Ok(None)
    }
}

/// The addresses of pods, each once, from the one behind `last` on.
fn behind(range: PodCidr, last: Option<Ipv4Addr>) -> impl Iterator<Item = Ipv4Addr> {
    let (first, end) = (u32::from(range.first()) + 1, u32::from(range.last()));
    let begin = last
        .map(|last| u32::from(last) + 1)
        .filter(|next| (first..end).contains(next))
        .unwrap_or(first);
    (begin..end).chain(first..begin).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tombolo-addresses-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn an_address_is_given_again_only_after_all_others() {
        let addresses = Addresses::at(&dir("turns"));
        // .1 is the bridge's and .15 the broadcast's.
        let range = "10.86.0.0/28".parse().unwrap();
        for (pod, address) in ["a", "b", "c"]
            .into_iter()
            .zip(["10.86.0.2", "10.86.0.3", "10.86.0.4"])
        {
            assert_eq!(addresses.take(range, pod).unwrap().to_string(), address);
        }
        addresses.give_back("b").unwrap();
        addresses.give_back("b").unwrap();
        assert_eq!(addresses.of("b").unwrap(), None);
        for last in 5..=14 {
            assert_eq!(
                addresses.take(range, "d").unwrap(),
                Ipv4Addr::new(10, 86, 0, last)
            );
        }
        assert_eq!(
            addresses.take(range, "e").unwrap(),
            Ipv4Addr::new(10, 86, 0, 3),
            "round the end, to what is free"
        );
        let full = addresses.take(range, "f").unwrap_err().to_string();
        assert!(
            full.contains("10.86.0.0/28") && full.contains("--pod-cidr"),
            "{full}"
        );

        addresses.give_back("d").unwrap();
        assert_eq!(addresses.of("d").unwrap(), None, "all that it had");
        assert_eq!(addresses.of("a").unwrap(), Some(Ipv4Addr::new(10, 86, 0, 2)));
        fs::remove_dir_all(&addresses.dir).unwrap();
    }

    #[test]
    fn pods_that_come_at_once_get_different_addresses() {
        let addresses = Addresses::at(&dir("crowd"));
        let range: PodCidr = "10.86.0.0/24".parse().unwrap();
        let got: std::collections::BTreeSet<Ipv4Addr> = std::thread::scope(|scope| {
            let one = |pod: u32| addresses.take(range, &format!("pod-{pod}")).unwrap();
            let all: Vec<_> = (0..40).map(|pod| scope.spawn(move || one(pod))).collect();
            all.into_iter().map(|pod| pod.join().unwrap()).collect()
        });
        assert_eq!(got.len(), 40);
        fs::remove_dir_all(&addresses.dir).unwrap();
    }

    #[test]
    fn the_search_begins_anew_in_another_range() {
        let last = Some(Ipv4Addr::new(10, 86, 0, 9));
        let first = |range: &str, last| behind(range.parse().unwrap(), last).next().unwrap().to_string();
        assert_eq!(first("10.86.0.0/28", last), "10.86.0.10");
        assert_eq!(first("10.99.0.0/28", last), "10.99.0.2");
        assert_eq!(
            first("10.86.0.0/28", Some(Ipv4Addr::new(10, 86, 0, 14))),
            "10.86.0.2"
        );
        assert_eq!(behind("10.86.0.0/28".parse().unwrap(), last).count(), 13);
    }
}
