//! What a probe does: run a command, ask over HTTP or gRPC, open a connection.
//!
//! **Invariant:** nothing a container answers costs more than 10 KiB or the probe's timeout.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

use super::super::expansion::{Room, TooLong, expand};
use super::ProbeTarget;
use super::dial::{dial_error, join, valid_port};
use super::grpc::HealthCheck;
use super::http::{Asker, HttpGet};
use super::machine::Outcome;
use crate::runtime::{Runtime, RuntimeError};

const OUTPUT_LIMIT: usize = 10 * 1024;

/// A probe, ready to be run again and again.
pub(super) struct Action {
    what: What,
    timeout: Duration,
}

enum What {
    Exec {
        runtime: Arc<dyn Runtime>,
        container_id: String,
        command: Vec<String>,
    },
    Http(HttpGet),
    Tcp {
        host: String,
        port: u16,
    },
    Grpc(HealthCheck),
    /// The spec is wrong in a way that only running shows.
    Broken(String),
}

impl Action {
    pub(super) fn new(probe: &Probe, target: &ProbeTarget, host: &str) -> Self {
        let seconds = probe
            .timeout_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .unwrap_or(1)
            .max(1);
        let what = if let Some(exec) = &probe.exec {
            self::exec(exec, target).unwrap_or_else(|error| What::Broken(error.to_string()))
        } else if let Some(get) = &probe.http_get {
            let port = port(&get.port, &target.container);
            port.and_then(|port| HttpGet::new(get, host, port, Asker::Probe))
                .map_or_else(What::Broken, What::Http)
        } else if let Some(socket) = &probe.tcp_socket {
            tcp(socket, target, host).unwrap_or_else(What::Broken)
        } else if let Some(check) = &probe.grpc {
            HealthCheck::new(check, host).map_or_else(What::Broken, What::Grpc)
        } else {
            What::Broken(format!("missing probe handler for {}", target.container.name))
        };
        Self {
            what,
            timeout: Duration::from_secs(seconds),
        }
    }

    /// One run.
    pub(super) async fn run(&self) -> Outcome {
        match &self.what {
            What::Exec {
                runtime,
                container_id,
                command,
            } => self.exec(runtime.as_ref(), container_id, command).await,
            What::Http(get) => match timeout(self.timeout, get.run()).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Failure(get.timed_out()),
            },
            What::Tcp { host, port } => self.connect(host, *port).await,
            What::Grpc(check) => check.run(self.timeout).await,
            What::Broken(why) => Outcome::Error(why.clone()),
        }
    }

    async fn exec(&self, runtime: &dyn Runtime, container_id: &str, command: &[String]) -> Outcome {
        let seconds = i64::try_from(self.timeout.as_secs()).unwrap_or(i64::MAX);
        match runtime.exec_sync(container_id, command.to_vec(), seconds).await {
            Ok(done) if done.exit_code == 0 => Outcome::Success,
            Ok(done) => Outcome::Failure(output(done.stdout, &done.stderr)),
            Err(error) if is_timeout(&error) => {
                let command = command.join(" ");
                Outcome::Failure(format!(
                    "command timed out: {command:?} timed out after {:?}",
                    self.timeout
                ))
            }
            Err(error) => Outcome::Error(error.to_string()),
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Outcome {
        match timeout(self.timeout, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(error)) => Outcome::Failure(dial_error(host, port, &error)),
            Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", join(host, port))),
        }
    }
}

/// The command sees the variables whose value the spec says outright, and no others.
fn exec(exec: &ExecAction, target: &ProbeTarget) -> Result<What, TooLong> {
    let declared = target.container.env.iter().flatten();
    let literal: BTreeMap<_, _> = declared
        .filter_map(|variable| Some((variable.name.as_str(), variable.value.as_deref()?)))
        .collect();
    let (mut room, place) = (Room::default(), || "the probe's command".to_owned());
    let mut expand = |word| expand(word, |name| literal.get(name).copied(), &mut room, place);
    let words = exec.command.iter().flatten().map(|word| expand(word));
    Ok(What::Exec {
        runtime: Arc::clone(&target.runtime),
        container_id: target.container_id.clone(),
        command: words.collect::<Result<_, _>>()?,
    })
}

fn tcp(socket: &TCPSocketAction, target: &ProbeTarget, host: &str) -> Result<What, String> {
    let named = socket.host.as_deref().filter(|host| !host.is_empty());
    Ok(What::Tcp {
        host: named.unwrap_or(host).to_owned(),
        port: port(&socket.port, &target.container)?,
    })
}

/// A number, or the name of one of the container's ports.
pub(super) fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| i64::from(port.container_port));
            named
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("port {name} not found"))?
        }
    };
    valid_port(number)
}

fn is_timeout(error: &RuntimeError) -> bool {
    matches!(
        error,
        RuntimeError::Deadline { .. }
            | RuntimeError::Refused {
                code: Code::DeadlineExceeded,
                ..
            }
    )
}

fn output(mut stdout: Vec<u8>, stderr: &[u8]) -> String {
    stdout.extend_from_slice(stderr);
    stdout.truncate(OUTPUT_LIMIT);
    String::from_utf8_lossy(&stdout).into_owned()
}
