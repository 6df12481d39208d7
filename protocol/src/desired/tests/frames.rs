//! The edge half alone, with frames made by hand: what it refuses, and what it says of that.

use std::collections::BTreeSet;

use super::key;
use crate::desired::digest::MapDigest;
use crate::desired::{ClusterRefused, Fences, Held, Notice, RejectReason, Replica, Violation};
use crate::object::{Body, Digest, Kind, ObjectKey, Revision, Version};
use crate::wire::{
    Begin, DesiredDown, End, ObjectBody, ObjectName, Plan, Rejected, Remove, Same, Synced, Upsert,
    desired_down, desired_up,
};

#[test]
fn a_refusal_that_the_cloud_has_not_heard_of_does_not_spoil_the_comparison() {
    let mut edge = connected();
    let put = upsert(Body::compress(b"{}").to_wire(), Digest::of(b"else"));
    offer(&mut edge, put).unwrap();
    let mut sum = MapDigest::default();
    sum.add_identity(&ObjectKey::new(Kind::Service, "n", "s"), "u");
    let (count, digest) = (sum.count, sum.digest().0.to_vec().into());
    let synced = Synced {
        kind: Kind::Service.wire(),
        count,
        digest,
        view_revision: 9,
        ..Synced::default()
    };
    edge.handle_frame(down(desired_down::Kind::Synced(synced)))
        .unwrap();
    assert!(edge.synced(Kind::Service));
}

#[test]
fn keys_that_are_left_out_may_come_in_several_frames_and_the_last_one_is_compared() {
    let held = ["a", "b", "c"].map(|name| Held {
        key: ObjectKey::new(Kind::Service, "n", name),
        version: Version {
            uid: format!("u-{name}"),
            revision: Revision(1),
            digest: Digest::of(b""),
        },
        references: BTreeSet::new(),
    });
    let mut edge = Replica::load(held.into(), Fences::default());
    edge.connected("c", 0).unwrap();
    let plan = Plan {
        kind: Kind::Service.wire(),
        view_revision: 9,
        ..Plan::default()
    };
    edge.handle_frame(down(desired_down::Kind::Plan(plan))).unwrap();
    let mut sum = MapDigest::default();
    sum.add_identity(&ObjectKey::new(Kind::Service, "n", "c"), "u-c");
    for (skipped, more) in [("a", true), ("b", false)] {
        assert!(!edge.synced(Kind::Service));
        let skipped = ObjectName {
            namespace: "n".into(),
            name: skipped.into(),
        };
        let synced = Synced {
            kind: Kind::Service.wire(),
            count: sum.count,
            digest: sum.digest().0.to_vec().into(),
            view_revision: 9,
            skipped: vec![skipped],
            more,
            ..Synced::default()
        };
        edge.handle_frame(down(desired_down::Kind::Synced(synced)))
            .unwrap();
        assert_eq!(edge.poll_notice(), None);
    }
    assert!(edge.synced(Kind::Service));
}

#[test]
fn references_go_only_after_the_pods_are_synced() {
    let plan = |kind: Kind| Plan {
        kind: kind.wire(),
        removes: 1,
        view_revision: 9,
        consistent: true,
        ..Plan::default()
    };
    let removal = Remove {
        seq: 1,
        kind: Kind::ConfigMap.wire(),
        key: Some(ObjectName {
            namespace: "n".into(),
            name: "c".into(),
        }),
        view_revision: 9,
        ..Remove::default()
    };
    let held = Held {
        key: ObjectKey::new(Kind::ConfigMap, "n", "c"),
        version: Version {
            uid: "u".into(),
            revision: Revision(1),
            digest: Digest::of(b""),
        },
        references: BTreeSet::new(),
    };
    let mut edge = Replica::load(vec![held], Fences::default());
    edge.connected("c", 0).unwrap();
    edge.handle_frame(down(desired_down::Kind::Plan(plan(Kind::ConfigMap))))
        .unwrap();
    edge.handle_frame(down(desired_down::Kind::Begin(Begin { seq: 1 })))
        .unwrap();
    edge.handle_frame(down(desired_down::Kind::Remove(removal)))
        .unwrap();
    edge.handle_frame(down(desired_down::Kind::End(End { seq: 1 })))
        .unwrap();
    assert_eq!(rejections(&mut edge)[0].code, RejectReason::TooEarly.wire());
}

