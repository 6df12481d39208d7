//! cloudcore, the broker and the mappers' socket. Pure.

use super::super::Finding;
use super::super::facts::{Broker, Cause, Daemon, Mappers, Miss, Seen, Way};
use crate::devices::mqtt::{Answer, Knock};

/// Each transport to each address. One that leads there is enough for a link.
pub(super) fn ways(ways: &[Way], has_proxy: bool) -> Vec<Finding> {
    let is_reached = ways.iter().any(|way| way.made.is_ok());
    ways.iter().map(|way| one(way, is_reached, has_proxy)).collect()
}

fn one(way: &Way, is_reached: bool, has_proxy: bool) -> Finding {
    let transport = if way.is_quic { "quic" } else { "websocket" };
    let check = format!("cloudcore {transport}");
    let address = &way.address;
    match &way.made {
        Ok(()) => Finding::ok(&check, format!("{address} answers, and is this node's cluster")),
        Err(miss) if miss.cause == Cause::Identity => Finding::unknown(
            &check,
            format!("{address}: {}", miss.why),
            "see the line of the certificate",
        ),
        Err(miss) if is_reached && has_proxy && way.is_quic && miss.cause == Cause::Silence => {
            let seen =
                format!("{address} does not answer; QUIC goes past the proxy, and the WebSocket is used");
            Finding::ok(&check, seen)
        }
        Err(miss) => {
            let seen = format!("{address}: {}", miss.why);
            let remedy = mends(miss, way.is_quic);
            if is_reached {
                Finding::warning(&check, seen, remedy)
            } else {
                Finding::failed(&check, seen, remedy)
            }
        }
    }
}

const fn mends(miss: &Miss, is_quic: bool) -> &'static str {
    match miss.cause {
        Cause::Name => "check addresses in edgecore.yaml, and this device's name servers (/etc/resolv.conf)",
        Cause::Proxy => {
            "check proxy and proxy_password_file in edgecore.yaml, and that the proxy allows CONNECT to this port"
        }
        Cause::Clock => "set this device's clock: timedatectl set-ntp true, or date -s",
        Cause::Stranger => {
            "something else answers there: check addresses in edgecore.yaml; for another cluster, with a token of \
             it: edgecore join ADDRESS --token-file FILE --replace-cluster"
        }
        Cause::Refused => {
            "make a token (cloudcore token create) and run edgecore join again: it says whether the node was removed \
             or its key is banned, and mends the first"
        }
        Cause::Ended => {
            "make a token (cloudcore token create) and run edgecore join again; the key and the pods stay"
        }
        Cause::Silence if is_quic => {
            "is cloudcore up? let UDP through to this port in both directions; the WebSocket does where it is not"
        }
        Cause::Silence | Cause::Identity => {
            "is cloudcore up, and addresses in edgecore.yaml right? let TCP through to this port"
        }
    }
}

/// The broker: whether it lets edgecore in, and whether it lets in anybody.
pub(super) fn broker(broker: &Broker, daemon: &Daemon) -> Vec<Finding> {
    const CHECK: &str = "broker";
    const LOOK: &str = "systemctl status mosquitto; is mqtt.address in edgecore.yaml right?";
    let address = &broker.address;
    let knock = match &broker.knock {
        Ok(Ok(knock)) => knock,
        Ok(Err(why)) => {
            let remedy = "mend the file that mqtt.credentials in edgecore.yaml names: root's, and chmod 600";
            return vec![Finding::failed(CHECK, why, remedy)];
        }
        Err(why) => {
            let remedy = match daemon {
                Daemon::Silent(_) => "see the line of the service",
                Daemon::Absent | Daemon::Runs(_) => LOOK,
            };
            return vec![Finding::unknown(CHECK, format!("{address}: {why}"), remedy)];
        }
    };
    match &knock.own {
        Answer::LetIn => {
            let seen = format!("{address} lets edgecore in");
            let found = Finding::ok(CHECK, seen);
            std::iter::once(found).chain(access(knock)).collect()
        }
        Answer::Refused if knock.has_login => vec![Finding::failed(
            CHECK,
            format!("{address} refuses edgecore's user and password"),
            "set the password anew in the broker (mosquitto_passwd) and in the file of mqtt.credentials",
        )],
        Answer::Refused => vec![Finding::failed(
            CHECK,
            format!("{address} wants a user and a password, and edgecore has none"),
            "give it a user of its own: mqtt.credentials in edgecore.yaml",
        )],
        Answer::Unreached(why) if broker.is_named || is_missed(daemon) => {
            vec![Finding::failed(
                CHECK,
                format!("{address} is not reached: {why}"),
                LOOK,
            )]
        }
        Answer::Unreached(_) => vec![Finding::ok(
            CHECK,
            "there is none; devices that speak MQTT topics need one",
        )],
        Answer::Odd(why) => vec![Finding::unknown(CHECK, format!("{address}: {why}"), LOOK)],
    }
}

/// Whether devices of the node need the broker, as the daemon says.
fn is_missed(daemon: &Daemon) -> bool {
    match daemon {
        Daemon::Runs(status) => status.devices.iter().any(|device| device.protocol.is_empty()),
        Daemon::Absent | Daemon::Silent(_) => false,
    }
}

fn access(knock: &Knock) -> Option<Finding> {
    const CHECK: &str = "broker access";
    Some(match knock.stranger.as_ref()? {
        Answer::LetIn => Finding::warning(
            CHECK,
            "it lets anybody in: whoever reaches it can say what devices measure, and set them",
            "allow_anonymous false, and a user for each device: manifests/mosquitto",
        ),
        Answer::Refused => Finding::ok(CHECK, "nobody is let in without a name"),
        Answer::Unreached(why) | Answer::Odd(why) => Finding::unknown(
            CHECK,
            format!("whether somebody without a name is let in: {why}"),
            "mosquitto_pub -t x -m x must be refused",
        ),
    })
}

/// The mappers' socket, which the daemon opens.
pub(super) fn mappers(mappers: &Seen<Mappers>, daemon: &Daemon) -> Option<Finding> {
    const CHECK: &str = "mappers";
    if !matches!(daemon, Daemon::Runs(_)) {
        return None;
    }
    let seen = match mappers {
        Ok(seen) => seen,
        Err(why) => return Some(Finding::unknown(CHECK, why, "journalctl -u edgecore")),
    };
    let Mappers { socket, group, .. } = seen;
    Some(match &seen.open {
        Err(why) => Finding::failed(
            CHECK,
            format!("they cannot report at {socket}: {why}"),
            "journalctl -u edgecore says why it was not opened; dmi.socket in edgecore.yaml says where",
        ),
        Ok(()) if !seen.has_group => Finding::warning(
            CHECK,
            format!("there is no group {group}: root alone may report at {socket}"),
            "groupadd --system it, restart edgecore, and add the mappers' users to it",
        ),
        Ok(()) => Finding::ok(
            CHECK,
            format!("they can report at {socket}, as members of {group}"),
        ),
    })
}
