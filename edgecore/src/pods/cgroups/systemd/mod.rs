//! Asking systemd for slices, as the kubelet does: over D-Bus, on the socket where systemd itself listens.
//!
//! A directory that somebody else made below a slice is taken away by systemd as it pleases, and it overwrites limits
//! it was not told of. So slices are transient units of its own, and their limits are properties. Three calls
//! are needed for that, which is why no D-Bus library is linked.
//!
//! Blocking: each operation is one connection, and gives up after [`PATIENCE`].

mod wire;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use wire::{Body, HEADER, Kind, Message};

pub use wire::Malformed;
pub(super) use wire::{Property, Value};

/// Where the first process of the machine listens; only root may connect.
const SOCKET: &str = "/run/systemd/private";
/// How long a job may take.
const PATIENCE: Duration = Duration::from_secs(30);
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Why systemd did not do what was asked of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// It does not answer at its socket.
    #[error("systemd does not answer at {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not take us for root.
    #[error("systemd lets only root in: {0}")]
    NotLetIn(String),
    /// It said something that is no answer.
    #[error("systemd sent {0}")]
    Malformed(#[from] Malformed),
    /// It refused.
    #[error("systemd refused {call}: {told} ({name})")]
    Refused {
        /// The method.
        call: &'static str,
        /// The name of the error.
        name: String,
        /// Its words.
        told: String,
    },
    /// It tried, and it did not work.
    #[error("systemd's job {call} ended with \"{result}\"")]
    Job {
        /// The method that began the job.
        call: &'static str,
        /// How it ended.
        result: String,
    },
}

/// Where systemd is asked.
#[derive(Clone, Debug)]
pub(super) struct Systemd {
    socket: PathBuf,
}

impl Default for Systemd {
    fn default() -> Self {
        Self::at(Path::new(SOCKET))
    }
}

impl Systemd {
    /// A systemd that listens at `socket`.
    pub(super) fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Makes the slice `name`, which stands in the slice `above`, unless it is there.
    pub(super) fn start_slice(&self, name: &str, above: &str) -> Result<(), SystemdError> {
        let mut properties: Vec<Property> = vec![
            ("Description", Value::Text(format!("pods in {name}"))),
            ("Wants", Value::Texts(vec![above.to_owned()])),
            ("DefaultDependencies", Value::Bool(false)),
        ];
        // Whether or not it is limited: a controller that comes later does not count what was there before.
        let counted = [
            "MemoryAccounting",
            "CPUAccounting",
            "IOAccounting",
            "TasksAccounting",
        ];
        properties.extend(counted.map(|name| (name, Value::Bool(true))));
        let body = Body::default()
            .text(name)
            .text("replace")
            .properties(&properties)
            .nothing();
        match self.job("StartTransientUnit", "ssa(sv)a(sa(sv))", &body) {
            Err(SystemdError::Refused { name, .. }) if name == UNIT_EXISTS => Ok(()),
            result => result,
        }
    }

    /// Sets properties of a unit until the next boot.
    pub(super) fn set(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let body = Body::default().text(unit).bool(true).properties(properties);
        let mut session = self.open()?;
        let done = session.call("SetUnitProperties", "sba(sv)", &body);
        done.map(drop).map_err(|error| error.at(&self.socket))
    }

    /// Stops a unit and returns when it is gone.
    pub(super) fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        let body = Body::default().text(unit).text("replace");
        match self.job("StopUnit", "ss", &body) {
            Err(SystemdError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            result => result,
        }
    }

    fn job(&self, call: &'static str, signature: &str, body: &Body) -> Result<(), SystemdError> {
        let mut session = self.open()?;
        let done = session
            .call(call, signature, body)
            .and_then(|job| session.over(call, &job.text()));
        done.map_err(|error| error.at(&self.socket))
    }

    fn open(&self) -> Result<Session, SystemdError> {
        Session::open(&self.socket).map_err(|error| error.at(&self.socket))
    }
}

/// What went wrong within a session: it does not know its socket's name.
enum Trouble {
    Io(io::Error),
    Told(SystemdError),
}

impl Trouble {
    fn at(self, socket: &Path) -> SystemdError {
        match self {
            Self::Told(error) => error,
            Self::Io(source) => SystemdError::Unreachable {
                path: socket.to_owned(),
                source,
            },
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Malformed> for Trouble {
    fn from(error: Malformed) -> Self {
        Self::Told(error.into())
    }
}

/// One connection.
struct Session {
    stream: UnixStream,
    until: Instant,
    serial: u32,
    /// Jobs that were over before anybody waited for them.
    ended: Vec<(String, String)>,
}

impl Session {
    fn open(socket: &Path) -> Result<Self, Trouble> {
        let mut session = Self {
            stream: UnixStream::connect(socket)?,
            until: Instant::now() + PATIENCE,
            serial: 0,
            ended: Vec::new(),
        };
        session.stream.set_write_timeout(Some(PATIENCE))?;
        session.enter()?;
        Ok(session)
    }

    /// The greeting: who we are is seen by the kernel, and said in hexadecimal digits of its decimal digits.
    ///
    /// All in one, as systemd's own library sends it: a call that systemd reads together with `BEGIN` stays in its
    /// buffer until more comes (seen with 252), so `BEGIN` has to be read before the first call is sent.
    fn enter(&mut self) -> Result<(), Trouble> {
        let uid = hex::encode(nix::unistd::geteuid().to_string());
        self.stream
            .write_all(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 256 {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            let told = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(Trouble::Told(SystemdError::NotLetIn(told)));
        }
        Ok(())
    }

    fn call(&mut self, name: &'static str, signature: &str, body: &Body) -> Result<Message, Trouble> {
        self.serial += 1;
        self.stream
            .write_all(&wire::call(self.serial, name, signature, body))?;
        loop {
            let message = self.next()?;
            match message.kind {
                Kind::Return if message.answers == Some(self.serial) => return Ok(message),
                Kind::Error if message.answers == Some(self.serial) => {
                    return Err(Trouble::Told(SystemdError::Refused {
                        call: name,
                        told: message.text(),
                        name: message.error,
                    }));
                }
                Kind::Return | Kind::Error | Kind::Other => self.ended.extend(ended_job(&message)),
            }
        }
    }

    /// Waits until a job is over.
    fn over(&mut self, call: &'static str, job: &str) -> Result<(), Trouble> {
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| path == job) {
                let result = result.clone();
                return match result.as_str() {
                    "done" => Ok(()),
                    _ => Err(Trouble::Told(SystemdError::Job { call, result })),
                };
            }
            self.ended = ended_job(&self.next()?).into_iter().collect();
        }
    }

    fn next(&mut self) -> Result<Message, Trouble> {
        let mut header = [0; HEADER];
        self.fill(&mut header)?;
        let mut rest = vec![0; Message::rest(&header)?];
        self.fill(&mut rest)?;
        Ok(Message::parse(&header, &rest)?)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        // A timeout of nothing would be none at all.
        self.stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        self.stream.read_exact(bytes)
    }
}

fn ended_job(message: &Message) -> Option<(String, String)> {
    (message.member == "JobRemoved")
        .then(|| message.removed_job())
        .flatten()
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
