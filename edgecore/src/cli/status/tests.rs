//! What `status` prints.

use super::*;
use crate::cli::testing;

fn status() -> Status {
    Status {
        running: true,
        node: "pump-7".to_owned(),
        version: "0.1.0".to_owned(),
        link: Link {
            state: "connected".to_owned(),
            address: "cloud:10000".to_owned(),
            transport: "quic".to_owned(),
            replica: "cloudcore-abc".to_owned(),
            budgets: vec![BudgetLine {
                class: "interactive".to_owned(),
                day: Some(20_000_000),
                used: 20_000_001,
                renews: "2026-01-02T00:00:00Z".to_owned(),
                second: Some(64_000),
                deferred: 0,
            }],
            traffic: vec![
                ClassTraffic {
                    class: "control".to_owned(),
                    sent: 512,
                    received: 12_345,
                },
                ClassTraffic {
                    class: "desired".to_owned(),
                    sent: 0,
                    received: 20_000_000,
                },
            ],
            ..Link::default()
        },
        cluster: Cluster {
            id: "c1".to_owned(),
            ..Cluster::default()
        },
        conditions: vec![Condition {
            kind: "Ready".to_owned(),
            status: "True".to_owned(),
            reason: "KubeletReady".to_owned(),
            ..Condition::default()
        }],
        pods: vec![PodLine {
            namespace: "default".to_owned(),
            name: "hello-1".to_owned(),
            state: "Running".to_owned(),
            ready: 1,
            containers: 2,
            ip: "10.86.0.3".to_owned(),
            ..PodLine::default()
        }],
        devices: vec![device()],
        broker: Some(broker()),
        store: Store {
            meta_bytes: 12_345,
            objects: 7,
            ..Store::default()
        },
        ..Status::default()
    }
}

fn broker() -> Broker {
    Broker {
        address: "127.0.0.1:1883".to_owned(),
        connected: true,
        dropped_in: 3,
        dropped_by_broker: 4_000,
        too_large: 2,
        sessions_dropped: 1,
        ..Broker::default()
    }
}

fn device() -> DeviceLine {
    DeviceLine {
        namespace: "hall".to_owned(),
        name: "pump".to_owned(),
        state: "online".to_owned(),
        values: [("speed".to_owned(), "7".to_owned())].into(),
        ..DeviceLine::default()
    }
}

#[test]
fn people_see_the_link_the_conditions_and_the_pods() {
    let text = table::render(&status());
    for part in [
        "Node:        pump-7\n",
        "Link:        connected to cloud:10000 over quic replica cloudcore-abc\n",
        "Store:       7 objects, 12 kB on disk\n",
        "Traffic:     control 512 B up 12 kB down, desired 0 B up 20 MB down since the start\n",
        "Budget:      interactive 20 MB of 20 MB today, renews at 2026-01-02T00:00:00Z, spent: new tunnels are refused; 64 kB a second\n",
        "Outbox:      empty: the cluster knows everything\n",
        "Broker:      connected (127.0.0.1:1883), 3 from devices dropped, 4000 dropped by the broker, \
         2 too large, 1 sessions dropped\n",
        "CONDITION  STATUS  REASON        MESSAGE\nReady      True    KubeletReady\n",
        "NAMESPACE  POD      READY  STATE    RESTARTS  IP\ndefault    hello-1  1/2    Running  0         10.86.0.3\n",
        "NAMESPACE  DEVICE  STATE   LAST SEEN  VALUES\nhall       pump    online             speed=7\n",
    ] {
        assert!(text.contains(part), "{part}\nnot in\n{text}");
    }
}

#[test]
fn events_that_wait_for_their_budget_are_counted_and_until_when_is_told() {
    let mut status = status();
    status.link.budgets = vec![BudgetLine {
        class: "messages_normal".to_owned(),
        day: Some(1_000_000),
        used: 1_000_100,
        renews: "2026-01-02T00:00:00Z".to_owned(),
        deferred: 12,
        ..BudgetLine::default()
    }];
    let mut told = |waiting, deferred| {
        status.outbox = Outbox {
            waiting,
            deferred,
            ..Outbox::default()
        };
        table::render(&status)
    };
    let text = told(14, 12);
    for part in [
        "Outbox:      14 reports wait, 12 of them events for their budget\n",
        "Budget:      messages_normal 1000 kB of 1000 kB today, renews at 2026-01-02T00:00:00Z, spent: events wait until then (12 do)\n",
    ] {
        assert!(text.contains(part), "{part}\nnot in\n{text}");
    }
    assert!(told(12, 12).contains("Outbox:      12 events wait for their budget\n"));
    assert!(told(2, 0).contains("Outbox:      2 reports wait for the link\n"));
}

