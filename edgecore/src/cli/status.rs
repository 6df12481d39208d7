//! `edgecore status`: how the node is, for people and for programs.
//!
//! The running node is asked; when it does not run, that is said first, and then what the disk
//! tells without it.

mod device;
mod offline;
mod pod;
mod table;

pub(in crate::cli) use table::table;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use protocol::clock::Clock;

pub use device::DeviceLine;

use super::control::{self, ControlError};
use super::{Output, Paths};
use crate::identity::{CertificateView, left};

/// How the node is. Times are RFC 3339; what is not known is empty or absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// Whether the daemon answered; false when this was read from the disk.
    pub running: bool,
    /// The node's name.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// Since when the daemon runs.
    pub since: Option<String>,
    /// The link to cloudcore.
    pub link: Link,
    /// The cluster.
    pub cluster: Cluster,
    /// When the node's certificate ends.
    pub certificate_expires: Option<String>,
    /// Seconds to that; negative when it has ended.
    pub certificate_ends_in_seconds: Option<i64>,
    /// Seconds until another is asked for; not known before the first link.
    pub certificate_renews_in_seconds: Option<u64>,
    /// The node's conditions.
    pub conditions: Vec<Condition>,
    /// The Node's taints as the cluster has them, as edgecore.yaml writes them; not known before the first link.
    pub taints: Option<Vec<String>>,
    /// The pods that the node holds.
    pub pods: Vec<PodLine>,
    /// The devices that the node serves.
    pub devices: Vec<DeviceLine>,
    /// The MQTT broker of the site; not known while the daemon does not run.
    pub broker: Option<Broker>,
    /// The store.
    pub store: Store,
    /// What waits to be reported.
    pub outbox: Outbox,
    /// What an operator should know beside all that.
    pub warnings: Vec<String>,
}

/// The link to cloudcore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Link {
    /// `connected`, `connecting`, `offline`.
    pub state: String,
    /// Since when.
    pub since: Option<String>,
    /// The address in use, or tried last.
    pub address: String,
    /// `quic` or `websocket`.
    pub transport: String,
    /// The replica at the other end.
    pub replica: String,
    /// Why the last attempt failed, or the last session ended.
    pub last_error: String,
    /// Seconds to the next attempt.
    pub next_attempt_seconds: Option<u64>,
    /// Kinds of objects that equal the cluster's view in this session.
    pub synced: Vec<String>,
    /// What crossed the link since the daemon started, by class, the most urgent first.
    pub traffic: Vec<ClassTraffic>,
    /// What the operator lets classes cost.
    pub budgets: Vec<BudgetLine>,
}

/// The MQTT broker of the site. Numbers since the daemon started, but for the broker's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Broker {
    /// Where it is.
    pub address: String,
    /// Whether it answers.
    pub connected: bool,
    /// Connections after the first.
    pub reconnects: u64,
    /// Messages of devices that were not taken.
    pub refused: u64,
    /// Messages of devices that found no room.
    pub dropped_in: u64,
    /// Messages for devices that found no room.
    pub dropped_out: u64,
    /// What the broker says that it dropped.
    pub dropped_by_broker: u64,
    /// Messages of devices that were too large, over MQTT 3.1.1.
    pub too_large: u64,
    /// Sessions given up because of what could not be read, with all that waited in them.
    pub sessions_dropped: u64,
}

/// The budget of one class, both ways together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BudgetLine {
    /// `interactive`, `messages_normal`, `bulk`.
    pub class: String,
    /// Bytes a day.
    pub day: Option<u64>,
    /// Bytes used of the day's.
    pub used: u64,
    /// When the day's budget renews.
    pub renews: String,
    /// Bytes a second.
    pub second: Option<u64>,
    /// Events that wait until it renews.
    pub deferred: u64,
}

/// What crossed the link in one class, without what the transport adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClassTraffic {
    /// `control`, `desired`, …
    pub class: String,
    /// Bytes to the cluster.
    pub sent: u64,
    /// Bytes from it.
    pub received: u64,
}

/// The cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cluster {
    /// Its id: the UID of its namespace kube-system.
    pub id: String,
    /// Its epoch.
    pub epoch: u64,
    /// Whether cloudcore reaches the API server, while it says so.
    pub api_reachable: Option<bool>,
}

