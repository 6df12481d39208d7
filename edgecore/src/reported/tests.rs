//! Reports that outlive restarts, and leave the disk when the cloud has them.

mod powercut;

use super::*;
use crate::pods::status::Failure;
use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use protocol::devices::{DeviceIdentity, DeviceStatusStatus};
use protocol::reported::Carries;
use protocol::transport::Stream;
use protocol::wire::{
    Committed, FrameReader, FrameWriter, ReportedDown, ReportedUp, reported_down, reported_up,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const EVERYTHING: Way<'_> = Way {
    carries: Carries::Everything,
    defers: &|| false,
    took: &|| (),
};

fn pod() -> Pod {
    Pod {
        metadata: ObjectMeta {
            namespace: Some("default".to_owned()),
            name: Some("a".to_owned()),
            uid: Some("u1".to_owned()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

fn status(phase: &str) -> PodStatus {
    PodStatus {
        phase: Some(phase.to_owned()),
        ..PodStatus::default()
    }
}

/// A cloud that commits everything and remembers what it saw.
async fn commit_all(stream: Stream, count: usize) -> Vec<OutboxKey> {
    let mut reader = FrameReader::new(stream.recv);
    let mut writer = FrameWriter::new(stream.send);
    let mut seen = Vec::new();
    while seen.len() < count {
        let frame = reader.read::<ReportedUp>().await.unwrap().unwrap();
        let Some(reported_up::Kind::Report(report)) = frame.kind else {
            panic!("a report was expected")
        };
        seen.push(OutboxKey::from_wire(report.key).unwrap());
        let kind = Some(reported_down::Kind::Committed(Committed { seq: report.seq }));
        writer.write(&ReportedDown { kind }).await.unwrap();
    }
    seen
}

fn pair() -> (Stream, Stream) {
    let (edge, cloud) = tokio::io::duplex(64 << 10);
    let split = |io| {
        let (recv, send) = tokio::io::split(io);
        Stream {
            recv: Box::new(recv),
            send: Box::new(send),
        }
    };
    (split(edge), split(cloud))
}

async fn served(reporter: &Reporter, count: usize) -> Vec<OutboxKey> {
    let (edge, cloud) = pair();
    let stop = CancellationToken::new();
    let (_, seen) = tokio::join!(reporter.serve(edge, EVERYTHING, &stop), async {
        let seen = commit_all(cloud, count).await;
        // The answers are read before the stop is seen.
        while reporter.pending() > 0 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        seen
    });
    seen
}

#[tokio::test]
async fn a_report_survives_a_restart_until_the_cloud_has_it() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter
        .pod_status(&pod(), &status("Running"), None)
        .await
        .unwrap();
    drop(reporter);

    let reporter = Reporter::load(db.clone()).await.unwrap();
    assert_eq!(reporter.last_status("u1"), Some(status("Running")));
    assert_eq!(reporter.pending(), 1);
    assert_eq!(served(&reporter, 1).await.len(), 1);
    assert_eq!(reporter.pending(), 0);
    assert!(db.scan(Table::Outbox).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_cloud_has_leaves_the_disk_within_a_second_and_not_one_by_one() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter.node(&Node::default()).await.unwrap();
    reporter
        .pod_status(&pod(), &status("Running"), None)
        .await
        .unwrap();
    let (edge, cloud) = pair();
    let stop = CancellationToken::new();
    let (served, ()) = tokio::join!(reporter.serve(edge, EVERYTHING, &stop), async {
        let mut reader = FrameReader::new(cloud.recv);
        let mut writer = FrameWriter::new(cloud.send);
        for _ in 0..2 {
            let frame = reader.read::<ReportedUp>().await.unwrap().unwrap();
            let Some(reported_up::Kind::Report(report)) = frame.kind else {
                panic!("a report was expected")
            };
            let kind = Some(reported_down::Kind::Committed(Committed { seq: report.seq }));
            writer.write(&ReportedDown { kind }).await.unwrap();
        }
        while reporter.pending() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(db.scan(Table::Outbox).await.unwrap().len(), 2);
        sleep(Duration::from_millis(1100)).await;
        assert!(db.scan(Table::Outbox).await.unwrap().is_empty());
        stop.cancel();
    });
    served.unwrap();
}

#[tokio::test]
async fn what_the_cluster_had_is_said_again_after_a_restart() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter
        .pod_status(&pod(), &status("Running"), None)
        .await
        .unwrap();
    served(&reporter, 1).await;

    let reporter = Reporter::load(db).await.unwrap();
    assert_eq!(reporter.pending(), 1);
    assert!(matches!(served(&reporter, 1).await[..], [OutboxKey::Pod(_)]));
}

#[tokio::test]
async fn since_when_the_nodes_conditions_hold_outlives_its_report_and_is_written_when_it_changes() {
    let db = Db::in_memory();
    let node = |since: &str, heartbeat: &str| -> Node {
        serde_json::from_value(serde_json::json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "message": "m",
            "lastTransitionTime": since, "lastHeartbeatTime": heartbeat,
        }]}}))
        .unwrap()
    };
    let row = async || db.get(Table::Meta, transitions::ROW).await.unwrap();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    assert_eq!(reporter.node_conditions(), []);
    let (first, later) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    reporter.node(&node(first, first)).await.unwrap();
    let before = row().await;
    reporter.node(&node(first, later)).await.unwrap();
    assert_eq!(row().await, before, "a heartbeat is no change");
    served(&reporter, 1).await;
    drop(reporter);

    let reporter = Reporter::load(db.clone()).await.unwrap();
    assert_eq!(reporter.node_conditions(), transitions::of(&node(first, later)));
    reporter.node(&node(later, later)).await.unwrap();
    assert_ne!(row().await, before);
}

