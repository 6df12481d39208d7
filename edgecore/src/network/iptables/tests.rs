//! The rules, in the kernel of a network namespace of its own.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::network::api::ApiEndpoint;
use crate::network::pod_cidr::PodCidr;
use crate::network::testing::{in_a_namespace, in_a_namespace_with};

/// The rules for a port of ours.
fn nat(own: u16) -> Nat {
    let address = "10.96.0.1".parse().unwrap();
    let endpoint = ApiEndpoint { address, port: 443 };
    Nat {
        masquerade: vec![PodCidr::DEFAULT],
        pods: Some(PodCidr::DEFAULT),
        door: Some(Door {
            endpoint,
            own: Some(own),
        }),
    }
}

/// A kernel does not send connections to this port.
const REFUSED: u16 = 40_123;
/// Another program holds the lock when rules for this port are written first.
const BUSY: u16 = 40_124;

async fn in_nat(args: &[&str]) -> Result<(), IptablesError> {
    iptables(&[&["-t", "nat"], args].concat()).await
}

/// Runs in a network namespace of its own, started by the test below.
#[tokio::test]
#[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
async fn inside_a_namespace() {
    let nat = nat(61_443);
    let foreign = ["-A", "PREROUTING", "-d", "192.0.2.1", "-j", "RETURN"];
    in_nat(&foreign).await.unwrap();
    iptables(&["-A", "INPUT", "-j", "REJECT"]).await.unwrap();
    assert_eq!(ensure(&nat).await.unwrap(), Done::Written);
    assert_eq!(
        rules("nat", "PREROUTING"),
        ["-j TOMBOLO-API", "-d 192.0.2.1/32 -j RETURN"]
    );
    assert_eq!(rules("nat", "OUTPUT"), ["-j TOMBOLO-API"]);
    assert_eq!(rules("nat", "POSTROUTING"), ["-j TOMBOLO-MASQ"]);
    // A firewall that refuses the rest would end the way there.
    assert_eq!(rules("filter", "INPUT")[..1], ["-j TOMBOLO-API"]);

    // Nothing stands there twice, and what stands there is ours.
    in_nat(&["-F", "TOMBOLO-API"]).await.unwrap();
    assert_eq!(ensure(&nat).await.unwrap(), Done::AsBefore);
    assert_eq!(rules("nat", "TOMBOLO-MASQ").len(), 2);
    assert_eq!(rules("nat", "TOMBOLO-API").len(), 1);
    assert_eq!(rules("filter", "TOMBOLO-API").len(), 1);
    assert_eq!(rules("nat", "POSTROUTING").len(), 1);

    // A firewall that begins anew.
    in_nat(&["-F"]).await.unwrap();
    assert_eq!(ensure(&nat).await.unwrap(), Done::Written);
    assert_eq!(rules("nat", "TOMBOLO-MASQ").len(), 2);
    assert_eq!(rules("nat", "POSTROUTING").len(), 1);

    in_nat(&["-A", "OUTPUT", "-j", "TOMBOLO-API"]).await.unwrap();
    in_nat(&foreign).await.unwrap();
    remove().await;
    assert_eq!(rules("nat", "PREROUTING"), ["-d 192.0.2.1/32 -j RETURN"]);
    assert_eq!(rules("filter", "INPUT").len(), 1);
    for (table, chain) in nat::CHAINS {
        assert!(
            iptables(&["-t", table, "-F", chain]).await.is_err(),
            "{chain} is gone"
        );
    }
}

#[test]
fn rules_come_once_come_back_and_go_and_nobody_elses_are_touched() {
    in_a_namespace("network::iptables::tests::inside_a_namespace");
}

