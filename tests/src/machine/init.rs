//! PID 1 of a machine: mounts what is the machine's own, starts its services and starts them
//! again when they end.
//!
//! It listens on `init.sock` in the machine's directory for one word of order and a service's
//! name: `ping`, `start`, `stop`, `kill`, `pid`.
//!
//! **Invariant:** a service that was not stopped by an order runs again within
//! [`RESTART_AFTER`] of its end.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio, exit},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, sethostname},
};
use parking_lot::{Condvar, Mutex};

use super::boot::{BINDS, Boot, OVERLAYS, Service};
use crate::command;

/// The first argument of an init.
pub const ROLE: &str = "machine-init";
/// How long a service that ended stays down.
pub const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How long an ordered stop may take before it is forced.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Runs a machine; never returns.
pub fn run(dir: Option<OsString>) {
    let Some(dir) = dir.map(PathBuf::from) else {
        exit(2)
    };
    if let Err(error) = prepare(&dir).and_then(|()| Init::start(&dir)) {
        eprintln!("init: {error:#}");
        exit(1);
    }
    exit(0)
}

fn prepare(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("cannot share the mounts")?;
    sethostname(Boot::load(dir)?.hostname)?;
    let resolver = fs::canonicalize("/etc/resolv.conf").ok();
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("cannot mount /run")?;
    for path in OVERLAYS {
        overlay(dir, path)?;
    }
    for path in BINDS {
        bind(dir, path)?;
    }
    write_resolver(resolver)?;
    command::ip("link set lo up").map(drop)
}

/// The machine's writes to `path` go to its own disk, the host's files shine through.
fn overlay(dir: &Path, path: &str) -> Result<()> {
    let upper = dir.join("upper").join(&path[1..]);
    let work = dir.join("work").join(&path[1..]);
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!(
        "lowerdir={path},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        path,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot lay {path} over the host's"))
}

