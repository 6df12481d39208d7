//! What the facts mean, and how it is shown.

mod api;
mod machine;
mod program;
mod reach;
mod remedies;
mod shown;

use super::facts::{
    Answers, Broker, Cause, Daemon, Facts, Joined, Machine, Mappers, Miss, Network, Node, Other, Resolved,
    Runtime, Sandbox, Space, Store, Unit, Way,
};
use super::judge::judge;
use super::*;
use crate::cli::status::{Condition, DeviceLine, Link, PodLine, Status};
use crate::devices::mqtt::{Answer, Knock};
use crate::network::api::Met;
use crate::node::Disk;
use crate::node::thresholds::{Signal, Threshold, Thresholds};

const DAY: i64 = 86_400;

fn node() -> Node {
    let way = |is_quic| Way {
        address: "cloud.example.org:10000".to_owned(),
        is_quic,
        made: Ok(()),
    };
    let knock = Knock {
        own: Answer::LetIn,
        stranger: Some(Answer::Refused),
        has_login: true,
    };
    Node {
        identity: Ok(Ok(300 * DAY)),
        open_files: Vec::new(),
        ways: vec![way(true), way(false)],
        taints: vec!["node-role.kubernetes.io/edge:NoSchedule".to_owned()],
        has_proxy: false,
        ahead: Ok(1),
        unit: Ok(Unit::Installed { is_enabled: true }),
        programs: Ok(program::programs()),
        store: Ok(Store::InUse),
        broker: Broker {
            address: "mqtt://127.0.0.1:1883".to_owned(),
            is_named: true,
            knock: Ok(Ok(knock)),
        },
        mappers: Ok(Mappers {
            socket: "/etc/kubeedge/dmi.sock".to_owned(),
            group: "tombolo-mapper".to_owned(),
            open: Ok(()),
            has_group: true,
        }),
        api: Ok(Some(api::knock(Met::Listener))),
    }
}

fn machine() -> Machine {
    let space = |of| Space {
        of,
        path: "/var/lib/x".to_owned(),
        disk: Disk {
            bytes: 1000,
            bytes_free: 600,
            inodes: 1000,
            inodes_free: 900,
        },
        is_read_only: false,
    };
    Machine {
        clock_is_behind: false,
        controllers: Ok(["cpu", "cpuset", "memory", "pids"].map(str::to_owned).to_vec()),
        resolver: resolved(&["192.168.1.1"]),
        swap: false,
        others: Vec::new(),
        spaces: vec![space("the store"), space("pods"), space("images")],
        network: Network::Ours {
            missing: Vec::new(),
            collides: None,
        },
    }
}

fn resolved(servers: &[&str]) -> Resolved {
    Resolved {
        file: "/etc/resolv.conf".to_owned(),
        servers: servers.iter().map(ToString::to_string).collect(),
    }
}

fn answers() -> Answers {
    Answers {
        version: "containerd v2.1.0".to_owned(),
        runtime_ready: Ok(()),
        network_ready: Ok(()),
        driver: Some("systemd".to_owned()),
        used: "systemd".to_owned(),
        sandbox: Sandbox::Here("pause:3.10".to_owned()),
    }
}

fn status() -> Status {
    let mut status = Status {
        running: true,
        link: Link {
            state: "connected".to_owned(),
            ..Link::default()
        },
        ..Status::default()
    };
    status.cluster.api_reachable = Some(true);
    status.taints = Some(vec!["node-role.kubernetes.io/edge:NoSchedule".to_owned()]);
    let condition = |kind: &str, status: &str| Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        message: why(),
        ..Condition::default()
    };
    status.conditions = vec![condition("DiskPressure", "False"), condition("Ready", "True")];
    status
}

fn healthy() -> Facts {
    Facts {
        joined: Joined::As("pump-7".to_owned()),
        thresholds: Thresholds::default(),
        machine: Ok(machine()),
        runtime: Runtime::Answers(Box::new(answers())),
        daemon: Daemon::Runs(Box::new(status())),
        node: Some(node()),
    }
}

