//! Looks at the machine, and at what it must reach. Decides nothing.
//!
//! What may hang is asked with a limit, and what may hang in the kernel on a thread that is given up
//! after it.

mod cloud;
mod machine;
mod others;
mod program;
mod runtime;
mod store;

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use protocol::clock::Clock;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::facts::{
    Broker, Daemon, Facts, Joined, Machine, Mappers, Node, Programs, Runtime, Seen, Store, Unit, Way,
};
use super::one_line;
use crate::cli::Paths;
use crate::cli::control::{self, ControlError};
use crate::cli::join::service::{NAME, systemd_runs};
use crate::config::{Config, ConfigError, DEFAULT_CGROUP_DRIVER, DEFAULT_RUNTIME_ENDPOINT, PodCidr};
use crate::devices::dmi;
use crate::devices::mqtt::{self, Mqtt};
use crate::identity::Held;
use crate::network::api::{self, Knock, Note};

/// How long a look at this machine may take.
const SHORT: Duration = Duration::from_secs(3);
/// How long those may take who work for their answer: the runtime, the daemon, the broker.
const MEDIUM: Duration = Duration::from_secs(5);
/// How long cloudcore may take, over a poor link. The longest chain of looks is two short ones and this.
const LONG: Duration = Duration::from_secs(7);

/// What `work` comes to, if it comes to it in time.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Seen<T> {
    let late = |_| format!("no answer within {} s", limit.as_secs());
    timeout(limit, work).await.map_err(late)
}

/// The same for work that may block.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Seen<T> {
    let done = within(SHORT, tokio::task::spawn_blocking(work)).await?;
    done.map_err(|error| one_line(&error.to_string()))
}

/// An error with all its causes, each once.
fn whole(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        cause = error.source();
    }
    told
}

/// Everything that is judged.
pub(super) async fn facts(paths: &Paths, clock: &Clock) -> Facts {
    let file = paths.config();
    let loaded = aside(move || Config::load(&file)).await;
    let (joined, config) = match loaded {
        Ok(Ok(config)) => (Joined::As(config.node_name.to_string()), Some(config)),
        Ok(Err(ConfigError::NotJoined(_))) => (Joined::Not, None),
        Ok(Err(error)) => (Joined::Broken(whole(&error)), None),
        Err(why) => (Joined::Broken(why), None),
    };
    let (local, daemon, node) = tokio::join!(
        local(config.as_ref(), paths, clock),
        daemon(paths),
        node(config.as_ref(), paths, clock),
    );
    let (runtime, machine) = local;
    Facts {
        joined,
        thresholds: config.map(|config| config.eviction.hard).unwrap_or_default(),
        machine,
        runtime,
        daemon,
        node,
    }
}

/// The runtime, and the machine with what the runtime told.
async fn local(config: Option<&Config>, paths: &Paths, clock: &Clock) -> (Runtime, Seen<Machine>) {
    let endpoint = config.map_or_else(
        || DEFAULT_RUNTIME_ENDPOINT.to_owned(),
        |config| config.runtime_endpoint.to_string(),
    );
    let set = config.map_or(DEFAULT_CGROUP_DRIVER, |config| config.cgroup_driver);
    let (found, daemon) = tokio::join!(runtime::look(&endpoint, set), within(SHORT, peer(paths)));
    let given = machine::Given {
        paths: paths.clone(),
        range: config.map_or(PodCidr::DEFAULT, |config| config.pod_cidr),
        resolv_conf: config.and_then(|config| config.resolv_conf.clone()),
        told: found.told,
        images: found.images,
        daemon: daemon.ok().flatten(),
    };
    let clock = clock.clone();
    let seen = aside(move || machine::look(&given, &clock)).await;
    (found.runtime, seen)
}

/// The process that answers at the control socket.
async fn peer(paths: &Paths) -> Option<i32> {
    let stream = UnixStream::connect(paths.control_socket()).await.ok()?;
    stream.peer_cred().ok()?.pid()
}

async fn daemon(paths: &Paths) -> Daemon {
    let socket = paths.control_socket();
    match within(MEDIUM, control::ask(&socket)).await {
        Ok(Ok(status)) => Daemon::Runs(Box::new(status)),
        Ok(Err(ControlError::NotRunning(_))) => Daemon::Absent,
        Ok(Err(error)) => Daemon::Silent(whole(&error)),
        Err(why) => Daemon::Silent(why),
    }
}

async fn node(config: Option<&Config>, paths: &Paths, clock: &Clock) -> Option<Node> {
    let config = config?;
    let (own, there, programs, api) = tokio::join!(
        own(config, paths, clock),
        beyond(config, paths),
        programs(paths),
        api(paths)
    );
    let Own {
        identity,
        open_files,
        ways,
        ahead,
    } = own;
    let (unit, store, broker, mappers) = there;
    Some(Node {
        identity,
        open_files,
        ways,
        taints: taints(config),
        has_proxy: config.proxy.is_some(),
        ahead,
        unit,
        programs,
        store,
        broker,
        mappers,
        api,
    })
}

fn taints(config: &Config) -> Vec<String> {
    let mut taints: Vec<_> = config.taints.iter().map(ToString::to_string).collect();
    taints.sort_unstable();
    taints
}

/// The identity, and what it opens.
struct Own {
    identity: Seen<Result<i64, String>>,
    open_files: Vec<String>,
    ways: Vec<Way>,
    ahead: Seen<i64>,
}

