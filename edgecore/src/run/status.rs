//! What the running node says of itself to `edgecore status`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use protocol::class::Class;
use protocol::devices::DeviceName;
use protocol::transport::Traffic;

use super::Parts;
use crate::cli::control::{Sources, StatusSource};
use crate::cli::get::DeviceView;
use crate::cli::status::{
    Broker, BudgetLine, ClassTraffic, Cluster, DeviceLine, Link, Outbox, PodLine, Status, Store,
};
use crate::devices::{Served, Twins as _};
use crate::pods::desired::DesiredPod;
use crate::pods::seams::PodSource as _;
use crate::pods::spec;
use crate::uplink::{BudgetState, LinkState};

/// Answers from the parts of the node, and never waits for any of them.
pub(super) fn sources(parts: Arc<Parts>) -> Sources {
    let since = text(parts.clock.now());
    let of_devices = Arc::clone(&parts);
    let status: StatusSource = Arc::new(move || {
        let (parts, since) = (Arc::clone(&parts), since.clone());
        Box::pin(async move { status(&parts, since) })
    });
    Sources {
        status,
        devices: Arc::new(move || device_views(&of_devices)),
    }
}

/// Every device, with all that its twin has.
fn device_views(parts: &Parts) -> Vec<DeviceView> {
    let (twins, now) = (&parts.devices, parts.clock.now_millis());
    let view = |(name, served): (&DeviceName, &Arc<Served>)| {
        let twin = twins.twin(name).unwrap_or_default();
        DeviceView::of(served, twins.standing(name), twin, now)
    };
    twins.devices().iter().map(view).collect()
}

fn status(parts: &Parts, since: Option<String>) -> Status {
    let (id, epoch) = parts.flow.cluster();
    let state = parts.link.watch().borrow().clone();
    let node = parts.node.borrow().clone();
    let mut link = link(&state, parts.clock.now());
    link.synced = parts.flow.synced().iter().map(ToString::to_string).collect();
    link.traffic = traffic(parts.link.traffic());
    let deferred = deferred(parts);
    let budgets = parts.link.budgets().states();
    link.budgets = budgets.iter().map(|state| budget_line(state, deferred)).collect();
    let api_reachable = match state {
        LinkState::Connected { api_reachable, .. } => Some(api_reachable),
        LinkState::Offline { .. } => None,
    };
    let mut status = Status {
        running: true,
        node: parts.config.node_name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since,
        link,
        cluster: Cluster {
            id,
            epoch,
            api_reachable,
        },
        certificate_expires: None,
        certificate_ends_in_seconds: None,
        certificate_renews_in_seconds: None,
        conditions: node.iter().flat_map(Status::conditions_of).collect(),
        taints: parts
            .desired
            .own_node(parts.config.node_name.as_str())
            .map(|node| Status::taints_of(&node)),
        pods: parts
            .desired
            .pods()
            .iter()
            .map(|pod| pod_line(pod, parts))
            .collect(),
        devices: devices(parts),
        store: Store {
            objects: parts.desired.objects() as u64,
            ..Store::measure(&parts.paths.state_dir())
        },
        outbox: Outbox {
            waiting: parts.reporter.pending() as u64,
            deferred,
            refused: parts.reporter.troubles(),
        },
        broker: Some(broker(parts)),
        warnings: warnings(parts),
    };
    status.tell_certificate(&parts.identity.view(), parts.clock.now());
    status
}

/// What somebody should look at.
fn warnings(parts: &Parts) -> Vec<String> {
    let repaired = parts.stores.incidents.iter().map(ToString::to_string);
    repaired
        .chain(super::frozen::warnings(&parts.stores, &parts.paths))
        .chain(parts.link.troubles())
        .chain(broker_warnings(parts))
        .collect()
}