/// The checks that are not well, of a node that differs from a healthy one in this.
fn ill(change: impl FnOnce(&mut Facts)) -> Vec<(String, Level)> {
    let mut facts = healthy();
    change(&mut facts);
    let found = judge(&facts);
    for finding in &found {
        assert_eq!(
            finding.remedy.is_empty(),
            finding.level == Level::Ok,
            "{finding:?}"
        );
        assert!(
            !finding.seen.is_empty() && !finding.remedy.contains('\n'),
            "{finding:?}"
        );
    }
    let ill = found.into_iter().filter(|finding| finding.level != Level::Ok);
    ill.map(|finding| (finding.check, finding.level)).collect()
}

fn ill_machine(change: impl FnOnce(&mut Machine)) -> Vec<(String, Level)> {
    ill(|facts| change(facts.machine.as_mut().unwrap()))
}

fn ill_node(change: impl FnOnce(&mut Node)) -> Vec<(String, Level)> {
    ill(|facts| change(facts.node.as_mut().unwrap()))
}

fn ill_answers(change: impl FnOnce(&mut Answers)) -> Vec<(String, Level)> {
    let mut answers = answers();
    change(&mut answers);
    ill(|facts| facts.runtime = Runtime::Answers(Box::new(answers)))
}

fn ill_status(change: impl FnOnce(&mut Status)) -> Vec<(String, Level)> {
    let mut status = status();
    change(&mut status);
    ill(|facts| facts.daemon = Daemon::Runs(Box::new(status)))
}

fn one(check: &str, level: Level) -> Vec<(String, Level)> {
    vec![(check.to_owned(), level)]
}

fn why() -> String {
    "for a reason".to_owned()
}

#[test]
fn a_healthy_node_has_nothing_to_mend() {
    assert_eq!(ill(|_| {}), []);
}

#[test]
fn certificates_are_judged_by_what_is_left_and_whether_they_renew() {
    use Level::{Failed, Unknown, Warning};
    let identity = |identity| ill_node(|node| node.identity = identity);
    assert_eq!(identity(Ok(Ok(-1))), one("certificate", Failed));
    assert_eq!(identity(Ok(Err(why()))), one("certificate", Failed));
    assert_eq!(identity(Ok(Ok(DAY))), one("certificate", Warning));
    assert_eq!(identity(Err(why())), one("certificate", Unknown));
    let mut renewing = status();
    renewing.certificate_renews_in_seconds = Some(1);
    let short = ill(|facts| {
        facts.daemon = Daemon::Runs(Box::new(renewing));
        facts.node.as_mut().unwrap().identity = Ok(Ok(DAY));
    });
    assert_eq!(short, [], "certificates may live for a day");
    let open = ill_node(|node| node.open_files = vec![why()]);
    assert_eq!(open, one("secrets", Warning));
}

#[test]
fn an_edit_of_taints_is_told_to_have_no_effect() {
    let taint = "site=north:NoExecute".to_owned();
    let edited = ill_node(|node| node.taints.push(taint.clone()));
    assert_eq!(edited, one("taints", Level::Warning));
    let removed = ill_node(|node| node.taints.clear());
    assert_eq!(removed, one("taints", Level::Warning));
    let by_hand = ill_status(|status| status.taints = Some(vec![taint]));
    assert_eq!(by_hand, one("taints", Level::Warning));
    assert_eq!(ill_status(|status| status.taints = None), [], "nobody knows yet");
}

#[test]
fn taints_that_the_cluster_sets_are_no_setting() {
    let taints = serde_json::json!([
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "site", "value": "north", "effect": "NoExecute"},
        {"key": "node-role.kubernetes.io/edge", "effect": "NoSchedule"},
    ]);
    let node = serde_json::json!({"metadata": {}, "spec": {"taints": taints}});
    let taints = Status::taints_of(&serde_json::from_value(node).unwrap());
    assert_eq!(
        taints,
        ["node-role.kubernetes.io/edge:NoSchedule", "site=north:NoExecute"]
    );
}

