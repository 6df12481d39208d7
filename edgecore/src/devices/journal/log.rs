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
                    .is_some_and(|kind| kind == "log" || kind == "new")
            {
                fs::remove_file(other)?;
            }
        }
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let mut recalled = Recalled {
            is_from_log: true,
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
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
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
        fs::rename(&new, &path)?;
        buffer.clear();
        Ok(Self {
            path,
            file,
            len,
            rewrite_at: (len * GROWTH).max(LEAST),
            buffer,
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

    /// Takes the log away: what it lacks would make the rest a lie.
    pub(crate) fn abandon(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::error!(path = %self.path.display(), %error, "an incomplete journal cannot be removed");
        }
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn path(dir: &Path, boot: &str) -> PathBuf {
    dir.join(format!("{boot}.log"))
}
