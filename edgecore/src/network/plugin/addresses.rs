//! Who has which address: one symbolic link each, named by the address, leading to its holder.
//!
//! `ls -l` shows them. A link is made whole or not at all, and only where there is none: two pods that come at once
//! need no lock. As an address would be given to another pod when the first's connections
//! are not over everywhere, the search begins behind the one that was given last.
//!
//! The directory may get lost while pods live (somebody empties `/run`). Where there is none, it is put in its place
//! with what the cables say; such a link leads to the cable's name. After a boot there are no cables.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::{process, thread};

use super::answer::PluginError;
use crate::network::pod_cidr::PodCidr;

/// The addresses that have a cable, each with its holder.
pub(super) type Living<'a> = &'a dyn Fn() -> io::Result<Vec<(Ipv4Addr, String)>>;

/// The names under which a pod holds its address.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// Its sandbox and device.
    pub(super) owner: String,
    /// The end of its cable at the bridge.
    pub(super) cable: String,
}

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
    pub(super) fn take(
        &self,
        range: PodCidr,
        owner: &str,
        living: Living<'_>,
    ) -> Result<Ipv4Addr, PluginError> {
        let failed = |error| self.failed(error);
        if !self.dir.is_dir() {
            self.begin(living).map_err(failed)?;
        }
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

    /// Puts the directory in its place with all that it has to have: nobody may see it half full.
    fn begin(&self, living: Living<'_>) -> io::Result<()> {
        let draft = self.draft();
        let placed = fill(&draft, living).and_then(|()| self.place(&draft));
        // Where it is in its place, nothing is left of it here.
        let _ = fs::remove_dir_all(&draft);
        placed
    }

    /// Where one process, and in tests one thread, makes the directory ready.
    fn draft(&self) -> PathBuf {
        let mut draft = self.dir.clone().into_os_string();
        draft.push(format!(".{}.{:?}", process::id(), thread::current().id()));
        PathBuf::from(draft)
    }

    fn place(&self, draft: &Path) -> io::Result<()> {
        match fs::rename(draft, &self.dir) {
            // Another pod that came at once was quicker, and has its address there.
            Err(error) if is_there(&error) => Ok(()),
            placed => placed,
        }
    }

    /// Without it the search begins elsewhere, and finds what is free all the same.
    fn note(&self, address: Ipv4Addr) {
        let draft = self.dir.join(format!("{LAST}.{address}"));
        let noted = symlink(address.to_string(), &draft);
        let _ = noted.and_then(|()| fs::rename(&draft, self.dir.join(LAST)));
    }

    /// Takes back what `holder` has; fine when that is nothing. The runtime may ask twice at once, and the second is not
    /// to take from whoever got the address after the first.
    pub(super) fn give_back(&self, holder: &Holder) -> Result<(), PluginError> {
        let Some(_lock) = self.lock()? else {
            return Ok(());
        };
        while let Some(address) = self.of(holder)? {
            self.free(address)?;
        }
        Ok(())
    }

    /// Takes back one address while `owner` has it, and leaves what else it has.
    pub(super) fn give_back_one(&self, owner: &str, address: Ipv4Addr) -> Result<(), PluginError> {
        let Some(_lock) = self.lock()? else {
            return Ok(());
        };
        let holder = fs::read_link(self.dir.join(address.to_string()));
        if holder.is_ok_and(|holder| holder.as_os_str() == owner) {
            self.free(address)?;
        }
        Ok(())
    }

    /// Whoever takes back holds it; nothing where there is no directory.
    fn lock(&self) -> Result<Option<File>, PluginError> {
        let failed = |error| self.failed(error);
        let dir = match File::open(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            dir => dir.map_err(failed)?,
        };
        dir.lock().map_err(failed)?;
        Ok(Some(dir))
    }

    fn free(&self, address: Ipv4Addr) -> Result<(), PluginError> {
        fs::remove_file(self.dir.join(address.to_string())).map_err(|error| self.failed(error))
    }

    /// What `holder` has.
    pub(super) fn of(&self, holder: &Holder) -> Result<Option<Ipv4Addr>, PluginError> {
        let failed = |error| self.failed(error);
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let address = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let names = [holder.owner.as_str(), &holder.cable];
            let is_its = || {
                fs::read_link(entry.path()).is_ok_and(|to| names.iter().any(|name| to.as_os_str() == *name))
            };
            if address.is_some() && is_its() {
                return Ok(address);
            }
        }
        Ok(None)
    }
}

