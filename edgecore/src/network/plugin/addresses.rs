//! Who has which address: one symbolic link each, named by the address, leading to its holder.
//!
//! `ls -l` shows them. A link is made whole or not at all, and only where there is none: two pods that come at once
//! need no lock. As an address would be given to another pod when the first's connections
//! are not over everywhere, the search begins behind the one that was given last.
//!
//! The directory may get lost while pods live (somebody empties `/run`). Where there is none, it is put in its place
//! with what the cables say; such a link leads to the cable's name. After a boot there are no cables. Whoever was given
//! an address before, and had no cable yet, looks again when it has one: then either sees the other.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::{process, thread};

use super::answer::PluginError;
use crate::network::pod_cidr::PodCidr;

/// What is known of cables.
pub(super) trait Cables {
    /// The addresses that have one, each with its end at the bridge.
    fn living(&self) -> io::Result<Vec<(Ipv4Addr, String)>>;

    /// Whether this one is not there any more. Where that cannot be told it is there: an address is rather lost than given
    /// to two.
    fn is_gone(&self, cable: &str) -> bool;
}

/// The names under which a pod holds its address.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// Its sandbox and device.
    pub(super) owner: String,
    /// The end of its cable at the bridge.
    pub(super) cable: String,
}

impl Holder {
    /// All of them.
    pub(super) fn names(&self) -> [&str; 2] {
        [&self.owner, &self.cable]
    }
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
        cables: &dyn Cables,
    ) -> Result<Ipv4Addr, PluginError> {
        self.is_there_or_begins(cables)?;
        let last = fs::read_link(self.dir.join(LAST)).ok();
        let last = last.and_then(|last| last.to_str()?.parse().ok());
        for address in behind(range, last) {
            match symlink(owner, self.dir.join(address.to_string())) {
                Ok(()) => {
                    self.note(address);
                    return Ok(address);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(PluginError::NoAddress {
            range,
            dir: self.dir.clone(),
        })
    }

    /// Sees that `holder`, which has a cable now, has `address` still: the directory may have been lost since, and the
    /// cable was not there for whoever put it back.
    pub(super) fn keep(
        &self,
        holder: &Holder,
        address: Ipv4Addr,
        cables: &dyn Cables,
    ) -> Result<(), PluginError> {
        let link = self.dir.join(address.to_string());
        if leads_to(&link, &holder.names()) {
            return Ok(());
        }
        self.is_there_or_begins(cables)?;
        match symlink(&holder.owner, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // It may be there by the cable since a moment ago.
                let is_its = leads_to(&link, &holder.names());
                let dir = self.dir.clone();
                is_its.then_some(()).ok_or(PluginError::Taken { address, dir })
            }
            made => made.map_err(|error| self.failed(error)),
        }
    }

    fn is_there_or_begins(&self, cables: &dyn Cables) -> Result<(), PluginError> {
        if self.dir.is_dir() {
            return Ok(());
        }
        self.begin(cables).map_err(|error| self.failed(error))
    }

    /// Puts the directory in its place with all that it has to have: nobody may see it half full.
    fn begin(&self, cables: &dyn Cables) -> io::Result<()> {
        let draft = self.draft();
        let living = cables.living()?;
        let placed = fill(&draft, &living).and_then(|()| self.place(&draft));
        // Where it is in its place, nothing is left of it here.
        let _ = fs::remove_dir_all(&draft);
        placed?;
        // A pod that went meanwhile found no directory, and has nothing taken back.
        for (address, cable) in living.iter().filter(|(_, cable)| cables.is_gone(cable)) {
            // It would be missing until the next boot: no reason to turn this pod away.
            let _ = self.give_back_one(&[cable], *address);
        }
        Ok(())
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

    /// Takes back one address while one of these names has it, and leaves what else it has.
    pub(super) fn give_back_one(&self, names: &[&str], address: Ipv4Addr) -> Result<(), PluginError> {
        let Some(_lock) = self.lock()? else {
            return Ok(());
        };
        if leads_to(&self.dir.join(address.to_string()), names) {
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
            if address.is_some() && leads_to(&entry.path(), &holder.names()) {
                return Ok(address);
            }
        }
        Ok(None)
    }
}

/// Makes `draft` with a link for each address that has a cable.
fn fill(draft: &Path, living: &[(Ipv4Addr, String)]) -> io::Result<()> {
    // A process of the same number that was killed may have left one, with what was true then.
    match fs::remove_dir_all(draft) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(draft)?;
    for (address, holder) in living {
        match symlink(holder, draft.join(address.to_string())) {
            // Two cables say one address: either of them keeps it from others.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Ok(())
}

fn leads_to(link: &Path, names: &[&str]) -> bool {
    fs::read_link(link).is_ok_and(|to| names.iter().any(|name| to.as_os_str() == *name))
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
mod tests;
