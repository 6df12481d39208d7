//! What is told to mend a fault: the least that does.

use super::*;

/// What is told of a check, of a device that differs from a healthy one in this.
pub(super) fn told(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let found = judge(&facts).into_iter().find(|found| found.check == check);
    found.unwrap()
}

#[test]
fn a_lost_key_or_certificate_costs_no_pods() {
    let found = told("certificate", |facts| {
        facts.node.as_mut().unwrap().identity = Ok(Err(why()));
    });
    let remedy = found.remedy;
    assert!(!remedy.contains("reset"), "{remedy}");
    assert!(
        remedy.contains("edgecore join ADDRESS --token-file FILE"),
        "{remedy}"
    );
    assert!(remedy.contains("--node NAME --replace-key"), "{remedy}");
}

#[test]
fn a_service_that_is_missing_is_installed_by_a_second_join() {
    for runs in [true, false] {
        let found = told("service", |facts| {
            facts.node.as_mut().unwrap().unit = Ok(Unit::Missing);
            if !runs {
                facts.daemon = Daemon::Absent;
            }
        });
        let remedy = found.remedy;
        assert!(
            remedy.contains("edgecore join ADDRESS --token-file FILE"),
            "{remedy}"
        );
        // The join leaves one alone that was started by hand.
        assert_eq!(remedy.contains("stop it"), runs, "{remedy}");
        assert_eq!(remedy.contains("edgecore run"), !runs, "{remedy}");
    }
}

#[test]
fn a_network_of_the_cluster_s_own_is_told_to_be_kept_away() {
    let file = "/etc/cni/net.d/10-flannel.conflist";
    let found = told("pod network", |facts| {
        facts.machine.as_mut().unwrap().network = Network::Before(file.to_owned());
    });
    assert!(found.seen.starts_with(file), "{found:?}");
    for word in ["DaemonSet", "docs/install.md", "restart the container runtime"] {
        assert!(found.remedy.contains(word), "{found:?}");
    }
}

#[test]
fn a_network_that_is_gone_is_copied_from_a_device_like_this_one() {
    let found = told("pod network", |facts| {
        facts.machine.as_mut().unwrap().network = Network::Missing("/etc/cni/net.d".to_owned());
    });
    for word in ["90-tombolo.conflist", "same pod_cidr"] {
        assert!(found.remedy.contains(word), "{found:?}");
    }
}
