//! Lifecycle hooks: what is run right after a container's start and right before its end.
//!
//! [`run`] carries one out, as the kubelet does: a command sees the container's own environment, any answer
//! over HTTP is a success, and nothing has a limit of its own. The caller drops it when time is over.
//!
//! **Invariant:** what a command or a server answers is told in the pod's status alone, never in an event.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Pod};
use thiserror::Error;

use super::probes;
use super::spec;
use crate::runtime::Runtime;

/// How much of a command's output its failure tells: it goes over the link.
const OUTPUT_LIMIT: usize = 10 * 1024;

/// A running container, as its hooks see it.
#[derive(Clone, Copy)]
pub struct HookTarget<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The runtime's id.
    pub id: &'a str,
    /// The pod's own addresses; none on the host network.
    pub pod_ips: &'a [String],
    /// Runs commands.
    pub runtime: &'a dyn Runtime,
}

/// How a hook went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hooked {
    /// As it was asked for.
    Plainly,
    /// TLS was asked for, and this address (`host:port`) answered without it.
    WithoutTls(String),
}

/// A hook failed; with what the pod's status says of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct HookFailed(String);

/// `lifecycle.postStart`.
pub fn post_start(container: &Container) -> Option<&LifecycleHandler> {
    lifecycle(container)?.post_start.as_ref()
}

/// `lifecycle.preStop`.
pub fn pre_stop(container: &Container) -> Option<&LifecycleHandler> {
    lifecycle(container)?.pre_stop.as_ref()
}

fn lifecycle(container: &Container) -> Option<&Lifecycle> {
    container.lifecycle.as_ref()
}

/// Carries a hook out.
///
/// # Cancel safety
///
/// Dropping it gives up: a command is ended by the runtime, a request is cut.
pub async fn run(handler: &LifecycleHandler, target: HookTarget<'_>) -> Result<Hooked, HookFailed> {
    if let Some(exec) = &handler.exec {
        command(exec, target).await.map(|()| Hooked::Plainly)
    } else if let Some(get) = &handler.http_get {
        request(get, target).await
    } else if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(Hooked::Plainly)
    } else {
        // `tcpSocket` is in the API for old objects' sake and has never been carried out.
        let given = if handler.tcp_socket.is_some() {
            "tcpSocket"
        } else {
            "none"
        };
        Err(HookFailed(format!(
            "Cannot run handler: invalid handler: {given}"
        )))
    }
}

/// A hook that was given up, because the pod was ordered to end meanwhile.
pub fn given_up(handler: &LifecycleHandler, target: HookTarget<'_>) -> HookFailed {
    let why = "context canceled";
    match (&handler.exec, &handler.http_get, &handler.sleep) {
        (Some(exec), _, _) => command_failed(exec, target, why, &[]),
        (None, Some(get), _) => request_failed(get, target, why),
        (None, None, _) => HookFailed(format!(
            "Sleep lifecycle hook ({}) {} failed - error: container terminated before sleep hook finished",
            handler.sleep.as_ref().map_or(0, |sleep| sleep.seconds),
            of(target)
        )),
    }
}

async fn command(exec: &ExecAction, target: HookTarget<'_>) -> Result<(), HookFailed> {
    let words = exec.command.clone().unwrap_or_default();
    let done = target.runtime.exec_sync(target.id, words.clone(), 0).await;
    match done {
        Ok(done) if done.exit_code == 0 => Ok(()),
        Ok(done) => {
            let stderr = String::from_utf8_lossy(&done.stderr[..done.stderr.len().min(OUTPUT_LIMIT)]);
            let why = format!(
                "command '{}' exited with {}: {stderr}",
                words.join(" "),
                done.exit_code
            );
            let output = [done.stdout.as_slice(), done.stderr.as_slice()].concat();
            Err(command_failed(exec, target, &why, &output))
        }
        Err(error) => Err(command_failed(exec, target, &error.to_string(), &[])),
    }
}

fn command_failed(exec: &ExecAction, target: HookTarget<'_>, why: &str, output: &[u8]) -> HookFailed {
    let words = exec.command.as_deref().unwrap_or_default().join(" ");
    let output = String::from_utf8_lossy(&output[..output.len().min(OUTPUT_LIMIT)]);
    HookFailed(format!(
        "Exec lifecycle hook ([{words}]) {} failed - error: {why}, message: {output:?}",
        of(target)
    ))
}

async fn request(get: &HTTPGetAction, target: HookTarget<'_>) -> Result<Hooked, HookFailed> {
    let named = get.host.as_deref().filter(|host| !host.is_empty());
    let own = target.pod_ips.first().map(String::as_str);
    let host = named
        .or(own)
        .ok_or_else(|| request_failed(get, target, "failed to find networking container"))?;
    let request =
        probes::hook_request(get, target.container, host).map_err(|why| request_failed(get, target, &why))?;
    match request.call().await {
        Ok(()) => Ok(Hooked::Plainly),
        Err(none) if none.speaks_plainly && request.plainly().call().await.is_ok() => {
            Ok(Hooked::WithoutTls(request.address()))
        }
        Err(none) => Err(request_failed(get, target, &none.why)),
    }
}

fn request_failed(get: &HTTPGetAction, target: HookTarget<'_>, why: &str) -> HookFailed {
    let path = get.path.as_deref().unwrap_or_default();
    HookFailed(format!(
        "HTTP lifecycle hook ({path}) {} failed - error: {why}",
        of(target)
    ))
}

/// `for Container "c" in Pod "name_namespace(uid)"`.
fn of(HookTarget { pod, container, .. }: HookTarget<'_>) -> String {
    let (name, namespace, uid) = (spec::name(pod), spec::namespace(pod), spec::uid(pod));
    format!(
        "for Container {:?} in Pod \"{name}_{namespace}({uid})\"",
        container.name
    )
}

#[cfg(test)]
mod tests;
