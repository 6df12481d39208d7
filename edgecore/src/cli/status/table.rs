//! The status for people. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use protocol::tls::human;

use super::{Broker, BudgetLine, ClassTraffic, Condition, Link, Status};

/// The whole text.
pub(super) fn render(status: &Status) -> String {
    let mut out = String::new();
    if !status.running {
        out.push_str(
            "edgecore does not run; this is what the disk says (start it: systemctl start edgecore)\n\n",
        );
    }
    line(&mut out, "Node", &status.node);
    line(&mut out, "Version", &status.version);
    line(&mut out, "Link", &link(&status.link));
    if !status.link.last_error.is_empty() {
        line(&mut out, "", &format!("last error: {}", status.link.last_error));
    }
    line(&mut out, "Cluster", &cluster(status));
    line(&mut out, "Certificate", &certificate(status));
    line(&mut out, "Store", &store(status));
    line(&mut out, "Outbox", &outbox(status));
    for refused in &status.outbox.refused {
        line(&mut out, "", &format!("refused: {refused}"));
    }
    if let Some(found) = &status.broker {
        line(&mut out, "Broker", &broker(found));
    }
    if !status.link.traffic.is_empty() {
        line(&mut out, "Traffic", &traffic(&status.link.traffic));
    }
    for of in &status.link.budgets {
        line(&mut out, "Budget", &budget(of));
    }
    for warning in &status.warnings {
        line(&mut out, "Warning", warning);
    }
    conditions(&mut out, &status.conditions);
    pods(&mut out, status);
    devices(&mut out, status);
    out
}

fn line(out: &mut String, label: &str, text: &str) {
    let label = if label.is_empty() {
        String::new()
    } else {
        format!("{label}:")
    };
    let _ = writeln!(out, "{label:<13}{text}");
}

fn link(link: &Link) -> String {
    let mut text = if link.state.is_empty() {
        "unknown".to_owned()
    } else {
        link.state.clone()
    };
    for (word, value) in [
        ("to", &link.address),
        ("over", &link.transport),
        ("replica", &link.replica),
    ] {
        if !value.is_empty() {
            let _ = write!(text, " {word} {value}");
        }
    }
    if let Some(since) = &link.since {
        let _ = write!(text, " since {since}");
    }
    if let Some(seconds) = link.next_attempt_seconds {
        let _ = write!(text, ", next attempt in {seconds} s");
    }
    text
}

fn broker(broker: &Broker) -> String {
    let state = if broker.connected {
        "connected"
    } else {
        "not connected"
    };
    let mut text = format!("{state} ({})", broker.address);
    for (number, what) in [
        (broker.dropped_in, "from devices dropped"),
        (broker.dropped_out, "to devices dropped"),
        (broker.dropped_by_broker, "dropped by the broker"),
        (broker.refused, "refused"),
        (broker.too_large, "too large"),
        (broker.sessions_dropped, "sessions dropped"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {number} {what}");
        }
    }
    text
}

fn traffic(classes: &[ClassTraffic]) -> String {
    let one = |of: &ClassTraffic| format!("{} {} up {} down", of.class, size(of.sent), size(of.received));
    let all: Vec<String> = classes.iter().map(one).collect();
    format!("{} since the start", all.join(", "))
}

fn budget(budget: &BudgetLine) -> String {
    let mut parts = Vec::new();
    if let Some(day) = budget.day {
        let spent = match &*budget.class {
            _ if budget.used < day => String::new(),
            "messages_normal" => format!(", spent: events wait until then ({} do)", budget.deferred),
            _ => ", spent: new tunnels are refused".to_owned(),
        };
        let (used, day) = (size(budget.used), size(day));
        parts.push(format!(
            "{used} of {day} today, renews at {}{spent}",
            budget.renews
        ));
    }
    if let Some(second) = budget.second {
        parts.push(format!("{} a second", size(second)));
    }
    format!("{} {}", budget.class, parts.join("; "))
}

fn cluster(status: &Status) -> String {
    let id = if status.cluster.id.is_empty() {
        "unknown"
    } else {
        &status.cluster.id
    };
    match status.cluster.api_reachable {
        Some(false) => format!("{id} (cloudcore does not reach the API server)"),
        _ => id.to_owned(),
    }
}

fn certificate(status: &Status) -> String {
    let Some(end) = &status.certificate_expires else {
        return "unknown".to_owned();
    };
    let span = |seconds: u64| human(Duration::from_secs(seconds));
    let ends = match status.certificate_ends_in_seconds {
        Some(past) if past < 0 => format!(" (ended {} ago)", span(past.unsigned_abs())),
        Some(left) => {
            let renews = status.certificate_renews_in_seconds.map(|seconds| match seconds {
                0 => ", is being renewed".to_owned(),
                _ => format!(", renews in {}", span(seconds)),
            });
            format!(
                " (ends in {}{})",
                span(left.unsigned_abs()),
                renews.unwrap_or_default()
            )
        }
        None => String::new(),
    };
    format!("until {end}{ends}")
}

fn store(status: &Status) -> String {
    let store = &status.store;
    let bytes = store.meta_bytes + store.outbox_bytes + store.objects_bytes;
    format!("{} objects, {} on disk", store.objects, size(bytes))
}

fn outbox(status: &Status) -> String {
    match (status.outbox.waiting, status.outbox.deferred) {
        (0, _) => "empty: the cluster knows everything".to_owned(),
        (1, 0) => "1 report waits for the link".to_owned(),
        (many, 0) => format!("{many} reports wait for the link"),
        (many, events) if many == events => format!("{events} events wait for their budget"),
        (many, events) => format!("{many} reports wait, {events} of them events for their budget"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

fn conditions(out: &mut String, conditions: &[Condition]) {
    if conditions.is_empty() {
        return;
    }
    let row = |c: &Condition| {
        [
            c.kind.clone(),
            c.status.clone(),
            c.reason.clone(),
            c.message.clone(),
        ]
    };
    out.push('\n');
    table(
        out,
        ["CONDITION", "STATUS", "REASON", "MESSAGE"],
        conditions.iter().map(row),
    );
}

fn pods(out: &mut String, status: &Status) {
    out.push('\n');
    if status.pods.is_empty() {
        out.push_str("No pods.\n");
        return;
    }
    let rows = status.pods.iter().map(|pod| {
        let ready = format!("{}/{}", pod.ready, pod.containers);
        [
            pod.namespace.clone(),
            pod.name.clone(),
            ready,
            pod.state.clone(),
            pod.restarts.to_string(),
            pod.ip.clone(),
        ]
    });
    table(
        out,
        ["NAMESPACE", "POD", "READY", "STATE", "RESTARTS", "IP"],
        rows,
    );
}

fn devices(out: &mut String, status: &Status) {
    if status.devices.is_empty() {
        return;
    }
    out.push('\n');
    let rows = status.devices.iter().map(|device| {
        [
            device.namespace.clone(),
            device.name.clone(),
            device.state.clone(),
            device.last_seen.clone().unwrap_or_default(),
            device.glance(),
        ]
    });
    table(out, ["NAMESPACE", "DEVICE", "STATE", "LAST SEEN", "VALUES"], rows);
}

/// Columns as wide as their widest cell; the last one is not padded.
pub(in crate::cli) fn table<const N: usize>(
    out: &mut String,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let head = head.map(str::to_owned);
    let rows: Vec<[String; N]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}
