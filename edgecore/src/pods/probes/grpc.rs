//! grpc probes: the standard health service, `grpc.health.v1.Health/Check`, as the kubelet asks it.
//!
//! One connection a check, without TLS. Whatever goes wrong is a failure, and a server that does not listen is
//! tried again until the probe's time is over.

use std::time::Duration;

use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::GRPCAction;
use tokio::time::{sleep, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::dial::{join, valid_port};
use super::machine::Outcome;

/// An answer is two bytes long.
const ANSWER_LIMIT: usize = 10 * 1024;
const DIAL_AGAIN: Duration = Duration::from_secs(1);
const METHOD: &str = "/grpc.health.v1.Health/Check";
const SERVING: i32 = 1;

/// A check that is made again and again.
pub(super) struct HealthCheck {
    address: String,
    service: String,
    endpoint: Box<Endpoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl HealthCheck {
    pub(super) fn new(check: &GRPCAction, pod_ip: &str) -> Result<Self, String> {
        let address = join(pod_ip, valid_port(i64::from(check.port))?);
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .and_then(|endpoint| endpoint.user_agent("kube-probe/1.36"))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            address,
            service: check.service.clone().unwrap_or_default(),
            endpoint: Box::new(endpoint),
        })
    }

    /// One check, in at most `limit`.
    pub(super) async fn run(&self, limit: Duration) -> Outcome {
        let deadline = tokio::time::Instant::now() + limit;
        let Ok(channel) = timeout_at(deadline, self.dial()).await else {
            return Outcome::Failure(format!(
                "timeout: failed to connect service {:?} within {limit:?}: context deadline exceeded",
                self.address
            ));
        };
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        match timeout(left, self.ask(channel)).await {
            Ok(Ok(SERVING)) => Outcome::Success,
            Ok(Ok(status)) => {
                Outcome::Failure(format!("service unhealthy (responded with {:?})", word(status)))
            }
            Ok(Err(status)) => Outcome::Failure(why(&status, limit)),
            Err(_) => Outcome::Failure(too_slow(limit)),
        }
    }

    async fn dial(&self) -> Channel {
        loop {
            match self.endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => sleep(DIAL_AGAIN).await,
            }
        }
    }

    async fn ask(&self, channel: Channel) -> Result<i32, Status> {
        let mut client = Grpc::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let request = Request::new(HealthCheckRequest {
            service: self.service.clone(),
        });
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let answer = client
            .unary(request, PathAndQuery::from_static(METHOD), codec)
            .await?;
        Ok(answer.into_inner().status)
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other code is told as the server sent it"
)]
fn why(status: &Status, limit: Duration) -> String {
    match status.code() {
        Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        ),
        Code::DeadlineExceeded => too_slow(limit),
        code => format!(
            "error: health rpc probe failed: rpc error: code = {code:?} desc = {}",
            status.message()
        ),
    }
}

fn too_slow(limit: Duration) -> String {
    format!("timeout: health rpc did not complete within {limit:?}")
}

/// The name of a serving status.
fn word(status: i32) -> String {
    let known = match status {
        0 => "UNKNOWN",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        other => return other.to_string(),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests;
