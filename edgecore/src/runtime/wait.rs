//! Waiting for a runtime that is not up yet.

use std::time::Duration;

use k8s_cri::v1::VersionResponse;
use tracing::{info, warn};

use super::Runtime;

/// How often a silent runtime is asked again.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How many questions pass between two log lines.
const LOG_EVERY: u32 = 20;

/// Waits, for ever, until the runtime answers; returns what it says of itself.
pub async fn answering(runtime: &dyn Runtime) -> VersionResponse {
    let mut asked: u32 = 0;
    loop {
        match runtime.version().await {
            Ok(version) => {
                info!(runtime = %version.runtime_name, version = %version.runtime_version, "the container runtime answers");
                return version;
            }
            Err(error) if asked.is_multiple_of(LOG_EVERY) => {
                warn!(%error, "waiting for the container runtime");
            }
            Err(_) => {}
        }
        asked = asked.saturating_add(1);
        tokio::time::sleep(ASK_EVERY).await;
    }
}
