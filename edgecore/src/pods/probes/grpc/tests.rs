//! The health service, answering, refusing and silent.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Response, server};

use super::*;

/// A health service that says this of `db`, and does not know any other.
#[derive(Clone)]
struct Health(Result<i32, Code>);

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = Ready<Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let known = request.into_inner().service == "db";
        let said = self.0.map_err(|code| Status::new(code, "so it is"));
        let answer = if known {
            said
        } else {
            Err(Status::not_found("who?"))
        };
        ready(answer.map(|status| Response::new(HealthCheckResponse { status })))
    }
}

impl tower::Service<http::Request<Body>> for Health {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let health = self.clone();
        async move {
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok(server::Grpc::new(codec).unary(health, request).await)
        }
        .boxed()
    }
}

async fn serving(health: Health) -> (i32, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = i32::from(listener.local_addr().unwrap().port());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let server = Server::builder().add_service(health);
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    (port, tasks)
}

fn check(port: i32, service: &str) -> HealthCheck {
    let service = Some(service.to_owned());
    HealthCheck::new(&GRPCAction { port, service }, "127.0.0.1").unwrap()
}

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_the_service_says_is_the_outcome() {
    for (said, outcome) in [
        (Ok(1), Outcome::Success),
        (
            Ok(2),
            Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        ),
        (
            Err(Code::Unimplemented),
            Outcome::Failure(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): so it is"
                    .to_owned(),
            ),
        ),
        (
            Err(Code::Internal),
            Outcome::Failure(
                "error: health rpc probe failed: rpc error: code = Internal desc = so it is".to_owned(),
            ),
        ),
    ] {
        let (port, _tasks) = serving(Health(said)).await;
        assert_eq!(check(port, "db").run(LIMIT).await, outcome);
    }
}

#[tokio::test]
async fn a_service_that_is_not_known_has_failed() {
    let (port, _tasks) = serving(Health(Ok(1))).await;
    let outcome = check(port, "").run(LIMIT).await;
    let words = "error: health rpc probe failed: rpc error: code = NotFound desc = who?";
    assert_eq!(outcome, Outcome::Failure(words.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn nobody_at_the_port_is_a_timeout_and_a_silent_server_too() {
    let began = tokio::time::Instant::now();
    let outcome = check(1, "db").run(LIMIT).await;
    let words = "timeout: failed to connect service \"127.0.0.1:1\" within 5s: context deadline exceeded";
    assert_eq!(outcome, Outcome::Failure(words.to_owned()));
    assert_eq!(began.elapsed(), LIMIT);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = i32::from(silent.local_addr().unwrap().port());
    let outcome = check(port, "db").run(LIMIT).await;
    assert!(matches!(outcome, Outcome::Failure(words) if words.starts_with("timeout: ")));
    assert!(
        HealthCheck::new(
            &GRPCAction {
                port: 70_000,
                service: None
            },
            "127.0.0.1"
        )
        .is_err()
    );
}
