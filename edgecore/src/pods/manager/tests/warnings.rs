//! What is warned of.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;

/// The lines of this thread's log that are warnings, or worse.
#[derive(Clone, Default)]
pub(super) struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    /// Listens until the guard is dropped.
    pub(super) fn heard() -> (Self, DefaultGuard) {
        let warnings = Self::default();
        let kept = warnings.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || kept.clone())
            .finish();
        (warnings, tracing::subscriber::set_default(subscriber))
    }

    /// Those that contain these words.
    pub(super) fn with(&self, words: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains(words));
        lines.map(str::to_owned).collect()
    }
}

impl std::io::Write for Warnings {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
