//! CRI v1 over a unix socket: each call as a request and its answer.

mod calls;
mod channel;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as api};
use tonic::Status;
use tonic::transport::Channel;

use super::{Call, Events, Labels, Runtime, RuntimeError};
use calls::{DEADLINE, LIST_DEADLINE, SANDBOX_DEADLINE, idempotent, within};
use channel::channel;

pub use channel::BadEndpoint;

/// The largest message in either direction; the kubelet's limit too.
const MESSAGE_LIMIT: usize = 16 << 20;

/// The client of a container runtime.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// A client for `endpoint` (`unix:///path` or `/path`). Does not dial.
    ///
    /// Must be called inside a tokio runtime.
    pub fn new(endpoint: &str) -> Result<Self, BadEndpoint> {
        let channel = channel(endpoint)?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT),
            images: ImageServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT),
        })
    }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

fn image_spec(image: &str) -> api::ImageSpec {
    api::ImageSpec {
        image: image.to_owned(),
        ..api::ImageSpec::default()
    }
}

impl Runtime for Cri {
    fn version(&self) -> Call<'_, api::VersionResponse> {
        let mut client = self.runtime.clone();
        let request = api::VersionRequest {
            version: "v1".to_owned(),
        };
        async move { within("Version", LIST_DEADLINE, client.version(request)).await }.boxed()
    }

    fn status(&self, verbose: bool) -> Call<'_, api::StatusResponse> {
        let mut client = self.runtime.clone();
        let request = api::StatusRequest { verbose };
        async move { within("Status", LIST_DEADLINE, client.status(request)).await }.boxed()
    }

    fn runtime_config(&self) -> Call<'_, api::RuntimeConfigResponse> {
        let mut client = self.runtime.clone();
        let request = api::RuntimeConfigRequest {};
        async move { within("RuntimeConfig", LIST_DEADLINE, client.runtime_config(request)).await }.boxed()
    }

    fn update_runtime_config(&self, pod_cidr: String) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let network_config = Some(api::NetworkConfig { pod_cidr });
        let request = api::UpdateRuntimeConfigRequest {
            runtime_config: Some(api::RuntimeConfig { network_config }),
        };
        async move {
            let answer = client.update_runtime_config(request);
            within("UpdateRuntimeConfig", DEADLINE, answer).await.map(|_| ())
        }
        .boxed()
    }

    fn events(&self) -> Call<'_, Events> {
        const CALL: &str = "GetContainerEvents";
        let mut client = self.runtime.clone();
        async move {
            // The runtime answers the headers with the first event, so there is no deadline here.
            let stream = client
                .get_container_events(api::GetEventsRequest {})
                .await
                .map_err(|status| RuntimeError::from_status(CALL, &status))?
                .into_inner();
            let typed =
                |event: Result<_, Status>| event.map_err(|status| RuntimeError::from_status(CALL, &status));
            Ok(stream.map(typed).boxed())
        }
        .boxed()
    }

    fn run_sandbox(&self, config: api::PodSandboxConfig, handler: String) -> Call<'_, String> {
        let mut client = self.runtime.clone();
        let request = api::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler,
        };
        async move {
            let answer = client.run_pod_sandbox(request);
            within("RunPodSandbox", SANDBOX_DEADLINE, answer)
                .await
                .map(|r| r.pod_sandbox_id)
        }
        .boxed()
    }

    fn stop_sandbox(&self, id: &str) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let request = api::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        async move {
            let answer = client.stop_pod_sandbox(request);
            idempotent(within("StopPodSandbox", DEADLINE, answer).await.map(|_| ()))
        }
        .boxed()
    }

    fn remove_sandbox(&self, id: &str) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let request = api::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        async move {
            let answer = client.remove_pod_sandbox(request);
            idempotent(within("RemovePodSandbox", DEADLINE, answer).await.map(|_| ()))
        }
        .boxed()
    }

    fn sandbox_status(&self, id: &str) -> Call<'_, api::PodSandboxStatus> {
        const CALL: &str = "PodSandboxStatus";
        let mut client = self.runtime.clone();
        let request = api::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        async move {
            let answer = within(CALL, LIST_DEADLINE, client.pod_sandbox_status(request)).await?;
            answer.status.ok_or(RuntimeError::Incomplete {
                call: CALL,
                field: "status",
            })
        }
        .boxed()
    }

    fn list_sandboxes(&self, labels: Labels) -> Call<'_, Vec<api::PodSandbox>> {
        let mut client = self.runtime.clone();
        let filter = Some(api::PodSandboxFilter {
            label_selector: labels,
            ..Default::default()
        });
        async move {
            let answer = client.list_pod_sandbox(api::ListPodSandboxRequest { filter });
            within("ListPodSandbox", LIST_DEADLINE, answer)
                .await
                .map(|r| r.items)
        }
        .boxed()
    }

    fn create_container(
        &self,
        sandbox: &str,
        config: api::ContainerConfig,
        sandbox_config: api::PodSandboxConfig,
    ) -> Call<'_, String> {
        let mut client = self.runtime.clone();
        let request = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        async move {
            let answer = Box::pin(client.create_container(request));
            within("CreateContainer", DEADLINE, answer)
                .await
                .map(|r| r.container_id)
        }
        .boxed()
    }

    fn start_container(&self, id: &str) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let request = api::StartContainerRequest {
            container_id: id.to_owned(),
        };
        async move {
            within("StartContainer", DEADLINE, client.start_container(request))
                .await
                .map(|_| ())
        }
        .boxed()
    }

    fn stop_container(&self, id: &str, grace_seconds: i64) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let request = api::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace_seconds,
        };
        let after = DEADLINE + seconds(grace_seconds);
        async move {
            let answer = client.stop_container(request);
            idempotent(within("StopContainer", after, answer).await.map(|_| ()))
        }
        .boxed()
    }

    fn remove_container(&self, id: &str) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let request = api::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        async move {
            let answer = client.remove_container(request);
            idempotent(within("RemoveContainer", DEADLINE, answer).await.map(|_| ()))
        }
        .boxed()
    }

    fn container_status(&self, id: &str) -> Call<'_, api::ContainerStatus> {
        const CALL: &str = "ContainerStatus";
        let mut client = self.runtime.clone();
        let request = api::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        async move {
            let answer = within(CALL, LIST_DEADLINE, client.container_status(request)).await?;
            answer.status.ok_or(RuntimeError::Incomplete {
                call: CALL,
                field: "status",
            })
        }
        .boxed()
    }

    fn list_containers(&self, labels: Labels) -> Call<'_, Vec<api::Container>> {
        let mut client = self.runtime.clone();
        let filter = Some(api::ContainerFilter {
            label_selector: labels,
            ..Default::default()
        });
        async move {
            let answer = client.list_containers(api::ListContainersRequest { filter });
            within("ListContainers", LIST_DEADLINE, answer)
                .await
                .map(|r| r.containers)
        }
        .boxed()
    }

    fn container_stats(&self, labels: Labels) -> Call<'_, Vec<api::ContainerStats>> {
        let mut client = self.runtime.clone();
        let filter = Some(api::ContainerStatsFilter {
            label_selector: labels,
            ..Default::default()
        });
        async move {
            let answer = client.list_container_stats(api::ListContainerStatsRequest { filter });
            within("ListContainerStats", LIST_DEADLINE, answer)
                .await
                .map(|r| r.stats)
        }
        .boxed()
    }

    fn update_container(&self, id: &str, resources: api::LinuxContainerResources) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let request = api::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        async move {
            let answer = client.update_container_resources(request);
            within("UpdateContainerResources", DEADLINE, answer)
                .await
                .map(|_| ())
        }
        .boxed()
    }

    fn reopen_log(&self, id: &str) -> Call<'_, ()> {
        let mut client = self.runtime.clone();
        let request = api::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        async move {
            let answer = client.reopen_container_log(request);
            within("ReopenContainerLog", DEADLINE, answer).await.map(|_| ())
        }
        .boxed()
    }

    fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> Call<'_, api::ExecSyncResponse> {
        let mut client = self.runtime.clone();
        let request = api::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: timeout_seconds,
        };
        let after = match timeout_seconds {
            0 => Duration::MAX,
            limited => DEADLINE + seconds(limited),
        };
        async move { within("ExecSync", after, client.exec_sync(request)).await }.boxed()
    }

    fn image_status(&self, image: &str) -> Call<'_, Option<api::Image>> {
        let mut client = self.images.clone();
        let request = api::ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        async move {
            let answer = client.image_status(request);
            within("ImageStatus", DEADLINE, answer).await.map(|r| r.image)
        }
        .boxed()
    }

    fn pull_image(&self, pull: api::PullImageRequest) -> Call<'_, String> {
        let mut client = self.images.clone();
        async move {
            let answer = client.pull_image(pull).await;
            answer
                .map(|response| response.into_inner().image_ref)
                .map_err(|status| RuntimeError::from_status("PullImage", &status))
        }
        .boxed()
    }

    fn list_images(&self) -> Call<'_, Vec<api::Image>> {
        let mut client = self.images.clone();
        async move {
            let answer = client.list_images(api::ListImagesRequest { filter: None });
            within("ListImages", DEADLINE, answer).await.map(|r| r.images)
        }
        .boxed()
    }

    fn remove_image(&self, image: &str) -> Call<'_, ()> {
        let mut client = self.images.clone();
        let request = api::RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        async move {
            let answer = client.remove_image(request);
            idempotent(within("RemoveImage", DEADLINE, answer).await.map(|_| ()))
        }
        .boxed()
    }

    fn image_fs_info(&self) -> Call<'_, api::ImageFsInfoResponse> {
        let mut client = self.images.clone();
        let request = api::ImageFsInfoRequest {};
        async move { within("ImageFsInfo", DEADLINE, client.image_fs_info(request)).await }.boxed()
    }
}
