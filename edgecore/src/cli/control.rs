//! The control socket: how `edgecore status` asks the node that runs.
//!
//! HTTP over a unix socket that root alone may open, so `curl --unix-socket` works too. Two
//! questions: `GET /status` and `GET /devices`.
//!
//! **Invariant:** whoever asks, and however slowly, costs at most [`MAX_CLIENTS`] small tasks.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::get::DeviceView;
use super::status::Status;

/// How many may ask at a time.
pub const MAX_CLIENTS: usize = 8;
/// How long a question and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer that is read: a thousand pods or devices are below.
const MAX_ANSWER: usize = 16 << 20;

/// Says how the node is.
pub type StatusSource = Arc<dyn Fn() -> BoxFuture<'static, Status> + Send + Sync>;
/// Says what its devices say.
pub type DevicesSource = Arc<dyn Fn() -> Vec<DeviceView> + Send + Sync>;

/// Who answers.
#[derive(Clone)]
pub struct Sources {
    /// `GET /status`.
    pub status: StatusSource,
    /// `GET /devices`.
    pub devices: DevicesSource,
}

/// Why the running node cannot be asked, or cannot be one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens.
    #[error("edgecore does not run: nobody answers at {}", .0.display())]
    NotRunning(PathBuf),
    /// Somebody listens already.
    #[error("edgecore runs already: somebody answers at {}", .0.display())]
    RunsAlready(PathBuf),
    /// The socket cannot be used.
    #[error("the control socket {} cannot be used", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody answered, but not as the node would.
    #[error("the answer at {} cannot be used: {why}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The bound socket of a running node. Dropping it removes the socket.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Binds the socket, readable by root alone; one that a dead process left is replaced.
    pub async fn bind(path: &Path) -> Result<Self, ControlError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(ControlError::RunsAlready(path.to_owned()));
        }
        let listener = listen(path).map_err(|source| ControlError::Socket {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers until `stop`.
    pub async fn serve(self, sources: Sources, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = clients.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
                        let sources = sources.clone();
                        clients.spawn(async move {
                            let _ = timeout(PATIENCE, answer(stream, sources)).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a question at the control socket was not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
        // Before the socket exists, so that nobody slips in before it is restricted itself.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, sources: Sources) {
    let service = service_fn(move |request| respond(request, sources.clone()));
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a question at the control socket broke off");
    }
}

async fn respond(request: Request<Incoming>, sources: Sources) -> Result<Response<Full<Bytes>>, Infallible> {
    let json = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => serde_json::to_vec(&(sources.status)().await),
        (&Method::GET, "/devices") => serde_json::to_vec(&(sources.devices)()),
        _ => {
            return Ok(reply(
                StatusCode::NOT_FOUND,
                Bytes::from_static(b"try GET /status or GET /devices\n"),
            ));
        }
    };
    Ok(match json {
        Ok(json) => reply(StatusCode::OK, Bytes::from(json)),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from(error.to_string())),
    })
}

fn reply(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

/// Asks the running node how it is.
pub async fn ask(path: &Path) -> Result<Status, ControlError> {
    question(path, "/status").await
}

/// Asks the running node what its devices say.
pub async fn devices(path: &Path) -> Result<Vec<DeviceView>, ControlError> {
    question(path, "/devices").await
}

async fn question<T: DeserializeOwned>(path: &Path, about: &str) -> Result<T, ControlError> {
    let stream = UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        if matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        ) {
            ControlError::NotRunning(path)
        } else {
            ControlError::Socket { path, source }
        }
    })?;
    let bad = |why: String| ControlError::Answer {
        path: path.to_owned(),
        why,
    };
    let got = timeout(PATIENCE, get(stream, about)).await;
    let json = got
        .map_err(|_| bad(format!("none within {} s", PATIENCE.as_secs())))?
        .map_err(bad)?;
    serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))
}

async fn get(stream: UnixStream, about: &str) -> Result<Bytes, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| told(&e))?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(about)
        .header(http::header::HOST, "edgecore")
        .body(Empty::<Bytes>::new());
    let response = sender
        .send_request(request.map_err(|e| told(&e))?)
        .await
        .map_err(|e| told(&e))?;
    if !response.status().is_success() {
        return Err(format!("HTTP {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|e| told(&e))?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!(
            "tombolo-control-{}-{name}/edgecore.sock",
            std::process::id()
        ))
    }

    fn sources() -> Sources {
        let status = || -> BoxFuture<'static, Status> {
            Box::pin(async {
                Status {
                    node: "pump-7".to_owned(),
                    ..Status::default()
                }
            })
        };
        let lamp = DeviceView {
            name: "lamp".to_owned(),
            ..DeviceView::default()
        };
        Sources {
            status: Arc::new(status),
            devices: Arc::new(move || vec![lamp.clone()]),
        }
    }

    #[tokio::test]
    async fn the_running_node_says_how_it_is_to_root_alone() {
        let path = socket("ask");
        let control = Control::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(control.serve(sources(), stop.clone()));
        assert_eq!(ask(&path).await.unwrap().node, "pump-7");
        assert_eq!(devices(&path).await.unwrap()[0].name, "lamp");
        assert!(matches!(
            Control::bind(&path).await,
            Err(ControlError::RunsAlready(_))
        ));
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
        assert!(!path.exists(), "the socket is removed at the end");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_node_that_does_not_run_is_told_from_one_that_is_broken() {
        let path = socket("down");
        assert!(matches!(ask(&path).await, Err(ControlError::NotRunning(_))));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(
            matches!(ask(&path).await, Err(ControlError::NotRunning(_))),
            "a dead process left its socket"
        );
        Control::bind(&path).await.unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn clients_that_say_nothing_do_not_keep_others_out_for_ever() {
        let path = socket("slow");
        let control = Control::bind(&path).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(control.serve(sources(), CancellationToken::new()));
        let mut silent = Vec::new();
        for _ in 0..MAX_CLIENTS {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        drop(silent);
        let mut asked = ask(&path).await;
        while asked.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            asked = ask(&path).await;
        }
        assert_eq!(asked.unwrap().node, "pump-7");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
