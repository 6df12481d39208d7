//! The calls, as CRI has them.

use futures::FutureExt;
use k8s_cri::v1 as api;
use tokio::sync::oneshot;
use tonic::Code;

use super::world::{
    World, condition, created, image, listed_container, listed_sandbox, matches, sandbox, stats,
};
use super::{FakeRuntime, NAME, UID};
use crate::runtime::{Call, Events, Labels, Runtime, RuntimeError};

impl FakeRuntime {
    fn with<T>(
        &self,
        call: &'static str,
        what: &str,
        act: impl FnOnce(&mut World) -> Result<T, RuntimeError>,
    ) -> Call<'static, T>
    where
        T: Send + 'static,
    {
        let mut world = self.world.lock();
        let result = world.enter(call, what).and_then(|()| act(&mut world));
        async move {
            // A real runtime takes a moment; let others run.
            tokio::task::yield_now().await;
            result
        }
        .boxed()
    }

    /// The same for a call that may be told to take long.
    fn slowly<T>(
        &self,
        call: &'static str,
        what: &str,
        act: impl FnOnce(&mut World) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Call<'static, T>
    where
        T: Send + 'static,
    {
        let (fake, what) = (self.clone(), what.to_owned());
        let mut world = self.world.lock();
        *world.begun.entry(call).or_default() += 1;
        let takes = world.takes.get(call).copied().unwrap_or_default();
        let done = async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            fake.with(call, &what, act).await
        };
        let Some(tasks) = &mut world.regardless else {
            return done.boxed();
        };
        let (tell, told) = oneshot::channel();
        tasks.spawn(async move {
            // Who asked may have given up.
            let _ = tell.send(done.await);
        });
        told.map(Result::unwrap).boxed()
    }