#[test]
fn a_version_from_a_view_older_than_the_fence_is_refused() {
    let fences = Fences {
        views: [(Kind::Service, Revision(9))].into(),
        ..Fences::default()
    };
    let mut edge = Replica::load(Vec::new(), fences);
    edge.connected("c", 0).unwrap();
    let put = Upsert {
        view_revision: 8,
        ..upsert(Body::compress(b"{}").to_wire(), Digest::of(b"{}"))
    };
    offer(&mut edge, put).unwrap();
    assert_eq!(rejections(&mut edge)[0].code, RejectReason::Older.wire());
}

#[test]
fn a_pod_without_what_it_names_is_refused() {
    let mut edge = connected();
    let plan = Plan {
        kind: Kind::Pod.wire(),
        adds: 1,
        view_revision: 9,
        consistent: true,
        ..Plan::default()
    };
    edge.handle_frame(down(desired_down::Kind::Plan(plan))).unwrap();
    let json = br#"{"metadata":{"namespace":"n"},"spec":{"imagePullSecrets":[{"name":"s"}]}}"#;
    let put = Upsert {
        kind: Kind::Pod.wire(),
        ..upsert(Body::compress(json).to_wire(), Digest::of(json))
    };
    send(&mut edge, put).unwrap();
    assert_eq!(rejections(&mut edge)[0].code, RejectReason::Incomplete.wire());
}

