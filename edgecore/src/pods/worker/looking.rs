//! How a worker looks at its pod: once, and once more where the runtime may know the reason of an end later.

use std::time::Duration;

use tokio::time::sleep;

use super::Worker;
use crate::pods::lifecycle::Stage;
use crate::pods::observed::{self, PodObserved, Run};
use crate::runtime::RuntimeError;

/// How long the word of a lack of memory may come after the end that it explains. The kubelet, which looks
/// once a second, mostly has it by chance.
const LATE_WORD: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) async fn look(&mut self) -> Result<(), RuntimeError> {
        let runtime = self.kit.runtime.as_ref();
        let mut seen = observed::observe(runtime, &self.uid, &mut self.memory).await?;
        let killed = self.killed(&seen);
        if !killed.is_empty() {
            sleep(LATE_WORD).await;
            for id in &killed {
                self.memory.doubt(id);
            }
            seen = observed::observe(runtime, &self.uid, &mut self.memory).await?;
        }
        self.observed = seen;
        Ok(())
    }

    /// The containers that somebody killed since the last look, though the pod is to run.
    fn killed(&self, seen: &PodObserved) -> Vec<String> {
        let went_on = |id: &String| {
            let mut before = self.observed.containers.iter();
            before.any(|c| &c.id == id && c.run != Run::Exited)
        };
        let killed = seen.containers.iter().filter(|c| c.may_lack_memory());
        let ids = killed.map(|container| container.id.clone()).filter(went_on);
        match self.stage {
            Stage::Running => ids.collect(),
            Stage::Ending { .. } => Vec::new(),
        }
    }
}