async fn own(config: &Config, paths: &Paths, clock: &Clock) -> Own {
    let files = paths.identity();
    let (name, secrets) = (config.node_name.clone(), [paths.key(), paths.config()]);
    let read = aside(move || (files.read(&name), machine::open_to_others(&secrets))).await;
    let held = read.as_ref().ok().and_then(|(read, _)| read.as_ref().ok());
    let (ways, ahead) = tokio::join!(
        cloud::ways(config, held, clock),
        cloud::ahead(config, held, clock)
    );
    let lasts = |held: Held| seconds_to(held.ends, clock.now());
    let (identity, open_files) = match read {
        Ok((read, open)) => (Ok(read.map(lasts).map_err(|error| whole(&error))), open),
        Err(why) => (Err(why), Vec::new()),
    };
    Own {
        identity,
        open_files,
        ways,
        ahead,
    }
}

fn seconds_to(end: SystemTime, now: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()).max(1),
    }
}

/// What is around the node.
async fn beyond(config: &Config, paths: &Paths) -> (Seen<Unit>, Seen<Store>, Broker, Seen<Mappers>) {
    tokio::join!(
        unit(paths),
        store(paths),
        broker(config, paths),
        mappers(config, paths)
    )
}

async fn unit(paths: &Paths) -> Seen<Unit> {
    if !systemd_runs(paths) {
        return Ok(Unit::NoSystemd);
    }
    Ok(match systemctl(&["is-enabled", NAME]).await?.trim() {
        "" | "not-found" => Unit::Missing,
        // Enabled for ever or until the next boot, or by a link.
        word => Unit::Installed {
            is_enabled: word.starts_with("enabled") || word == "linked" || word == "static",
        },
    })
}

async fn programs(paths: &Paths) -> Seen<Programs> {
    let unit = async {
        if !systemd_runs(paths) {
            return Ok(None);
        }
        let words = [
            "show",
            "--property=ExecStart",
            "--property=NeedDaemonReload",
            NAME,
        ];
        systemctl(&words).await.map(|shown| program::unit(&shown))
    };
    let (unit, daemon) = tokio::join!(unit, within(SHORT, peer(paths)));
    let (unit, daemon) = (unit?, daemon?);
    let seen = aside(move || program::look(unit, daemon, "/proc".as_ref())).await?;
    seen.map_err(|error| error.to_string())
}

/// What systemd says, whatever it thinks of it.
async fn systemctl(words: &[&str]) -> Seen<String> {
    let mut asking = Command::new("systemctl");
    asking.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(SHORT, asking.output()).await?;
    let output = output.map_err(|error| format!("systemctl: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Opening what a daemon holds would do no harm, but it changes while it is read.
async fn store(paths: &Paths) -> Seen<Store> {
    if within(SHORT, peer(paths)).await?.is_some() {
        return Ok(Store::InUse);
    }
    let dir = paths.state_dir();
    aside(move || store::look(&dir)).await
}

/// Two connections of one client end each other, so a daemon that may be connected is not shown there again.
async fn broker(config: &Config, paths: &Paths) -> Broker {
    let (name, address) = (config.node_name.to_string(), config.mqtt.address.to_string());
    let knock = match is_connected(&daemon(paths).await, &address) {
        Some(is_in) => within(MEDIUM, mqtt::knock(&config.mqtt, &name, is_in)).await,
        None => Err("not asked: edgecore runs, and does not say whether it is connected".to_owned()),
    };
    Broker {
        address,
        is_named: config.mqtt != Mqtt::default(),
        knock,
    }
}

/// Whether the daemon is connected to the broker at this address; not known of one that does not answer.
fn is_connected(daemon: &Daemon, address: &str) -> Option<bool> {
    match daemon {
        Daemon::Absent => Some(false),
        Daemon::Silent(_) => None,
        Daemon::Runs(status) => {
            let there = status.broker.as_ref().filter(|broker| broker.address == address);
            Some(there.is_some_and(|broker| broker.connected))
        }
    }
}

async fn mappers(config: &Config, paths: &Paths) -> Seen<Mappers> {
    let (socket, group) = (paths.at(&config.dmi.socket), config.dmi.group.clone());
    let open = within(SHORT, UnixStream::connect(&socket)).await?;
    let named = group.clone();
    Ok(Mappers {
        socket: socket.display().to_string(),
        has_group: aside(move || dmi::has_group(&named)).await?,
        group,
        open: open.map(drop).map_err(|error| error.to_string()),
    })
}

/// The API server's address, while edgecore runs: what another left behind leads nowhere.
async fn api(paths: &Paths) -> Seen<Option<Knock>> {
    if within(SHORT, peer(paths)).await?.is_none() {
        return Ok(None);
    }
    let note = Note::at(&paths.api_server());
    let noted = aside(move || note.read()).await?;
    let Some(endpoint) = noted.map_err(|error| whole(&error))? else {
        return Ok(None);
    };
    let knocked = api::knock(endpoint, SHORT).await;
    knocked.map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::{self, Status};

    #[test]
    fn a_daemon_that_may_be_connected_is_not_shown_to_the_broker_again() {
        let address = "mqtt://127.0.0.1:1883";
        let of = |daemon: &Daemon| is_connected(daemon, address);
        assert_eq!(of(&Daemon::Absent), Some(false));
        assert_eq!(of(&Daemon::Silent(String::new())), None);
        let says = |address: &str, connected| {
            let broker = status::Broker {
                address: address.to_owned(),
                connected,
                ..status::Broker::default()
            };
            Daemon::Runs(Box::new(Status {
                broker: Some(broker),
                ..Status::default()
            }))
        };
        assert_eq!(of(&says(address, true)), Some(true));
        assert_eq!(of(&says(address, false)), Some(false));
        let edited = says("mqtt://192.0.2.7:1883", true);
        assert_eq!(of(&edited), Some(false), "the file names another one by now");
    }
}
