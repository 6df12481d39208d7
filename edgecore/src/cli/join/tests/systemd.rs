//! A service manager of a few lines.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use parking_lot::Mutex;

use crate::cli::record::testing;

/// A service manager that can be down, or refuse one thing.
#[derive(Default)]
pub(super) struct Systemd {
    pub(super) asked: Mutex<Vec<String>>,
    pub(super) is_down: AtomicBool,
    pub(super) is_enabled: AtomicBool,
    pub(super) refuses: Mutex<Option<&'static str>>,
}

impl Systemd {
    pub(super) fn ask(&self, args: &[&str]) -> anyhow::Result<()> {
        testing::step();
        self.asked.lock().push(args.join(" "));
        if self.is_down.load(Ordering::Relaxed) {
            bail!("Failed to connect to bus");
        }
        if *self.refuses.lock() == Some(args[0]) {
            bail!("Job failed");
        }
        match args[0] {
            "enable" => self.is_enabled.store(true, Ordering::Relaxed),
            "is-enabled" if !self.is_enabled.load(Ordering::Relaxed) => bail!("disabled"),
            _ => {}
        }
        Ok(())
    }
}
