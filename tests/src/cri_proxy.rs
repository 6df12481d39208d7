//! A recording proxy on a container runtime's socket.
//!
//! It stands between an agent and the runtime, carries every call and stream through unchanged, and
//! notes what [`Recorder::calls`] gives back: the calls that make, end and ask something of pods.
//!
//! ```text
//!  kubelet / edgecore --> cri.sock (here) --> containerd.sock
//! ```
//!
//! **Invariant:** what the agent sees is what the runtime said, trailers included; a call that cannot
//! be read is carried all the same, and only missing in the notes.

mod carry;
mod notes;

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

pub use self::notes::{Call, Recorder};
use crate::{containerd, machine::Machine};

/// The proxy of one machine; dropping it closes its socket and ends all calls through it.
#[derive(Debug)]
pub struct CriProxy {
    /// What was recorded.
    pub recorder: Arc<Recorder>,
    endpoint: String,
    _tasks: JoinSet<()>,
}

impl CriProxy {
    /// Listens for the agent of a machine that is on.
    pub fn start(machine: &Machine) -> Result<Self> {
        // In the machine's directory, which host and machine see under the same name.
        let socket = machine.dir().join("cri.sock");
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let runtime = containerd::ENDPOINT.trim_start_matches("unix://");
        // The machine's /run, seen from the host.
        let upstream = PathBuf::from(format!("/proc/{}/root{runtime}", machine.pid()?));
        let recorder = Arc::new(Recorder::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, upstream, recorder.clone()));
        Ok(Self {
            recorder,
            endpoint: format!("unix://{}", socket.display()),
            _tasks: tasks,
        })
    }

    /// What to give the agent as its runtime's endpoint.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

async fn listen(listener: UnixListener, upstream: PathBuf, recorder: Arc<Recorder>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, upstream.clone(), recorder.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection of the agent, and one to the runtime for it: when either breaks, both do.
async fn connection(agent: UnixStream, upstream: PathBuf, recorder: Arc<Recorder>) {
    let Ok(runtime) = UnixStream::connect(&upstream).await else {
        return;
    };
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(runtime)).await;
    let Ok((sender, driver)) = shaken else { return };
    let service = service_fn(|request| carry::call(sender.clone(), request, recorder.clone()));
    let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(agent), service);
    tokio::select! {
        _ = serving => {}
        _ = driver => {}
    }
}