#[tokio::test]
async fn why_a_pod_fails_is_kept_here_until_its_status_says_so() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    let failure = Failure {
        reason: "Evicted".to_owned(),
        message: "why".to_owned(),
        for_the_node: true,
    };
    let (pod, running) = (pod(), status("Running"));
    let told = reporter.pod_status(&pod, &running, Some(&failure)).await;
    told.unwrap();
    drop(reporter);
    let reporter = Reporter::load(db).await.unwrap();
    assert_eq!(reporter.last_failure("u1"), Some(failure));
    assert_eq!(reporter.last_status("u1"), Some(running));
}

#[tokio::test]
async fn a_pod_that_is_gone_is_forgotten_once_the_cluster_knows() {
    let db = Db::in_memory();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter
        .pod_status(&pod(), &status("Succeeded"), None)
        .await
        .unwrap();
    reporter.gone(&pod()).await.unwrap();
    served(&reporter, 2).await;
    assert_eq!(reporter.last_status("u1"), None);
    assert!(db.scan(Table::PodState).await.unwrap().is_empty());
}

/// The cloud commits the next report.
async fn commit_one(
    reader: &mut FrameReader<impl AsyncRead + Unpin>,
    writer: &mut FrameWriter<impl AsyncWrite + Unpin>,
) -> OutboxKey {
    let frame = reader.read::<ReportedUp>().await.unwrap().unwrap();
    let Some(reported_up::Kind::Report(report)) = frame.kind else {
        panic!("a report was expected")
    };
    let kind = Some(reported_down::Kind::Committed(Committed { seq: report.seq }));
    writer.write(&ReportedDown { kind }).await.unwrap();
    OutboxKey::from_wire(report.key).unwrap()
}

