//! The API server's address on the device.

use super::*;
use crate::network::api::{ApiEndpoint, Knock};

pub(super) fn knock(met: Met) -> Knock {
    let address = "10.96.0.1".parse().unwrap();
    Knock {
        endpoint: ApiEndpoint { address, port: 443 },
        ports: vec![61_443],
        met,
    }
}

#[test]
fn a_way_to_the_api_server_that_is_barred_is_told_with_what_bars_it() {
    for (met, seen, remedy) in [
        (
            Met::Refusal,
            "refused, and edgecore listens at port 61443 of it: the kernel",
            "-S TOMBOLO-API",
        ),
        (
            Met::Stranger,
            "another program, or a pod, answers at 10.96.0.1:443",
            "NOTRACK",
        ),
        (Met::Silence, "no answer", "drop"),
        (
            Met::NoWay("No route to host".to_owned()),
            "No route to host",
            "firewall",
        ),
        (Met::NobodyListens, "does not listen at 10.96.0.1", "journalctl"),
        (
            Met::NoAddress,
            "10.96.0.1 is not on the loopback device",
            "journalctl -u edgecore says why it cannot be added",
        ),
    ] {
        let knocked = knock(met);
        let again = knocked.clone();
        let found = ill_node(|node| node.api = Ok(Some(knocked)));
        assert_eq!(found, one("API address", Level::Failed), "{seen}");
        let told = remedies::told("API address", |facts| {
            facts.node.as_mut().unwrap().api = Ok(Some(again));
        });
        assert!(
            told.seen.contains(seen) && told.remedy.contains(remedy),
            "{told:?}"
        );
    }
    let plain = Knock {
        ports: vec![443],
        ..knock(Met::Refusal)
    };
    let told = remedies::told("API address", |facts| {
        facts.node.as_mut().unwrap().api = Ok(Some(plain));
    });
    assert!(told.seen.contains("a firewall does it"), "{told:?}");
}

#[test]
fn nothing_is_told_where_there_is_no_such_address_or_nobody_to_serve_it() {
    assert_eq!(ill_node(|node| node.api = Ok(None)), []);
    assert_eq!(
        ill_node(|node| node.api = Err(why())),
        one("API address", Level::Unknown)
    );
    let down = ill(|facts| {
        facts.daemon = Daemon::Absent;
        let node = facts.node.as_mut().unwrap();
        node.api = Ok(Some(knock(Met::Silence)));
    });
    assert!(!down.iter().any(|(check, _)| check == "API address"), "{down:?}");
}