/// One condition of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `MemoryPressure`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// A word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Since when.
    pub since: Option<String>,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// `Running`, or why not: `CrashLoopBackOff`.
    pub state: String,
    /// Containers that are ready.
    pub ready: u32,
    /// Containers in all.
    pub containers: u32,
    /// Restarts of all containers.
    pub restarts: u32,
    /// Its address.
    pub ip: String,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Store {
    /// Bytes on disk: what the node must hold.
    pub meta_bytes: u64,
    /// Bytes on disk: what waits to be reported.
    pub outbox_bytes: u64,
    /// Bytes on disk: large values.
    pub objects_bytes: u64,
    /// Objects held.
    pub objects: u64,
}

/// What waits to be reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Outbox {
    /// Entries.
    pub waiting: u64,
    /// How many of them are events that wait for their budget.
    pub deferred: u64,
    /// What the cluster refused and is tried again, with its words.
    pub refused: Vec<String>,
}

impl Status {
    /// Tells how the certificate is that ends then.
    pub fn tell_certificate(&mut self, view: &CertificateView, now: SystemTime) {
        let CertificateView {
            ends,
            renews,
            trouble,
            unwritten,
        } = view;
        if let Some(why) = unwritten {
            self.warnings.push(format!(
                "the renewed certificate is not on the disk, a restart loses it: {why}"
            ));
        }
        let Some(ends) = ends else {
            let why = trouble.as_deref().unwrap_or("there is none");
            self.warnings
                .push(format!("the node's certificate cannot be used: {why}"));
            return;
        };
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        self.certificate_expires = jiff::Timestamp::try_from(*ends).ok().map(|end| end.to_string());
        self.certificate_ends_in_seconds = Some(
            ends.duration_since(now)
                .map_or_else(|past| -seconds(past.duration()), seconds),
        );
        let until = |due: &SystemTime| due.duration_since(now).unwrap_or_default().as_secs();
        self.certificate_renews_in_seconds = renews.as_ref().map(until);
        if let Some(trouble) = trouble {
            let left = left(*ends, now);
            self.warnings
                .push(format!("the certificate {left} and was not renewed: {trouble}"));
        }
    }

    /// The taints of a Node that a person or its configuration gave it: those that the cluster sets from what it
    /// sees are no setting.
    pub fn taints_of(node: &k8s_openapi::api::core::v1::Node) -> Vec<String> {
        let taints = node.spec.iter().filter_map(|spec| spec.taints.as_ref()).flatten();
        let written = taints.map(|taint| match taint.value.as_deref().unwrap_or_default() {
            "" => format!("{}:{}", taint.key, taint.effect),
            value => format!("{}={value}:{}", taint.key, taint.effect),
        });
        // What is no taint of a configuration is one of the cluster's.
        let mut taints: Vec<String> = written
            .filter(|text| text.parse::<crate::config::Taint>().is_ok())
            .collect();
        taints.sort_unstable();
        taints
    }

    /// The conditions of a Node, as they are shown here.
    pub fn conditions_of(node: &k8s_openapi::api::core::v1::Node) -> Vec<Condition> {
        let conditions = node
            .status
            .iter()
            .filter_map(|status| status.conditions.as_ref())
            .flatten();
        conditions
            .map(|condition| Condition {
                kind: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
                since: condition
                    .last_transition_time
                    .as_ref()
                    .map(|time| time.0.to_string()),
            })
            .collect()
    }
}

impl Store {
    /// Measures the directories of the store.
    pub fn measure(state_dir: &std::path::Path) -> Self {
        let size = |name: &str| directory_bytes(&state_dir.join(name));
        Self {
            meta_bytes: size("meta"),
            outbox_bytes: size("outbox"),
            objects_bytes: size("objects"),
            objects: 0,
        }
    }
}

fn directory_bytes(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => directory_bytes(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Prints how the node is. Fails when the daemon does not run, after saying what is known.
pub(super) async fn show(output: Output, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    super::join::must_be_root(paths)?;
    let asked = control::ask(&paths.control_socket()).await;
    let (status, trouble) = match asked {
        Ok(status) => (status, None),
        Err(error @ ControlError::NotRunning(_)) => (offline::read(paths, clock).await?, Some(error)),
        Err(error) => return Err(error.into()),
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table => print!("{}", table::render(&status)),
    }
    trouble.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests;