/// Runs in a network namespace of its own, started by the test below.
#[tokio::test]
#[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
async fn with_a_port_that_moves() {
    let mut held = Held::default();
    assert_eq!(held.hold(Nat { door: None, ..nat(1) }).await, Translation::Untold);
    for own in ["61443", "40000"] {
        assert_eq!(held.hold(nat(own.parse().unwrap())).await, Translation::Holds);
        for table in ["nat", "filter"] {
            let rules = rules(table, "TOMBOLO-API");
            assert!(rules.len() == 1 && rules[0].contains(own), "{rules:?}");
        }
    }
    // The other network has no port of ours, and no rule for one stays.
    let other = Nat {
        pods: None,
        ..nat(40_000)
    };
    iptables(&["-I", "INPUT", "-i", "lo", "-j", "ACCEPT"])
        .await
        .unwrap();
    assert_eq!(held.hold(nat(40_001)).await, Translation::Holds);
    assert_eq!(rules("filter", "INPUT"), ["-j TOMBOLO-API", "-i lo -j ACCEPT"]);
    for _ in 0..2 {
        assert_eq!(held.hold(other.clone()).await, Translation::Fails);
        assert_eq!((held.failures, &held.trouble), (0, &None));
    }
    assert!(rules("nat", "TOMBOLO-API")[0].ends_with("-j ACCEPT"));
    assert_eq!(rules("filter", "INPUT"), ["-i lo -j ACCEPT"]);
    assert_eq!(held.hold(nat(61_443)).await, Translation::Holds);
    assert!(rules("nat", "TOMBOLO-API")[0].ends_with(":61443"));

    // One failure is tried again before the Service's port is taken.
    assert_eq!(held.hold(nat(BUSY)).await, Translation::Holds);
    assert!(rules("nat", "TOMBOLO-API")[0].ends_with(":61443"));
    assert_eq!((held.failures, &held.trouble), (1, &None));
    assert_eq!(held.hold(nat(BUSY)).await, Translation::Holds);
    assert_eq!(held.failures, 0);
    assert_eq!(held.hold(nat(REFUSED)).await, Translation::Holds);
    assert_eq!(held.hold(nat(REFUSED)).await, Translation::Fails);
    assert!(
        matches!(held.trouble, Some(Trouble::OwnPort(_))),
        "{:?}",
        held.trouble
    );
    assert!(rules("nat", "TOMBOLO-API")[0].ends_with("-j ACCEPT"));
    assert_eq!(rules("nat", "POSTROUTING"), ["-j TOMBOLO-MASQ"]);
    assert_eq!(held.hold(nat(61_443)).await, Translation::Holds);
    assert_eq!(held.trouble, None);
}

#[test]
fn the_rules_follow_the_port_and_without_it_the_rest_still_holds() {
    let dir = std::env::temp_dir().join(format!("tombolo-iptables-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let refuses = format!(
        "#!/bin/sh\ntext=$(cat)\ncase \"$text\" in *:{REFUSED}*) exit 1;; \
         *:{BUSY}*) mkdir \"$0.busy\" 2>/dev/null && exit 4;; esac\n\
         PATH=${{PATH#*:}}\nprintf '%s\\n' \"$text\" | iptables-restore \"$@\"\n"
    );
    std::fs::write(dir.join(RESTORE), refuses).unwrap();
    std::fs::set_permissions(dir.join(RESTORE), PermissionsExt::from_mode(0o755)).unwrap();
    let name = "network::iptables::tests::with_a_port_that_moves";
    in_a_namespace_with(dir.to_str().unwrap(), name);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_services_port_is_taken_at_once_only_where_there_is_no_iptables_at_all() {
    let run = |kind: io::ErrorKind| IptablesError::Run(PROGRAM, kind.into());
    let refused = |code| IptablesError::Refused(RESTORE.to_owned(), Some(code), String::new());
    let held = |written: Option<Nat>, failures| Held {
        written,
        failures,
        ..Held::default()
    };
    for (error, at_first) in [
        (run(io::ErrorKind::NotFound), false),
        (run(io::ErrorKind::WouldBlock), true),
        (refused(NO_TABLE), false),
        (refused(4), true),
        (IptablesError::Hangs(PROGRAM), true),
    ] {
        assert_eq!(held(None, 1).may_pass(&error), at_first, "{error}");
        assert!(held(Some(nat(61_443)), 1).may_pass(&error), "{error}");
        for written in [None, Some(nat(61_443))] {
            assert!(!held(written, 2).may_pass(&error), "{error}");
        }
    }
}

/// The rules of a chain, without its name.
fn rules(table: &str, chain: &str) -> Vec<String> {
    let args = ["-t", table, "-S", chain];
    let output = std::process::Command::new(PROGRAM).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rule = |line: &str| Some(line.strip_prefix("-A ")?.split_once(' ')?.1.to_owned());
    text.lines().filter_map(rule).collect()
}
