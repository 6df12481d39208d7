//! What the facts mean, and what mends it. Pure.

mod api;
mod machine;
mod program;
mod reach;
mod running;

use std::time::Duration;

use protocol::tls::human;

use super::Finding;
use super::facts::{Daemon, Facts, Joined, Node, Seen, Store, Unit};

/// A clock that is off by more than this is worth a word.
const SLACK: u64 = 5 * 60;
/// One that is off by more than this ends certificates, or begins none.
const FAR: u64 = 24 * 3600;
/// A certificate that ends so soon should have been renewed.
const SOON: i64 = 3 * 24 * 3600;

/// One finding for each check, in the order in which they build on each other.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![configuration(&facts.joined)];
    if let Some(node) = &facts.node {
        found.extend(identity(node, &facts.daemon));
    }
    found.push(clock(facts));
    if let Some(node) = &facts.node {
        found.push(service(&node.unit, &facts.daemon));
        found.extend(program::programs(&node.programs));
        found.push(store(&node.store, &facts.daemon));
    }
    found.extend(machine::runtime(&facts.runtime, facts.node.is_some()));
    found.extend(machine::machine(
        &facts.machine,
        &facts.thresholds,
        facts.node.is_some(),
    ));
    if let Some(node) = &facts.node {
        found.extend(reach::ways(&node.ways, node.has_proxy));
        found.extend(reach::broker(&node.broker, &facts.daemon));
        found.extend(reach::mappers(&node.mappers, &facts.daemon));
        found.extend(api::address(&node.api, &facts.daemon));
    }
    if let Daemon::Runs(status) = &facts.daemon {
        found.extend(running::status(status));
        let configured = facts.node.as_ref().map(|node| &node.taints);
        found.extend(configured.and_then(|configured| running::taints(configured, status)));
    }
    found
}

fn configuration(joined: &Joined) -> Finding {
    const CHECK: &str = "configuration";
    match joined {
        Joined::As(node) => Finding::ok(CHECK, format!("this device has joined as {node}")),
        Joined::Broken(why) => Finding::failed(
            CHECK,
            why,
            "mend what it names in /etc/tombolo/edgecore.yaml, and restart edgecore",
        ),
        Joined::Not => Finding::warning(
            CHECK,
            "this device has not joined a cluster",
            "make a token in the cluster (cloudcore token create), then: edgecore join ADDRESS --token-file FILE",
        ),
    }
}

fn identity(node: &Node, daemon: &Daemon) -> Vec<Finding> {
    const CHECK: &str = "certificate";
    const AGAIN: &str = "make a token in the cluster (cloudcore token create) and run edgecore join ADDRESS \
         --token-file FILE; the key and the pods stay";
    let human = |seconds: i64| human(Duration::from_secs(seconds.unsigned_abs()));
    let found = match &node.identity {
        Err(why) => Finding::unknown(CHECK, why, "does the disk of /etc/tombolo answer? dmesg"),
        Ok(Err(why)) => Finding::failed(
            CHECK,
            why,
            "edgecore join ADDRESS --token-file FILE makes anew what is lost of /etc/tombolo/pki, and the pods stay; where \
             that is node.key, with a token of cloudcore token create --node NAME --replace-key",
        ),
        Ok(Ok(left @ ..0)) => Finding::failed(CHECK, format!("ended {} ago", human(*left)), AGAIN),
        Ok(Ok(left @ 0..SOON)) if !renews_by_itself(daemon) => Finding::warning(
            CHECK,
            format!("ends in {}, and was not renewed", human(*left)),
            "cloudcore renews it over the link: see the lines of the link and of cloudcore",
        ),
        Ok(Ok(left)) => Finding::ok(
            CHECK,
            format!(
                "fits the key, the CA and the node's name; ends in {}",
                human(*left)
            ),
        ),
    };
    let open = (!node.open_files.is_empty()).then(|| {
        Finding::warning(
            "secrets",
            format!("others than root may read {}", node.open_files.join(", ")),
            "chmod 600 these files; if others were on the device, join with a new key (edgecore reset)",
        )
    });
    std::iter::once(found).chain(open).collect()
}

/// Whether the daemon waits for its time to renew the certificate.
fn renews_by_itself(daemon: &Daemon) -> bool {
    match daemon {
        Daemon::Runs(status) => status
            .certificate_renews_in_seconds
            .is_some_and(|seconds| seconds > 0),
        Daemon::Absent | Daemon::Silent(_) => false,
    }
}