#[test]
fn fences_are_read_as_they_were_written_and_as_older_versions_wrote_them() {
    let mut fences = Fences {
        views: [(Kind::Service, Revision(9))].into(),
        ..Fences::default()
    };
    let service = key(Kind::Service, 0);
    let pair = serde_json::to_string(&(&service, Revision(12))).unwrap();
    let plain = serde_json::to_string(&fences).unwrap();
    assert_eq!(serde_json::from_str::<Fences>(&plain).unwrap(), fences);
    fences.void.insert(service, Revision(12));
    assert_eq!(
        serde_json::to_string(&fences).unwrap(),
        plain,
        "void revisions have rows of their own"
    );
    let older = plain.replacen('{', &format!(r#"{{"void":[{pair}],"#), 1);
    assert_eq!(serde_json::from_str::<Fences>(&older).unwrap(), fences);
}

#[test]
fn another_cluster_and_an_older_epoch_are_refused() {
    let fences = Fences {
        cluster_id: "ours".into(),
        epoch: 2,
        ..Fences::default()
    };
    let mut edge = Replica::load(Vec::new(), fences);
    let another = edge.connected("theirs", 2).unwrap_err();
    assert!(another.to_string().contains("--replace-cluster"), "{another}");
    assert_eq!(
        edge.connected("ours", 1),
        Err(ClusterRefused::OldEpoch { held: 2, offered: 1 })
    );
    assert!(edge.connected("ours", 3).is_ok() && edge.is_behind());
}

fn down(kind: desired_down::Kind) -> DesiredDown {
    DesiredDown { kind: Some(kind) }
}

fn connected() -> Replica {
    let mut edge = Replica::load(Vec::new(), Fences::default());
    edge.connected("c", 0).unwrap();
    edge
}

#[test]
fn the_first_comparison_of_a_boot_without_a_consistent_list_is_refused() {
    let same = Same {
        kind: Kind::Pod.wire(),
        view_revision: 9,
        consistent: false,
    };
    assert_eq!(
        connected().handle_frame(down(desired_down::Kind::Same(same))),
        Err(Violation::NotConsistent)
    );
    let plan = Plan {
        kind: Kind::Pod.wire(),
        adds: 1,
        view_revision: 9,
        ..Plan::default()
    };
    assert_eq!(
        connected().handle_frame(down(desired_down::Kind::Plan(plan))),
        Err(Violation::NotConsistent)
    );
}

#[test]
fn a_view_older_than_the_fence_may_not_speak() {
    let fences = Fences {
        views: [(Kind::Service, Revision(50))].into(),
        ..Fences::default()
    };
    let mut edge = Replica::load(Vec::new(), fences);
    edge.connected("c", 0).unwrap();
    let same = Same {
        kind: Kind::Service.wire(),
        view_revision: 49,
        consistent: true,
    };
    let refused = edge.handle_frame(down(desired_down::Kind::Same(same)));
    assert_eq!(
        refused,
        Err(Violation::OldView {
            kind: Kind::Service,
            view: 49,
            fence: 50
        })
    );
}

fn upsert(body: ObjectBody, digest: Digest) -> Upsert {
    Upsert {
        seq: 1,
        kind: Kind::Service.wire(),
        key: Some(ObjectName {
            namespace: "n".into(),
            name: "s".into(),
        }),
        uid: "u".into(),
        revision: 3,
        digest: digest.0.to_vec().into(),
        body: Some(body),
        seed_status: None,
        view_revision: 9,
    }
}

fn offer(edge: &mut Replica, upsert: Upsert) -> Result<(), Violation> {
    let plan = Plan {
        kind: Kind::Service.wire(),
        adds: 1,
        view_revision: 9,
        ..Plan::default()
    };
    edge.handle_frame(down(desired_down::Kind::Plan(plan)))?;
    send(edge, upsert)
}

fn send(edge: &mut Replica, upsert: Upsert) -> Result<(), Violation> {
    edge.handle_frame(down(desired_down::Kind::Begin(Begin { seq: 1 })))?;
    edge.handle_frame(down(desired_down::Kind::Upsert(upsert)))?;
    edge.handle_frame(down(desired_down::Kind::End(End { seq: 1 })))
}

fn rejections(edge: &mut Replica) -> Vec<Rejected> {
    let frames = std::iter::from_fn(|| edge.poll_transmit());
    let rejected = frames.filter_map(|frame| match frame.kind {
        Some(desired_up::Kind::Rejected(rejected)) => Some(rejected),
        _ => None,
    });
    rejected.collect()
}

#[test]
fn a_body_that_is_not_what_its_digest_says_is_rejected_and_never_stored() {
    let mut edge = connected();
    offer(
        &mut edge,
        upsert(Body::compress(b"{}").to_wire(), Digest::of(b"else")),
    )
    .unwrap();
    assert!(edge.poll_commit().is_none_or(|commit| commit.puts.is_empty()));
    let rejected = rejections(&mut edge);
    assert_eq!(rejected[0].code, RejectReason::Damaged.wire());
}

#[test]
fn a_commit_that_fails_alone_is_rejected_and_the_older_state_stays() {
    let mut edge = connected();
    offer(
        &mut edge,
        upsert(Body::compress(b"{}").to_wire(), Digest::of(b"{}")),
    )
    .unwrap();
    let commit = edge.poll_commit().unwrap();
    assert_eq!(commit.puts.len(), 1);
    edge.failed(commit.id).unwrap();
    assert_eq!(rejections(&mut edge)[0].code, RejectReason::NotStored.wire());
    assert_eq!(edge.entries().count(), 0);
}

#[test]
fn names_and_uids_longer_than_any_are_a_violation() {
    let body = || Body::compress(b"{}").to_wire();
    let named = Some(ObjectName {
        namespace: "n".into(),
        name: "s".repeat(254),
    });
    let put = Upsert {
        key: named,
        ..upsert(body(), Digest::of(b"{}"))
    };
    assert_eq!(
        offer(&mut connected(), put),
        Err(Violation::Malformed { field: "key" })
    );
    let put = Upsert {
        uid: "u".repeat(65),
        ..upsert(body(), Digest::of(b"{}"))
    };
    assert_eq!(
        offer(&mut connected(), put),
        Err(Violation::Malformed { field: "uid" })
    );
}

#[test]
fn objects_before_their_plan_are_a_violation() {
    let mut edge = connected();
    edge.handle_frame(down(desired_down::Kind::Begin(Begin { seq: 1 })))
        .unwrap();
    let put = upsert(Body::compress(b"{}").to_wire(), Digest::of(b"{}"));
    edge.handle_frame(down(desired_down::Kind::Upsert(put))).unwrap();
    let refused = edge.handle_frame(down(desired_down::Kind::End(End { seq: 1 })));
    assert_eq!(
        refused,
        Err(Violation::OutOfTurn {
            frame: "a closure",
            kind: Kind::Service
        })
    );
}

#[test]
fn a_comparison_that_ends_unequal_is_repeated_a_few_times_and_then_said() {
    let mut edge = connected();
    let plan = Plan {
        kind: Kind::Service.wire(),
        view_revision: 9,
        ..Plan::default()
    };
    edge.handle_frame(down(desired_down::Kind::Plan(plan))).unwrap();
    let mut notices = Vec::new();
    for _ in 0..3 {
        let synced = Synced {
            kind: Kind::Service.wire(),
            count: 7,
            digest: vec![0; 16].into(),
            view_revision: 9,
            ..Synced::default()
        };
        edge.handle_frame(down(desired_down::Kind::Synced(synced)))
            .unwrap();
        notices.extend(edge.poll_notice());
    }
    assert_eq!(notices, [Notice::Diverged { kind: Kind::Service }]);
    assert!(!edge.synced(Kind::Service));
}
