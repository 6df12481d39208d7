//! The API server's address, as pods have it. Pure.

use super::super::Finding;
use super::super::facts::{Daemon, Seen};
use crate::network::api::{Knock, Met};

const CHECK: &str = "API address";
/// The least first: the rule may be all that is missing.
const TRANSLATE: &str = "iptables -t nat -S TOMBOLO-API has to show the rule that sends them there: systemctl restart \
     edgecore writes it; where it is there, it has to be the first that OUTPUT leads to (iptables -t nat -S OUTPUT), \
     before that of pods' published ports; take out what lets lo's connections pass untracked, or rejects them \
     (iptables-save, nft list ruleset: NOTRACK, notrack, REJECT, reject)";
const FIREWALL: &str = "let connections to this address through in the device's firewall, on lo and from tombolo0 \
     (iptables-save, nft list ruleset: DROP, drop, REJECT, reject, NOTRACK, notrack); docs/operate.md has the rule";

/// Whether connections of this device come to edgecore, which carries them; nothing while it does not run.
pub(super) fn address(knocked: &Seen<Option<Knock>>, daemon: &Daemon) -> Option<Finding> {
    let Daemon::Runs(_) = daemon else {
        return None;
    };
    match knocked {
        Ok(knocked) => knocked.as_ref().map(met),
        Err(why) => Some(Finding::unknown(CHECK, why, "systemctl restart edgecore")),
    }
}

fn met(knock: &Knock) -> Finding {
    let Knock { endpoint, ports, met } = knock;
    let at = || {
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        format!("edgecore listens at port {} of it", ports.join(" and "))
    };
    let (seen, remedy) = match met {
        Met::Listener => {
            return Finding::ok(CHECK, format!("connections to {endpoint} come to edgecore"));
        }
        Met::Stranger => (
            format!(
                "another program, or a pod, answers at {endpoint}, and {}: pods do not reach the API server",
                at()
            ),
            TRANSLATE,
        ),
        Met::Refusal if ports.contains(&endpoint.port) => (
            format!(
                "connections to {endpoint} are refused, and {}: a firewall does it",
                at()
            ),
            FIREWALL,
        ),
        Met::Refusal => (
            format!(
                "connections to {endpoint} are refused, and {}: the kernel does not send them there, or a firewall \
                 rejects them",
                at()
            ),
            TRANSLATE,
        ),
        Met::Silence => (
            format!(
                "connections to {endpoint} get no answer, and {}: a firewall drops them",
                at()
            ),
            FIREWALL,
        ),
        Met::NoWay(why) => (
            format!("connections to {endpoint} fail ({why}), and {}", at()),
            FIREWALL,
        ),
        Met::NobodyListens => (
            format!(
                "edgecore does not listen at {}, where pods expect the API server",
                endpoint.address
            ),
            "journalctl -u edgecore says why (pods cannot reach the API server); it tries again every ten seconds",
        ),
        Met::NoAddress => (
            format!("{} is not on the loopback device", endpoint.address),
            "edgecore puts it back within a minute where somebody took it away, as a network manager that sets lo up \
             anew: look again then; where it is still missing, journalctl -u edgecore says why it cannot be added",
        ),
    };
    Finding::failed(CHECK, seen, remedy)
}
