//! Which driver makes the cgroups: the runtime says it, for both must use the same.
//!
//! **Invariant:** a runtime that knows its driver is never contradicted; pods whose cgroups are made by two hands end
//! up in two places.

use std::time::Duration;

use k8s_cri::v1 as api;
use tokio::time::sleep;
use tracing::{info, warn};

use super::layout::CgroupDriver;
use crate::runtime::{self, Runtime, RuntimeError};

const RETRY: Duration = Duration::from_secs(1);

/// The runtime's driver, as soon as it answers; `setting` where it has no such answer (containerd before 2.0).
pub async fn agreed(runtime: &dyn Runtime, setting: CgroupDriver) -> CgroupDriver {
    runtime::answering(runtime).await;
    loop {
        match runtime.runtime_config().await.map(|config| config.linux) {
            Ok(Some(linux)) => {
                let told = known(linux.cgroup_driver());
                info!(driver = told.as_str(), "the runtime told its cgroup driver");
                return told;
            }
            Ok(None) | Err(RuntimeError::Unimplemented { .. }) => {
                info!(
                    driver = setting.as_str(),
                    "the runtime does not tell its cgroup driver"
                );
                return setting;
            }
            Err(error) => {
                warn!(%error, "the runtime does not tell its cgroup driver yet");
                sleep(RETRY).await;
            }
        }
    }
}

/// What the runtime calls a driver, in our words.
pub(crate) const fn known(driver: api::CgroupDriver) -> CgroupDriver {
    match driver {
        api::CgroupDriver::Systemd => CgroupDriver::Systemd,
        api::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    #[tokio::test]
    async fn a_runtime_that_does_not_tell_has_the_driver_of_the_setting() {
        let runtime = FakeRuntime::default();
        for setting in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd] {
            assert_eq!(agreed(&runtime, setting).await, setting);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_tells_is_believed_and_one_that_fails_is_asked_again() {
        let runtime = FakeRuntime::default();
        runtime.uses(api::CgroupDriver::Systemd);
        runtime.fail_next("RuntimeConfig", "not yet");
        assert_eq!(
            agreed(&runtime, CgroupDriver::Cgroupfs).await,
            CgroupDriver::Systemd
        );
        runtime.uses(api::CgroupDriver::Cgroupfs);
        assert_eq!(
            agreed(&runtime, CgroupDriver::Systemd).await,
            CgroupDriver::Cgroupfs
        );
    }
}