    fn pulled(&self, call: &'static str, name: &str, auth: Option<api::AuthConfig>) -> Call<'static, String> {
        self.with(call, name, |world| {
            if !world.registry.contains(name) {
                let message = format!("failed to resolve reference {name:?}: not found");
                return Err(RuntimeError::NotFound { call, message });
            }
            let user = auth.map(|auth| auth.username);
            if world
                .private
                .get(name)
                .is_some_and(|owner| Some(owner) != user.as_ref())
            {
                let (code, message) = (Code::Unknown, "pull access denied".to_owned());
                return Err(RuntimeError::Refused { call, code, message });
            }
            world.images.insert(name.to_owned());
            Ok(format!("sha256:{name}"))
        })
    }
}

impl Runtime for FakeRuntime {
    fn version(&self) -> Call<'_, api::VersionResponse> {
        self.with("Version", "", |_| {
            Ok(api::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "fake".to_owned(),
                runtime_version: "1".to_owned(),
                runtime_api_version: "v1".to_owned(),
            })
        })
    }

    fn status(&self, _verbose: bool) -> Call<'_, api::StatusResponse> {
        self.with("Status", "", |_| {
            let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
            let status = Some(api::RuntimeStatus { conditions });
            Ok(api::StatusResponse {
                status,
                ..Default::default()
            })
        })
    }

    fn runtime_config(&self) -> Call<'_, api::RuntimeConfigResponse> {
        let call = "RuntimeConfig";
        self.with(call, "", |world| {
            let driver = world.driver.ok_or(RuntimeError::Unimplemented { call })?;
            let cgroup_driver = driver as i32;
            let linux = Some(api::LinuxRuntimeConfiguration { cgroup_driver });
            Ok(api::RuntimeConfigResponse { linux })
        })
    }

    fn update_runtime_config(&self, _pod_cidr: String) -> Call<'_, ()> {
        self.with("UpdateRuntimeConfig", "", |_| Ok(()))
    }

    fn events(&self) -> Call<'_, Events> {
        let call = "GetContainerEvents";
        self.with(call, "", |_| {
            Err::<Events, _>(RuntimeError::Unimplemented { call })
        })
    }

    fn run_sandbox(&self, config: api::PodSandboxConfig, handler: String) -> Call<'_, String> {
        let name = config.metadata.clone().unwrap_or_default().name;
        self.slowly("RunPodSandbox", &name, |world| {
            Ok(sandbox(world, config, handler))
        })
    }

    fn stop_sandbox(&self, id: &str) -> Call<'_, ()> {
        if self.world.lock().stops_hang {
            let error = World::refused("StopPodSandbox", "deadline exceeded");
            let given_up = tokio::time::sleep(std::time::Duration::from_mins(2));
            return given_up.map(|()| Err(error)).boxed();
        }
        self.with("StopPodSandbox", id, |world| {
            if world.ignores_stop() {
                return Ok(());
            }
            let inside: Vec<_> = world
                .containers
                .iter()
                // A start that is under way does not hear of it.
                .filter(|(c, (s, _))| s == id && !world.is_starting(c))
                .map(|(c, _)| c.clone())
                .collect();
            for container in inside {
                world.exit(&container, 137);
            }
            if let Some(sandbox) = world.sandboxes.get_mut(id) {
                sandbox.state = api::PodSandboxState::SandboxNotready as i32;
            }
            Ok(())
        })
    }

    fn remove_sandbox(&self, id: &str) -> Call<'_, ()> {
        if self.world.lock().removals_hang {
            let error = World::refused("RemovePodSandbox", "deadline exceeded");
            let given_up = tokio::time::sleep(std::time::Duration::from_mins(2));
            return given_up.map(|()| Err(error)).boxed();
        }
        let call = "RemovePodSandbox";
        self.with(call, id, |world| {
            let mut inside = world.containers.iter().filter(|(_, (sandbox, _))| sandbox == id);
            if inside.any(|(c, _)| world.is_starting(c)) {
                return Err(World::refused(call, "container is in starting state"));
            }
            world.sandboxes.remove(id);
            world.containers.retain(|_, (sandbox, _)| sandbox != id);
            Ok(())
        })
    }

    fn sandbox_status(&self, id: &str) -> Call<'_, api::PodSandboxStatus> {
        let call = "PodSandboxStatus";
        self.with(call, id, |world| {
            world
                .sandboxes
                .get(id)
                .cloned()
                .ok_or_else(|| World::missing(call, id))
        })
    }

    fn list_sandboxes(&self, labels: Labels) -> Call<'_, Vec<api::PodSandbox>> {
        self.with("ListPodSandbox", "", |world| {
            let all = world.sandboxes.values().filter(|s| matches(&s.labels, &labels));
            Ok(all.map(listed_sandbox).collect())
        })
    }

    fn create_container(
        &self,
        sandbox: &str,
        config: api::ContainerConfig,
        _sandbox_config: api::PodSandboxConfig,
    ) -> Call<'_, String> {
        let call = "CreateContainer";
        let name = config.metadata.clone().unwrap_or_default().name;
        let (sandbox, subject) = (sandbox.to_owned(), name.clone());
        self.slowly(call, &name, move |world| {
            let state = world.sandboxes.get(&sandbox).map(|s| s.state);
            // It may go while a container is being made in it; the runtime does not look again.
            if state != Some(api::PodSandboxState::SandboxReady as i32) && world.regardless.is_none() {
                world
                    .violations
                    .push(format!("{subject} created in a sandbox that is not ready"));
                return Err(World::missing(call, &sandbox));
            }
            let id = world.id("container");
            let status = created(world, &id, config);
            world.containers.insert(id.clone(), (sandbox, status));
            Ok(id)
        })
    }

    fn start_container(&self, id: &str) -> Call<'_, ()> {
        let call = "StartContainer";
        let id = id.to_owned();
        let name = {
            let mut world = self.world.lock();
            world.starting.insert(id.clone());
            world.containers.get(&id).map(|(_, s)| s.labels[NAME].clone())
        };
        self.slowly(call, &name.clone().unwrap_or_default(), move |world| {
            world.starting.remove(&id);
            let now = world.tick();
            let running = api::ContainerState::ContainerRunning as i32;
            let labels = match world.containers.get(&id) {
                Some((_, status)) => status.labels.clone(),
                None => return Err(World::missing(call, &id)),
            };
            if world.unstartable.contains(&labels[NAME]) {
                world.exit(&id, 128);
                return Err(World::refused(call, "no such program"));
            }
            let same = |s: &api::ContainerStatus| {
                s.state == running
                    && s.labels.get(UID) == labels.get(UID)
                    && s.labels.get(NAME) == labels.get(NAME)
            };
            if world.containers.values().any(|(_, s)| same(s)) {
                world
                    .violations
                    .push(format!("two instances of {}", labels[NAME]));
            }
            if let Some((_, status)) = world.containers.get_mut(&id) {
                status.state = running;
                status.started_at = now;
            }
            if let Some(code) = name.and_then(|n| world.exits.get(&n).copied()) {
                world.exit(&id, code);
            }
            Ok(())
        })
    }

    fn stop_container(&self, id: &str, grace_seconds: i64) -> Call<'_, ()> {
        let asked = self.with("StopContainer", &format!("{id} {grace_seconds}"), |_| Ok(()));
        let (fake, id) = (self.clone(), id.to_owned());
        // Who does not wait for the end does not get it.
        async move {
            asked.await?;
            let by_signal = if grace_seconds == 0 { 137 } else { 143 };
            let mut world = fake.world.lock();
            if world.ignores_stop() {
                return Ok(());
            }
            let code = world.stopped_with.unwrap_or(by_signal);
            world.exit(&id, code);
            Ok(())
        }
        .boxed()
    }

    fn remove_container(&self, id: &str) -> Call<'_, ()> {
        let call = "RemoveContainer";
        self.with(call, id, |world| {
            if world.is_starting(id) {
                return Err(World::refused(call, "container is in starting state"));
            }
            world.containers.remove(id);
            Ok(())
        })
    }

    fn container_status(&self, id: &str) -> Call<'_, api::ContainerStatus> {
        let call = "ContainerStatus";
        self.with(call, id, |world| {
            let found = world.containers.get(id).map(|(_, status)| status.clone());
            let mut status = found.ok_or_else(|| World::missing(call, id))?;
            let linux = status.resources.as_mut().and_then(|r| r.linux.as_mut());
            if let (Some(shown), Some(linux)) = (world.shown_memory, linux) {
                linux.memory_limit_in_bytes = shown;
            }
            Ok(status)
        })
    }

    fn list_containers(&self, labels: Labels) -> Call<'_, Vec<api::Container>> {
        self.with("ListContainers", "", |world| {
            let all = world
                .containers
                .values()
                .filter(|(_, s)| matches(&s.labels, &labels));
            Ok(all
                .map(|(sandbox, status)| listed_container(sandbox, status))
                .collect())
        })
    }

    fn container_stats(&self, labels: Labels) -> Call<'_, Vec<api::ContainerStats>> {
        self.with("ListContainerStats", "", |world| {
            let running = api::ContainerState::ContainerRunning as i32;
            let all = world.containers.values().map(|(_, status)| status);
            let named = all.filter(|s| s.state == running && matches(&s.labels, &labels));
            Ok(named.map(|status| stats(world, status)).collect())
        })
    }

    fn update_container(&self, id: &str, resources: api::LinuxContainerResources) -> Call<'_, ()> {
        let call = "UpdateContainerResources";
        self.with(call, id, |world| {
            let found = world.containers.get_mut(id);
            let (_, status) = found.ok_or_else(|| World::missing(call, id))?;
            let linux = Some(resources);
            status.resources = Some(api::ContainerResources { linux, windows: None });
            Ok(())
        })
    }

    fn reopen_log(&self, id: &str) -> Call<'_, ()> {
        self.with("ReopenContainerLog", id, |_| Ok(()))
    }

    fn exec_sync(&self, _: &str, command: Vec<String>, _: i64) -> Call<'_, api::ExecSyncResponse> {
        let first = command.into_iter().next().unwrap_or_default();
        let known = self.world.lock().exec.get(&first).copied();
        let (exit_code, takes) = known.unwrap_or_default();
        let answer = self.with("ExecSync", &first, |_| {
            Ok(api::ExecSyncResponse {
                exit_code,
                ..Default::default()
            })
        });
        async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            answer.await
        }
        .boxed()
    }

    fn image_status(&self, name: &str) -> Call<'_, Option<api::Image>> {
        self.with("ImageStatus", name, |world| {
            Ok(world
                .images
                .contains(name.trim_start_matches("sha256:"))
                .then(|| image(name)))
        })
    }

    fn pull_image(&self, pull: api::PullImageRequest) -> Call<'_, String> {
        let call = "PullImage";
        let name = pull.image.unwrap_or_default().image;
        let (takes, fake) = (self.world.lock().pull_takes, self.clone());
        if takes.is_zero() {
            return self.pulled(call, &name, pull.auth);
        }
        async move {
            tokio::time::sleep(takes).await;
            fake.pulled(call, &name, pull.auth).await
        }
        .boxed()
    }

    fn list_images(&self) -> Call<'_, Vec<api::Image>> {
        self.with("ListImages", "", |world| {
            Ok(world.images.iter().map(|i| image(i)).collect())
        })
    }

    fn remove_image(&self, name: &str) -> Call<'_, ()> {
        self.with("RemoveImage", name, |world| {
            world
                .images
                .retain(|known| known != name && image(known).id != name);
            Ok(())
        })
    }

    fn image_fs_info(&self) -> Call<'_, api::ImageFsInfoResponse> {
        self.with("ImageFsInfo", "", |world| {
            let mountpoint = world.images_at.clone().unwrap_or_else(|| "/images".to_owned());
            let place = api::FilesystemUsage {
                fs_id: Some(api::FilesystemIdentifier { mountpoint }),
                ..Default::default()
            };
            Ok(api::ImageFsInfoResponse {
                image_filesystems: vec![place],
                ..Default::default()
            })
        })
    }
}
