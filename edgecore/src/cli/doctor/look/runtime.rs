//! Asks the container runtime what it is, and how.

use std::path::PathBuf;

use k8s_cri::v1 as api;

use super::super::facts::{Answers, Runtime, Sandbox};
use super::{MEDIUM, within};
use crate::pods::cgroups::CgroupDriver;
use crate::pods::cgroups::driver::known;
use crate::runtime::{Cri, Runtime as _, RuntimeError};

/// The runtime, and what the looks at the machine need of it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) runtime: Runtime,
    /// Its own configuration.
    pub(super) told: String,
    /// Where its images are.
    pub(super) images: Option<PathBuf>,
}

/// Asks at `endpoint`; `set` is the cgroup driver that counts where it does not tell.
pub(super) async fn look(endpoint: &str, set: CgroupDriver) -> Found {
    let silent = |why: String| Found {
        runtime: Runtime::Silent {
            endpoint: endpoint.to_owned(),
            why,
        },
        told: String::new(),
        images: None,
    };
    let cri = match Cri::new(endpoint) {
        Ok(cri) => cri,
        Err(error) => return silent(error.to_string()),
    };
    match within(MEDIUM, ask(&cri, set)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => silent(error.to_string()),
        Err(why) => silent(why),
    }
}

async fn ask(cri: &Cri, set: CgroupDriver) -> Result<Found, RuntimeError> {
    let version = cri.version().await?;
    let mut status = cri.status(true).await?;
    let told = status.info.remove("config").unwrap_or_default();
    let conditions = status.status.unwrap_or_default().conditions;
    // These are asked after the rest, and what fails is not known.
    let linux = cri.runtime_config().await.ok().and_then(|config| config.linux);
    let driver = linux.map(|linux| known(linux.cgroup_driver()));
    let images = cri.image_fs_info().await.ok();
    let images = images.and_then(|info| Some(info.image_filesystems.into_iter().next()?.fs_id?.mountpoint));
    let answers = Answers {
        version: format!("{} {}", version.runtime_name, version.runtime_version),
        runtime_ready: condition(&conditions, "RuntimeReady"),
        network_ready: condition(&conditions, "NetworkReady"),
        // What it tells is used, whatever the file says.
        used: driver.unwrap_or(set).as_str().to_owned(),
        driver: driver
            .map(|driver| driver.as_str().to_owned())
            .or_else(|| of_containerd(&told)),
        sandbox: sandbox(cri, &told).await,
    };
    Ok(Found {
        runtime: Runtime::Answers(Box::new(answers)),
        told,
        images: images.map(PathBuf::from),
    })
}

fn condition(conditions: &[api::RuntimeCondition], kind: &str) -> Result<(), String> {
    match conditions.iter().find(|condition| condition.r#type == kind) {
        Some(condition) if condition.status => Ok(()),
        Some(condition) => Err(format!("{}: {}", condition.reason, condition.message)),
        None => Err("the runtime does not say it".to_owned()),
    }
}

/// The cgroup driver of a containerd before 2.0, which tells it among its settings alone.
fn of_containerd(config: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let containerd = &config["containerd"];
    let default = containerd["defaultRuntimeName"].as_str()?;
    let options = &containerd["runtimes"][default]["options"];
    let systemd = options["SystemdCgroup"].as_bool().unwrap_or(false);
    Some(if systemd { "systemd" } else { "cgroupfs" }.to_owned())
}

/// The sandbox's image: by its name in the settings, or the one that the runtime keeps from being removed.
async fn sandbox(cri: &Cri, config: &str) -> Sandbox {
    let config: serde_json::Value = serde_json::from_str(config).unwrap_or_default();
    if let Some(name) = config["sandboxImage"].as_str().filter(|name| !name.is_empty()) {
        return match cri.image_status(name).await {
            Ok(Some(_)) => Sandbox::Here(name.to_owned()),
            Ok(None) => Sandbox::Missing(Some(name.to_owned())),
            Err(error) => Sandbox::Unknown(error.to_string()),
        };
    }
    match cri.list_images().await {
        Ok(images) => images
            .into_iter()
            .find(|image| image.pinned)
            .map_or(Sandbox::Missing(None), |image| {
                Sandbox::Here(image.repo_tags.into_iter().next().unwrap_or(image.id))
            }),
        Err(error) => Sandbox::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_containerd_tells_its_driver_among_its_settings() {
        let config = |systemd: bool| {
            serde_json::json!({ "containerd": { "defaultRuntimeName": "runc", "runtimes": {
                "runc": { "options": { "SystemdCgroup": systemd } } } } })
            .to_string()
        };
        assert_eq!(of_containerd(&config(true)).unwrap(), "systemd");
        assert_eq!(of_containerd(&config(false)).unwrap(), "cgroupfs");
        assert_eq!(
            of_containerd(r#"{"containerd": {"defaultRuntimeName": "runc"}}"#).unwrap(),
            "cgroupfs"
        );
        assert_eq!(of_containerd("{}"), None);
        assert_eq!(of_containerd(""), None);
    }

    #[test]
    fn a_condition_that_the_runtime_does_not_say_does_not_hold() {
        assert!(condition(&[], "NetworkReady").is_err());
    }
}