/// The MQTT broker, as the bridge sees it.
fn broker(parts: &Parts) -> Broker {
    let counted = parts.mqtt.read();
    Broker {
        address: parts.config.mqtt.address.to_string(),
        connected: counted.connected,
        reconnects: counted.reconnects,
        refused: counted.refused,
        dropped_in: counted.dropped_in,
        dropped_out: counted.dropped_out,
        dropped_by_broker: counted.broker_dropped,
        too_large: counted.too_large,
        sessions_dropped: counted.sessions_dropped,
    }
}

/// What is wrong with the MQTT broker, if any device needs it.
fn broker_warnings(parts: &Parts) -> Vec<String> {
    let counted = parts.mqtt.read();
    let devices = parts.devices.devices();
    let needed = devices.values().any(|device| device.protocol.is_empty());
    let absent = (needed && !counted.connected)
        .then(|| format!("the MQTT broker at {} does not answer", parts.config.mqtt.address));
    let dropped = (counted.broker_dropped > 0)
        .then(|| format!("the MQTT broker dropped {} messages", counted.broker_dropped));
    absent.into_iter().chain(dropped).collect()
}

fn link(state: &LinkState, now: SystemTime) -> Link {
    match state {
        LinkState::Connected {
            since,
            address,
            transport,
            replica,
            ..
        } => Link {
            state: "connected".to_owned(),
            since: text(*since),
            address: address.clone(),
            transport: transport.to_string().to_ascii_lowercase(),
            replica: replica.clone(),
            ..Link::default()
        },
        LinkState::Offline {
            since,
            address,
            reason,
            pause,
            at,
        } => Link {
            state: if reason.is_empty() {
                "connecting"
            } else {
                "offline"
            }
            .to_owned(),
            since: text(*since),
            address: address.clone(),
            last_error: reason.clone(),
            next_attempt_seconds: Some(left(*at, *pause, now).as_secs()),
            ..Link::default()
        },
    }
}

/// The classes of which something was sent or received.
fn traffic(traffic: &Traffic) -> Vec<ClassTraffic> {
    let line = |class: Class| {
        let bytes = traffic.of(class);
        ClassTraffic {
            class: class.name().to_owned(),
            sent: bytes.sent,
            received: bytes.received,
        }
    };
    let lines = Class::ALL.into_iter().map(line);
    lines.filter(|line| line.sent + line.received > 0).collect()
}

/// How many events wait because their budget is spent.
fn deferred(parts: &Parts) -> u64 {
    match parts.link.budgets().admit(Class::MessagesNormal) {
        Ok(()) => 0,
        Err(_) => parts.reporter.pending_events() as u64,
    }
}

fn budget_line(state: &BudgetState, deferred: u64) -> BudgetLine {
    BudgetLine {
        class: state.budget.class.name().to_owned(),
        day: state.budget.day,
        used: state.used,
        renews: state.renews.to_string(),
        second: state.budget.second,
        deferred: if state.budget.class == Class::MessagesNormal {
            deferred
        } else {
            0
        },
    }
}

fn devices(parts: &Parts) -> Vec<DeviceLine> {
    let twins = &parts.devices;
    let line = |(name, served): (&DeviceName, &Arc<Served>)| {
        DeviceLine::of(served, twins.standing(name), twins.twin(name).unwrap_or_default())
    };
    twins.devices().iter().map(line).collect()
}

fn left(at: SystemTime, pause: Duration, now: SystemTime) -> Duration {
    let passed = now.duration_since(at).unwrap_or_default();
    pause.saturating_sub(passed)
}

fn pod_line(wanted: &DesiredPod, parts: &Parts) -> PodLine {
    let status = parts.reporter.last_status(spec::uid(&wanted.pod));
    PodLine::of(&wanted.pod, &status.unwrap_or_default())
}

fn text(time: SystemTime) -> Option<String> {
    let time = Timestamp::try_from(time).ok()?;
    Some(Timestamp::from_second(time.as_second()).ok()?.to_string())
}