/// Makes `draft` with a link for each address that has a cable.
fn fill(draft: &Path, living: Living<'_>) -> io::Result<()> {
    // A process of the same number that was killed may have left one, with what was true then.
    match fs::remove_dir_all(draft) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(draft)?;
    for (address, holder) in living()? {
        match symlink(holder, draft.join(address.to_string())) {
            // Two cables say one address: either of them keeps it from others.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Ok(())
}

/// Which of the two a file system says is its own affair.
fn is_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
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

    const NOBODY: Living<'static> = &|| Ok(Vec::new());

    fn holder(owner: &str) -> Holder {
        Holder {
            owner: owner.to_owned(),
            cable: format!("veth-{owner}"),
        }
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
            assert_eq!(addresses.take(range, pod, NOBODY).unwrap().to_string(), address);
        }
        addresses.give_back(&holder("b")).unwrap();
        addresses.give_back(&holder("b")).unwrap();
        assert_eq!(addresses.of(&holder("b")).unwrap(), None);
        for last in 5..=14 {
            assert_eq!(
                addresses.take(range, "d", NOBODY).unwrap(),
                Ipv4Addr::new(10, 86, 0, last)
            );
        }
        assert_eq!(
            addresses.take(range, "e", NOBODY).unwrap(),
            Ipv4Addr::new(10, 86, 0, 3),
            "round the end, to what is free"
        );
        let full = addresses.take(range, "f", NOBODY).unwrap_err().to_string();
        assert!(
            full.contains("10.86.0.0/28") && full.contains("--pod-cidr"),
            "{full}"
        );

        addresses.give_back(&holder("d")).unwrap();
        assert_eq!(addresses.of(&holder("d")).unwrap(), None, "all that it had");
        let of_a = Ipv4Addr::new(10, 86, 0, 2);
        assert_eq!(addresses.of(&holder("a")).unwrap(), Some(of_a));
        addresses.give_back_one("e", of_a).unwrap();
        assert_eq!(addresses.of(&holder("a")).unwrap(), Some(of_a), "it is not e's");
        addresses.give_back_one("a", of_a).unwrap();
        assert_eq!(addresses.of(&holder("a")).unwrap(), None);
        fs::remove_dir_all(&addresses.dir).unwrap();
    }

    #[test]
    fn pods_that_come_at_once_get_different_addresses() {
        let addresses = Addresses::at(&dir("crowd"));
        let range: PodCidr = "10.86.0.0/24".parse().unwrap();
        // The first of them to come finds no directory, and pods that live.
        let lived: Vec<_> = (2..20)
            .map(|last| (Ipv4Addr::new(10, 86, 0, last), format!("veth-{last}")))
            .collect();
        let living = || Ok(lived.clone());
        let got: std::collections::BTreeSet<Ipv4Addr> = std::thread::scope(|scope| {
            let living = &living;
            let one = |pod: u32| addresses.take(range, &format!("pod-{pod}"), living).unwrap();
            let all: Vec<_> = (0..40).map(|pod| scope.spawn(move || one(pod))).collect();
            all.into_iter().map(|pod| pod.join().unwrap()).collect()
        });
        assert_eq!(got.len(), 40);
        assert!(lived.iter().all(|(address, _)| !got.contains(address)));
        assert_eq!(addresses.of(&holder("7")).unwrap(), Some(lived[5].0));
        addresses.give_back(&holder("7")).unwrap();
        assert_eq!(addresses.of(&holder("7")).unwrap(), None);
        let beside = |entry: io::Result<fs::DirEntry>| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with(&format!("{}.", addresses.dir.file_name().unwrap().display()))
        };
        let mut all = fs::read_dir(addresses.dir.parent().unwrap()).unwrap();
        assert!(!all.any(beside), "no draft is left");
        fs::remove_dir_all(&addresses.dir).unwrap();
    }

    #[test]
    fn nothing_is_given_while_it_is_not_known_who_lives() {
        let addresses = Addresses::at(&dir("unknown"));
        let range = "10.86.0.0/28".parse().unwrap();
        let unknown = || Err(io::ErrorKind::PermissionDenied.into());
        assert!(addresses.take(range, "a", &unknown).is_err());
        assert!(!addresses.dir.exists());
    }

    #[test]
    fn two_cables_that_say_one_address_and_what_a_killed_process_left_keep_no_pod_from_its_own() {
        let addresses = Addresses::at(&dir("twins"));
        let draft = addresses.draft();
        fs::create_dir_all(&draft).unwrap();
        symlink("veth-killed", draft.join("10.86.0.3")).unwrap();
        let two = Ipv4Addr::new(10, 86, 0, 2);
        let living = || Ok(vec![(two, "veth-a".to_owned()), (two, "veth-b".to_owned())]);
        let range = "10.86.0.0/28".parse().unwrap();
        let given = addresses.take(range, "c", &living).unwrap();
        assert_eq!(given, Ipv4Addr::new(10, 86, 0, 3));
        assert_eq!(addresses.of(&holder("a")).unwrap(), Some(two));
        assert!(!draft.exists());
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