#[test]
fn clocks_are_compared_with_the_clusters_where_it_is_known() {
    use Level::{Failed, Warning};
    let ahead = |ahead| ill_node(|node| node.ahead = Ok(ahead));
    assert_eq!(ahead(-299), []);
    assert_eq!(ahead(301), one("clock", Warning));
    assert_eq!(ahead(-2 * DAY), one("clock", Failed));
    let behind = |facts: &mut Facts| facts.machine.as_mut().unwrap().clock_is_behind = true;
    let alone = ill(|facts| {
        behind(facts);
        facts.node.as_mut().unwrap().ahead = Err(why());
    });
    assert_eq!(alone, one("clock", Failed));
}

#[test]
fn a_daemon_that_is_down_is_told_from_one_that_hangs() {
    use Level::{Failed, Unknown, Warning};
    let store = |store| {
        ill(|facts| {
            facts.daemon = Daemon::Absent;
            facts.node.as_mut().unwrap().store = Ok(store);
        })
    };
    let sound = || Store::Readable {
        quarantined: Vec::new(),
    };
    assert_eq!(store(sound()), one("service", Failed));
    assert_eq!(store(Store::None), one("service", Failed));
    let quarantined = vec![why()];
    let damaged = store(Store::Readable { quarantined });
    assert_eq!(damaged[1..], one("store", Warning));
    assert_eq!(store(Store::Unreadable(why()))[1..], one("store", Failed));
    let hangs = ill(|facts| facts.daemon = Daemon::Silent(why()));
    assert_eq!(
        hangs,
        [("service".to_owned(), Failed), ("store".to_owned(), Unknown)]
    );
    let unit = |unit| ill_node(|node| node.unit = Ok(unit));
    assert_eq!(
        unit(Unit::Installed { is_enabled: false }),
        one("service", Warning)
    );
    assert_eq!(unit(Unit::Missing), one("service", Warning));
    assert_eq!(unit(Unit::NoSystemd), []);
}

#[test]
fn what_the_daemon_says_is_passed_on() {
    use Level::{Failed, Warning};
    let store = ill_status(|status| status.warnings = vec!["the store meta: rows were dropped".to_owned()]);
    assert_eq!(store, one("store", Warning));
    assert_eq!(
        ill_status(|status| status.link.state = "offline".to_owned()),
        one("link", Failed)
    );
    let api = ill_status(|status| status.cluster.api_reachable = Some(false));
    assert_eq!(api, one("API server", Warning));
    let not_ready = ill_status(|status| status.conditions[1].status = "False".to_owned());
    assert_eq!(not_ready, one("node Ready", Failed));
    let full = ill_status(|status| status.conditions[0].status = "True".to_owned());
    assert_eq!(full, one("node DiskPressure", Failed));
    let pod = |state: &str| PodLine {
        state: state.to_owned(),
        ..PodLine::default()
    };
    let pods =
        |states: &[&str]| ill_status(|status| status.pods = states.iter().map(|state| pod(state)).collect());
    assert_eq!(pods(&["Running", "Succeeded"]), []);
    assert_eq!(pods(&["Running", "ImagePullBackOff"]), one("pods", Warning));
}

#[test]
fn before_the_join_only_that_is_said_and_what_the_join_needs_is_looked_at() {
    let fresh = |facts: &mut Facts| {
        facts.joined = Joined::Not;
        facts.node = None;
        facts.daemon = Daemon::Absent;
        facts.machine.as_mut().unwrap().network = Network::Missing(why());
        let mut answers = answers();
        answers.network_ready = Err(why());
        facts.runtime = Runtime::Answers(Box::new(answers));
    };
    assert_eq!(ill(fresh), one("configuration", Level::Warning));
    let broken = |facts: &mut Facts| facts.joined = Joined::Broken(why());
    assert_eq!(ill(broken), one("configuration", Level::Failed));
}