fn clock(facts: &Facts) -> Finding {
    const CHECK: &str = "clock";
    const SET: &str = "set it, and keep it set: timedatectl set-ntp true, or date -s";
    let is_behind = facts
        .machine
        .as_ref()
        .is_ok_and(|machine| machine.clock_is_behind);
    let ahead = facts.node.as_ref().and_then(|node| node.ahead.as_ref().ok());
    let Some(ahead) = ahead else {
        if is_behind {
            return Finding::failed(CHECK, "is behind the day on which this program was built", SET);
        }
        return match &facts.machine {
            Ok(_) => Finding::ok(
                CHECK,
                "is plausible; there is no time of the cluster to compare it with",
            ),
            Err(why) => Finding::unknown(CHECK, why, "date"),
        };
    };
    let off = ahead.unsigned_abs();
    let side = if *ahead > 0 { "ahead of" } else { "behind" };
    let seen = format!("is {} {side} the cluster's", human(Duration::from_secs(off)));
    match off {
        FAR.. => Finding::failed(CHECK, seen, SET),
        SLACK.. => Finding::warning(CHECK, seen, SET),
        _ => Finding::ok(CHECK, "agrees with the cluster's"),
    }
}

fn service(unit: &Seen<Unit>, daemon: &Daemon) -> Finding {
    const CHECK: &str = "service";
    const START: &str = "systemctl enable --now edgecore; why it ended: journalctl -u edgecore";
    const FOREGROUND: &str = "start it: edgecore run";
    const INSTALL: &str = "edgecore join ADDRESS --token-file FILE again installs the service and starts it, and an old \
         token will do";
    if let Daemon::Silent(why) = daemon {
        let remedy = "journalctl -u edgecore; then systemctl restart edgecore (pods run on)";
        return Finding::failed(
            CHECK,
            format!("edgecore runs, and does not answer: {why}"),
            remedy,
        );
    }
    let runs = matches!(daemon, Daemon::Runs(_));
    match (unit, runs) {
        (Ok(Unit::NoSystemd), true) => Finding::ok(CHECK, "edgecore runs; systemd does not run here"),
        (Ok(Unit::NoSystemd), false) => Finding::failed(CHECK, "edgecore does not run", FOREGROUND),
        (Ok(Unit::Installed { is_enabled: true }), true) => {
            Finding::ok(CHECK, "edgecore runs, and is started at every boot")
        }
        (Ok(Unit::Installed { is_enabled: false }), true) => Finding::warning(
            CHECK,
            "edgecore runs, and will not after a reboot",
            "systemctl enable edgecore",
        ),
        (Ok(Unit::Missing), true) => Finding::warning(
            CHECK,
            "edgecore runs, and there is no service that starts it at boot",
            &format!("stop it; {INSTALL}"),
        ),
        (Ok(Unit::Missing), false) => Finding::failed(
            CHECK,
            "edgecore does not run, and there is no service that starts it",
            &format!("edgecore run starts it in the foreground; {INSTALL}"),
        ),
        (Ok(Unit::Installed { .. }) | Err(_), false) => {
            Finding::failed(CHECK, "edgecore does not run", START)
        }
        (Err(why), true) => Finding::unknown(
            CHECK,
            format!("edgecore runs; whether it is started at boot is not known: {why}"),
            "systemctl is-enabled edgecore",
        ),
    }
}

fn store(store: &Seen<Store>, daemon: &Daemon) -> Finding {
    const CHECK: &str = "store";
    const DISK: &str = "look at the disk (dmesg, smartctl); what is lost comes again from the cluster";
    match (store, daemon) {
        (_, Daemon::Runs(status)) => {
            let of_store = |warning: &&String| warning.starts_with("the store ");
            let repaired: Vec<&str> = status
                .warnings
                .iter()
                .filter(of_store)
                .map(String::as_str)
                .collect();
            if repaired.is_empty() {
                return Finding::ok(CHECK, format!("is open, with {} objects", status.store.objects));
            }
            Finding::warning(CHECK, repaired.join("; "), DISK)
        }
        (Ok(Store::None), _) => Finding::ok(CHECK, "there is none yet"),
        (Ok(Store::InUse), _) => {
            Finding::unknown(CHECK, "edgecore has it open", "see the line of the service")
        }
        (Ok(Store::Readable { quarantined }), _) if quarantined.is_empty() => {
            Finding::ok(CHECK, "every file of it can be read")
        }
        (Ok(Store::Readable { quarantined }), _) => Finding::warning(
            CHECK,
            format!("was damaged once; what was given up: {}", quarantined.join(", ")),
            DISK,
        ),
        (Ok(Store::Unreadable(why)), _) => Finding::failed(CHECK, why, DISK),
        (Err(why), _) => Finding::unknown(CHECK, why, DISK),
    }
}