/// `path` is empty at first and only the machine's.
fn bind(dir: &Path, path: &str) -> Result<()> {
    let own = dir.join("bind").join(&path[1..]);
    fs::create_dir_all(&own)?;
    fs::create_dir_all(path)?;
    mount(Some(&own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {path}"))
}

/// The machine's own resolver configuration, at the place where the host's really lies.
fn write_resolver(host: Option<PathBuf>) -> Result<()> {
    let path = host.unwrap_or_else(|| PathBuf::from("/etc/resolv.conf"));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, "nameserver 192.0.2.53\nsearch machine.test\n").context("cannot write resolv.conf")
}

/// The services of a machine and what became of them.
struct Init {
    dir: PathBuf,
    running: Mutex<BTreeMap<String, Entry>>,
    changed: Condvar,
}

struct Entry {
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Up(Pid),
    /// Ended by itself or killed; comes back.
    Down,
    /// An order to stop is being carried out.
    Stopping(Pid),
    Stopped,
}

impl Init {
    fn start(dir: &Path) -> Result<()> {
        let init = Arc::new(Self {
            dir: dir.to_owned(),
            running: Mutex::default(),
            changed: Condvar::new(),
        });
        for service in Boot::load(dir)?.services {
            init.launch(&service)?;
        }
        let listener = UnixListener::bind(dir.join("init.sock"))?;
        let orders = init.clone();
        thread::spawn(move || orders.listen(&listener));
        init.reap()
    }

    /// Starts a service; the lock is held across the fork, so that no end goes unnoticed.
    fn launch(&self, service: &Service) -> Result<()> {
        let mut running = self.running.lock();
        let child = self
            .command(service)?
            .spawn()
            .with_context(|| format!("cannot start {}", service.command[0]))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        running.insert(
            service.name.clone(),
            Entry {
                state: State::Up(pid),
            },
        );
        Ok(())
    }

    fn command(&self, service: &Service) -> Result<Command> {
        let logs = Boot::load(&self.dir)?.logs;
        let name = format!(
            "{}-{}.log",
            nix::unistd::gethostname()?.to_string_lossy(),
            service.name
        );
        let log = File::options().create(true).append(true).open(logs.join(name))?;
        let mut command = Command::new(&service.command[0]);
        command
            .args(&service.command[1..])
            .envs(service.env.iter().cloned())
            .current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        Ok(command)
    }

    /// Buries every process that ends, as PID 1 must, and brings services back.
    fn reap(self: &Arc<Self>) -> Result<()> {
        loop {
            match waitpid(None, None) {
                Ok(status) => self.ended(status.pid()),
                Err(Errno::ECHILD) => thread::sleep(Duration::from_millis(50)),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait for processes"),
            }
        }
    }

    fn ended(self: &Arc<Self>, pid: Option<Pid>) {
        let mut running = self.running.lock();
        for (name, entry) in running.iter_mut() {
            if pid.is_some() && entry.pid() == pid {
                let ordered = entry.state != State::Up(pid.unwrap_or(Pid::from_raw(0)));
                entry.state = if ordered { State::Stopped } else { State::Down };
                if !ordered {
                    self.bring_back(name.clone());
                }
            }
        }
        self.changed.notify_all();
    }

    fn bring_back(self: &Arc<Self>, name: String) {
        let init = self.clone();
        thread::spawn(move || {
            thread::sleep(RESTART_AFTER);
            if init.state(&name) == Some(State::Down)
                && let Err(error) = init.start_service(&name)
            {
                eprintln!("init: {error:#}");
            }
        });
    }

    fn state(&self, name: &str) -> Option<State> {
        self.running.lock().get(name).map(|entry| entry.state)
    }

    fn listen(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            let init = self.clone();
            thread::spawn(move || init.answer(stream));
        }
    }

    fn answer(&self, mut stream: UnixStream) {
        let mut line = String::new();
        let read = stream
            .try_clone()
            .and_then(|reader| BufReader::new(reader).read_line(&mut line));
        let outcome = read.map_err(Into::into).and_then(|_| self.obey(line.trim()));
        let answer = outcome.map_or_else(|error| format!("{error:#}"), |text| format!("ok {text}"));
        let _ = writeln!(stream, "{}", answer.trim());
    }

    fn obey(&self, order: &str) -> Result<String> {
        let (verb, name) = order.split_once(' ').unwrap_or((order, ""));
        match verb {
            "ping" => {}
            "start" => self.stop_service(name).and_then(|()| self.start_service(name))?,
            "stop" => self.stop_service(name)?,
            "kill" => kill(self.pid(name)?, Signal::SIGKILL)?,
            "pid" => return Ok(self.pid(name)?.to_string()),
            _ => bail!("no such order"),
        }
        Ok(String::new())
    }

    fn pid(&self, name: &str) -> Result<Pid> {
        match self.state(name) {
            Some(State::Up(pid)) => Ok(pid),
            Some(State::Down | State::Stopping(_) | State::Stopped) => bail!("{name} is down"),
            None => bail!("no service {name}"),
        }
    }

    /// Starts a service as the boot record has it now.
    fn start_service(&self, name: &str) -> Result<()> {
        let record = Boot::load(&self.dir)?;
        let service = record.services.into_iter().find(|service| service.name == name);
        self.launch(&service.with_context(|| format!("no service {name} in the boot record"))?)
    }

    fn stop_service(&self, name: &str) -> Result<()> {
        let mut running = self.running.lock();
        let Some(entry) = running.get_mut(name) else {
            return Ok(());
        };
        let Some(pid) = entry.pid() else {
            entry.state = State::Stopped;
            return Ok(());
        };
        entry.state = State::Stopping(pid);
        kill(pid, Signal::SIGTERM)?;
        let busy =
            |entries: &mut BTreeMap<String, Entry>| entries.get(name).is_some_and(|e| e.pid() == Some(pid));
        if self
            .changed
            .wait_while_for(&mut running, busy, STOP_WITHIN)
            .timed_out()
        {
            kill(pid, Signal::SIGKILL)?;
            self.changed.wait_while_for(&mut running, busy, STOP_WITHIN);
        }
        Ok(())
    }
}

impl Entry {
    fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Up(pid) | State::Stopping(pid) => Some(pid),
            State::Down | State::Stopped => None,
        }
    }
}