#[test]
fn the_certificates_end_and_its_renewal_are_told_and_a_failure_is_a_warning() {
    const DAY: Duration = Duration::from_hours(24);
    let now = std::time::UNIX_EPOCH + DAY * 20_000;
    let told = |ends, renews, trouble: Option<&str>| {
        let mut status = status();
        let view = CertificateView {
            ends: Some(ends),
            renews,
            trouble: trouble.map(str::to_owned),
            unwritten: None,
        };
        status.tell_certificate(&view, now);
        table::render(&status)
    };
    let text = told(now + DAY * 61, Some(now + DAY * 30), None);
    assert!(
        text.contains("Certificate: until 2024-12-04T00:00:00Z (ends in 61d, renews in 30d)\n"),
        "{text}"
    );
    let text = told(now + DAY * 3, Some(now), Some("the key is banned"));
    assert!(text.contains("(ends in 3d, is being renewed)\n"), "{text}");
    assert!(
        text.contains("Warning:     the certificate ends in 3d and was not renewed: the key is banned\n"),
        "{text}"
    );
    let text = told(now - DAY * 2, None, None);
    assert!(text.contains("(ended 2d ago)\n"), "{text}");
}

#[test]
fn a_node_that_does_not_run_says_so_first() {
    let status = Status {
        running: false,
        ..status()
    };
    assert!(table::render(&status).starts_with("edgecore does not run;"));
}

#[test]
fn programs_read_back_what_was_printed() {
    let json = serde_json::to_string(&status()).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    assert!(
        json.contains("\"apiReachable\":null") && json.contains("\"type\":\"Ready\""),
        "{json}"
    );
}

#[test]
fn an_older_or_newer_daemon_is_understood() {
    let read: Status = serde_json::from_str(r#"{"node": "a", "running": true, "moon": "full"}"#).unwrap();
    assert_eq!((read.node.as_str(), read.running), ("a", true));
}

#[tokio::test]
async fn a_node_that_does_not_run_is_read_from_its_disk() {
    let root = std::env::temp_dir().join(format!("tombolo-status-{}", std::process::id()));
    let paths = Paths::below(root.clone());
    std::fs::create_dir_all(paths.config_dir()).unwrap();
    std::fs::write(paths.config(), "node_name: pump-7\naddresses: [cloud]\n").unwrap();

    let bare = offline::read(&paths, &Clock::system()).await.unwrap();
    assert_eq!((bare.node.as_str(), bare.running), ("pump-7", false));
    assert!(!paths.state_dir().exists(), "looking makes nothing");

    let stores = crate::store::open_stores(&paths.state_dir()).unwrap();
    let reporter = crate::reported::Reporter::load(stores.outbox.clone())
        .await
        .unwrap();
    reporter
        .node(&k8s_openapi::api::core::v1::Node::default())
        .await
        .unwrap();
    let told = offline::read(&paths, &Clock::system()).await.unwrap();
    assert!(
        told.warnings[0].contains("the store cannot be read"),
        "another process has it: {:?}",
        told.warnings
    );

    drop((reporter, stores));
    let mut told = offline::read(&paths, &Clock::system()).await.unwrap();
    while !told.warnings.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        told = offline::read(&paths, &Clock::system()).await.unwrap();
    }
    assert_eq!((told.outbox.waiting, told.pods.len()), (1, 0));
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn a_damaged_store_is_told_and_left_for_the_daemon_to_repair_and_to_report() {
    let paths = testing::damaged("status-damaged").await;
    for _ in 0..2 {
        let told = offline::read(&paths, &Clock::system()).await.unwrap();
        let text = told.warnings.join("\n");
        for part in [
            "the store meta is damaged",
            "repairs it when it is started",
            "desired/large",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
    assert_eq!(testing::told_by_the_daemon(&paths).len(), 1);
    testing::remove(&paths);
}

#[tokio::test]
async fn a_store_that_only_a_newer_edgecore_reads_is_told_with_what_to_run() {
    let paths = testing::damaged("status-newer").await;
    std::fs::write(paths.state_dir().join("format"), "2").unwrap();
    let told = offline::read(&paths, &Clock::system()).await.unwrap();
    assert!(
        told.warnings[0].contains("written by a newer edgecore")
            && told.warnings[0].contains("run that one again"),
        "{:?}",
        told.warnings
    );
    testing::remove(&paths);
}