#[tokio::test]
async fn a_full_disk_ends_no_stream_and_devices_are_reported_on() {
    let (db, full) = Db::fillable();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter.node(&Node::default()).await.unwrap();
    reporter
        .pod_status(&pod(), &status("Running"), None)
        .await
        .unwrap();
    full.store(true, Ordering::Relaxed);
    assert!(
        reporter
            .pod_status(&pod(), &status("Succeeded"), None)
            .await
            .is_err()
    );
    let pump = DeviceIdentity {
        namespace: "hall".to_owned(),
        name: "pump".to_owned(),
        uid: "u1".to_owned(),
    };
    let (edge, cloud) = pair();
    let stop = CancellationToken::new();
    let (served, ()) = tokio::join!(reporter.serve(edge, EVERYTHING, &stop), async {
        let mut reader = FrameReader::new(cloud.recv);
        let mut writer = FrameWriter::new(cloud.send);
        for _ in 0..2 {
            commit_one(&mut reader, &mut writer).await;
        }
        // What was answered cannot leave the disk.
        sleep(Duration::from_millis(1_500)).await;
        reporter.device(&pump, &DeviceStatusStatus::default()).unwrap();
        assert!(matches!(
            commit_one(&mut reader, &mut writer).await,
            OutboxKey::Device(_)
        ));
        while reporter.pending() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
        stop.cancel();
    });
    served.unwrap();
    full.store(false, Ordering::Relaxed);
    reporter.write_all().await.unwrap();
    assert!(db.scan(Table::Outbox).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_node_that_starts_on_a_full_disk_reports_all_the_same() {
    let (db, full) = Db::fillable();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter
        .pod_status(&pod(), &status("Running"), None)
        .await
        .unwrap();
    served(&reporter, 1).await;
    full.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let reporter = Reporter::load(db.clone()).await.unwrap();
        assert!(reporter.node(&Node::default()).await.is_err());
        let seen = served(&reporter, 2).await;
        assert!(
            matches!(seen[..], [OutboxKey::Pod(_), OutboxKey::Node]),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn a_full_disk_fills_no_memory_and_what_came_meanwhile_is_written_in_the_end() {
    let (db, full) = Db::fillable();
    let reporter = Reporter::load(db.clone()).await.unwrap();
    reporter.node(&Node::default()).await.unwrap();
    full.store(true, Ordering::Relaxed);
    for n in 0..1_000 {
        let said = reporter.pod_status(&pod(), &status(&n.to_string()), None).await;
        assert!(said.is_err());
    }
    let unwritten = reporter.book.lock().unwritten.len();
    assert!(unwritten <= 4, "{unwritten}");
    full.store(false, Ordering::Relaxed);
    reporter.write_all().await.unwrap();
    assert_eq!(db.scan(Table::Outbox).await.unwrap().len(), 2);
    let reporter = Reporter::load(db).await.unwrap();
    assert_eq!(reporter.last_status("u1"), Some(status("999")));
}

fn event(name: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..Event::default()
    }
}

#[tokio::test(start_paused = true)]
async fn events_whose_budget_is_spent_wait_on_flash_and_go_when_it_renews_and_nothing_else_waits() {
    for carries in [Carries::AllButEvents, Carries::Everything] {
        let db = Db::in_memory();
        let reporter = Reporter::load(db.clone()).await.unwrap();
        reporter.event(&event("one")).await.unwrap();
        reporter
            .pod_status(&pod(), &status("Running"), None)
            .await
            .unwrap();
        let (spent, stop) = (AtomicBool::new(true), CancellationToken::new());
        let defers = || spent.load(Ordering::Relaxed);
        let way = |carries| Way {
            carries,
            defers: &defers,
            took: &|| (),
        };
        let ((edge, cloud), (beside, events)) = (pair(), pair());
        let (mut reader, mut writer) = (FrameReader::new(cloud.recv), FrameWriter::new(cloud.send));
        let seen = async {
            assert!(matches!(
                commit_one(&mut reader, &mut writer).await,
                OutboxKey::Pod(_)
            ));
            sleep(Duration::from_hours(5)).await;
            assert_eq!((reporter.pending(), reporter.pending_events()), (1, 1));
            assert_eq!(db.scan(Table::Event).await.unwrap().len(), 1);
            spent.store(false, Ordering::Relaxed);
            sleep(Duration::from_mins(1)).await;
            let (mut reader, mut writer) = if carries == Carries::Everything {
                (reader, writer)
            } else {
                (FrameReader::new(events.recv), FrameWriter::new(events.send))
            };
            assert!(matches!(
                commit_one(&mut reader, &mut writer).await,
                OutboxKey::Event { .. }
            ));
            reporter.event(&event("two")).await.unwrap();
            assert!(matches!(
                commit_one(&mut reader, &mut writer).await,
                OutboxKey::Event { .. }
            ));
            sleep(Duration::from_secs(2)).await;
            assert_eq!(db.scan(Table::Event).await.unwrap().len(), 0);
            stop.cancel();
        };
        let beside = async {
            if carries == Carries::AllButEvents {
                reporter.serve(beside, way(Carries::Events), &stop).await.unwrap();
            }
        };
        let (served, (), ()) = tokio::join!(reporter.serve(edge, way(carries), &stop), beside, seen);
        served.unwrap();
    }
}
