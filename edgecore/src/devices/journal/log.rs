//! The log on tmpfs: append, read back, write anew when it has grown.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Line, Recalled};

/// A log below this is never written anew.
const LEAST: u64 = 4 * 1024 * 1024;
/// A log is written anew when it has grown by this factor.
const GROWTH: u64 = 3;
/// The extension of a log that lacks what came last.
const LOST: &str = "lost";

/// The log of this boot, open.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Up to here every line is whole.
    len: u64,
    /// Beyond here it is written anew.
    rewrite_at: u64,
    buffer: Vec<u8>,
}

/// A log that could not be written any more: all but what came last.
#[derive(Debug)]
pub(crate) struct Lost(PathBuf);

/// The kernel's mark of this boot.
pub(crate) fn boot_id(root: &Path) -> io::Result<String> {
    let text = fs::read_to_string(root.join("proc/sys/kernel/random/boot_id"))?;
    Ok(text.trim().to_owned())
}

impl Log {
    /// What the log of this boot says; none if this is the first start in it. Logs of other boots
    /// are removed: what they know is on flash, or was lost with the power.
    pub(crate) fn read(dir: &Path, boot: &str) -> io::Result<Option<Recalled>> {
        make(dir)?;
        let path = path(dir, boot);
        for entry in fs::read_dir(dir)?.flatten() {
            let other = entry.path();
            if other != path
                && other
                    .extension()
                    .is_some_and(|kind| kind == "log" || kind == "new" || kind == LOST)
                && (other != path.with_extension(LOST) || path.exists())
            {
                fs::remove_file(other)?;
            }
        }
        let (bytes, is_whole) = match (open(&path)?, open(&path.with_extension(LOST))?) {
            (Some(bytes), _) => (bytes, true),
            (None, Some(bytes)) => (bytes, false),
            (None, None) => return Ok(None),
        };
        let mut recalled = Recalled {
            is_from_log: true,
            is_behind: !is_whole,
            ..Recalled::default()
        };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match Line::decode(line) {
                Some(line) => recalled.fold(line),
                None => recalled.skipped += 1,
            }
        }
        Ok(Some(recalled))
    }

    /// A log that holds these lines and nothing else; the old one stays if it cannot be written.
    pub(crate) fn write<'a>(
        dir: &Path,
        boot: &str,
        lines: impl Iterator<Item = Line<'a>>,
    ) -> io::Result<Self> {
        make(dir)?;
        let path = path(dir, boot);
        let new = path.with_extension("new");
        let written = write_lines(&new, lines).and_then(|written| {
            fs::rename(&new, &path)?;
            Ok(written)
        });
        let (file, len) = match written {
            Ok(written) => written,
            Err(error) => {
                // It takes the room that the next attempt needs.
                drop(fs::remove_file(&new));
                return Err(error);
            }
        };
        Lost(path.with_extension(LOST)).remove();
        Ok(Self {
            path,
            file,
            len,
            rewrite_at: (len * GROWTH).max(LEAST),
            buffer: Vec::new(),
        })
    }

    /// Appends lines, all or none.
    pub(crate) fn append<'a>(&mut self, lines: impl Iterator<Item = Line<'a>>) -> io::Result<()> {
        self.buffer.clear();
        for line in lines {
            line.encode(&mut self.buffer)?;
        }
        if let Err(error) = self.file.write_all(&self.buffer) {
            // A line that was cut short would spoil the next one.
            self.file.set_len(self.len)?;
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += self.buffer.len() as u64;
        if self.buffer.capacity() > 1024 * 1024 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Whether it should be written anew.
    pub(crate) const fn has_grown(&self) -> bool {
        self.len > self.rewrite_at
    }

    /// Puts the log aside: it lacks something, and flash has not yet what else it says.
    pub(crate) fn lose(self) -> Lost {
        let lost = self.path.with_extension(LOST);
        if let Err(error) = fs::rename(&self.path, &lost) {
            tracing::error!(path = %self.path.display(), %error, "an incomplete journal cannot be put aside");
            // To be read as if it had no gap would be worse.
            Lost(self.path).remove();
        }
        Lost(lost)
    }

    /// Lets every further append fail, as on a full disk.
    #[cfg(test)]
    pub(crate) fn fill_disk(&mut self) {
        self.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    }
}

impl Lost {
    /// Takes it away: flash has all that it says.
    pub(crate) fn remove(self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %self.0.display(), %error, "an incomplete journal cannot be removed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// A new file with these lines, and its length.
fn write_lines<'a>(path: &Path, lines: impl Iterator<Item = Line<'a>>) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    let (mut buffer, mut len) = (Vec::new(), 0);
    for line in lines {
        line.encode(&mut buffer)?;
        if buffer.len() >= 256 * 1024 {
            file.write_all(&buffer)?;
            len += buffer.len() as u64;
            buffer.clear();
        }
    }
    file.write_all(&buffer)?;
    len += buffer.len() as u64;
    Ok((file, len))
}

fn open(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn path(dir: &Path, boot: &str) -> PathBuf {
    dir.join(format!("{boot}.log"))
}
