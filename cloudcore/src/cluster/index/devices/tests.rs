//! Which node is told of which device and model, as devices are made, edited, moved and deleted.

use protocol::desired::View;
use protocol::object::canonical;
use serde_json::json;

use super::super::Dirty;
use super::*;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn device_key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Device, "n", name)
}

fn model_key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::DeviceModel, "n", name)
}

fn device(name: &str, at: &str, model: &str) -> DeviceEntry {
    let json = json!({
        "metadata": { "name": name, "namespace": "n", "uid": format!("u-{name}"), "resourceVersion": "5" },
        "spec": { "nodeName": at, "deviceModelRef": { "name": model } },
        "status": { "state": "online" },
    });
    let text = json.to_string();
    DeviceEntry::new(
        Arc::new(canonical(Kind::Device, text.as_bytes()).unwrap()),
        &serde_json::from_value(json).unwrap(),
    )
}

fn model(name: &str) -> Arc<Object> {
    let json = json!({
        "metadata": { "name": name, "namespace": "n", "uid": format!("u-{name}"), "resourceVersion": "5" },
        "spec": {},
    });
    Arc::new(canonical(Kind::DeviceModel, json.to_string().as_bytes()).unwrap())
}

/// Two nodes, of which each hears.
fn attached() -> (Index, Arc<Dirty>, Arc<Dirty>) {
    let mut index = Index::default();
    let feeds = ["e1", "e2"].map(|name| {
        let feed = Arc::new(Dirty::default());
        index.attach(&node(name), Arc::clone(&feed));
        feed
    });
    let [first, second] = feeds;
    (index, first, second)
}

fn held(index: &Index, at: &str) -> Vec<ObjectKey> {
    let (node, kinds) = (node(at), [Kind::DeviceModel, Kind::Device]);
    let keys: Vec<_> = kinds
        .into_iter()
        .flat_map(|kind| index.keys(&node, kind))
        .collect();
    for key in &keys {
        assert!(index.object(&node, key).is_some(), "{key}");
    }
    keys
}

#[test]
fn a_node_holds_its_devices_and_the_models_that_these_name() {
    let (mut index, first, second) = attached();
    index.put(model("m"));
    index.put(model("unused"));
    assert!(first.take().is_empty(), "nobody uses it");
    index.put_device(device("d", "e1", "m"));
    assert_eq!(first.take(), BTreeSet::from([device_key("d"), model_key("m")]));
    assert!(second.take().is_empty());
    assert_eq!(held(&index, "e1"), [model_key("m"), device_key("d")]);
    assert!(held(&index, "e2").is_empty());
    assert!(index.object(&node("e2"), &model_key("m")).is_none());
    index.put_device(device("homeless", "", "m"));
    index.put_device(device("modelless", "e2", "missing"));
    assert_eq!(held(&index, "e2"), [device_key("modelless")]);
}

#[test]
fn a_model_edit_reaches_the_nodes_of_its_devices_and_concerns_these_too() {
    let (mut index, first, second) = attached();
    index.put_device(device("d", "e1", "m"));
    first.take();
    index.put(model("m"));
    let both = BTreeSet::from([device_key("d"), model_key("m")]);
    assert_eq!(first.take(), both);
    assert!(second.take().is_empty());
    index.remove(&model_key("m"));
    assert_eq!(first.take(), both);
    assert_eq!(held(&index, "e1"), [device_key("d")]);
}

#[test]
fn a_device_that_moves_is_told_to_both_of_its_nodes() {
    let (mut index, first, second) = attached();
    index.put(model("m"));
    index.put_device(device("d", "e1", "m"));
    first.take();
    index.put_device(device("d", "e2", "m"));
    let both = BTreeSet::from([device_key("d"), model_key("m")]);
    assert_eq!((first.take(), second.take()), (both.clone(), both.clone()));
    assert!(held(&index, "e1").is_empty());
    assert_eq!(held(&index, "e2"), [model_key("m"), device_key("d")]);
    index.remove(&device_key("d"));
    assert_eq!(second.take(), both);
    assert!(held(&index, "e2").is_empty());
}

#[test]
fn a_model_stays_while_another_device_of_the_node_names_it() {
    let (mut index, ..) = attached();
    index.put(model("m"));
    index.put_device(device("a", "e1", "m"));
    index.put_device(device("b", "e1", "m"));
    index.put_device(device("a", "e2", "m"));
    assert_eq!(held(&index, "e1"), [model_key("m"), device_key("b")]);
    index.put_device(device("b", "e1", "other"));
    assert_eq!(held(&index, "e1"), [device_key("b")]);
}

#[test]
fn a_view_says_nothing_of_devices_before_both_kinds_were_listed() {
    let (mut index, ..) = attached();
    let at = node("e1");
    let says = |index: &Index| {
        [Kind::Service, Kind::DeviceModel, Kind::Device].map(|kind| index.seen_by(&at).is_listed(kind))
    };
    assert_eq!(says(&index), [true, false, false]);
    index.relisted(Kind::DeviceModel, &BTreeSet::new(), Revision(7));
    assert_eq!(
        says(&index),
        [true, false, false],
        "which models count follows from devices"
    );
    index.relisted(Kind::Device, &BTreeSet::new(), Revision(8));
    assert_eq!(says(&index), [true, true, true]);
}

#[test]
fn what_a_list_lacks_is_removed_from_its_node() {
    let (mut index, first, _) = attached();
    index.put_device(device("a", "e1", "m"));
    index.put_device(device("b", "e1", "m"));
    first.take();
    index.relisted(Kind::Device, &BTreeSet::from([device_key("b")]), Revision(9));
    assert_eq!(held(&index, "e1"), [device_key("b")]);
    assert!(first.take().contains(&device_key("a")));
}

#[test]
fn whoever_reports_of_a_device_hears_when_its_status_is_deleted() {
    let (mut index, first, _) = attached();
    index.put_device(device("d", "e1", "m"));
    first.take();
    index.put_status(&device_key("d"), status("1", 1), false);
    assert!(first.take().is_empty(), "it is the first");
    index.remove_status(&device_key("d"), "0");
    assert!(first.take().is_empty(), "a late word of an earlier one");
    index.remove_status(&device_key("d"), "1");
    assert!(first.take().contains(&device_key("d")));
    index.put_status(&device_key("d"), status("2", 2), false);
    index.statuses_relisted(&BTreeSet::new());
    assert!(first.take().contains(&device_key("d")) && index.statuses_listed());
}

fn status(uid: &str, revision: u64) -> StatusEntry {
    StatusEntry {
        uid: uid.into(),
        revision: Revision(revision),
        device: "u-d".into(),
        said: None,
    }
}

#[tokio::test(start_paused = true)]
async fn what_this_replica_wrote_is_known_of_that_revision_alone() {
    let (mut index, first, _) = attached();
    index.put_device(device("d", "e1", "m"));
    let said = Some(Said {
        whole: Digest::of(b"1"),
        values: Digest::of(b"1"),
        at: Instant::now(),
    });
    let held = |index: &Index| index.device_status(&device_key("d")).unwrap().said;
    // The watch may tell of a write before its answer comes, or after.
    index.put_status(&device_key("d"), status("s", 7), false);
    first.take();
    let own = StatusEntry {
        said,
        ..status("s", 7)
    };
    index.put_status(&device_key("d"), own, false);
    assert!(first.take().is_empty());
    index.put_status(&device_key("d"), status("s", 7), true);
    assert_eq!(held(&index), said);
    index.put_status(&device_key("d"), status("s", 8), false);
    assert_eq!(held(&index), None);
    let late = StatusEntry {
        said,
        ..status("s", 7)
    };
    index.put_status(&device_key("d"), late, false);
    assert_eq!(held(&index), None, "a late answer");
}

#[test]
fn a_status_that_another_writer_changed_or_deleted_is_told_to_its_node() {
    let (mut index, first, second) = attached();
    index.put_device(device("d", "e1", "m"));
    index.put_status(&device_key("d"), status("s", 7), false);
    first.take();
    let told = |feed: &Dirty| feed.take().contains(&device_key("d"));
    index.put_status(&device_key("d"), status("s", 7), false);
    assert!(!told(&first), "the watch says what a write's answer said");
    index.put_status(&device_key("d"), status("s", 8), false);
    assert!(told(&first));
    index.put_status(&device_key("d"), status("s", 7), false);
    assert!(!told(&first), "a late word");
    assert_eq!(index.device_status(&device_key("d")), Some(&status("s", 8)));
    index.put_status(&device_key("d"), status("s", 3), true);
    assert!(told(&first), "a cluster that was restored");
    index.remove_status(&device_key("d"), "s");
    assert!(told(&first));
    assert!(!told(&second));
}

#[test]
fn a_state_that_was_written_is_known_before_the_watch_tells_of_it() {
    let (mut index, first, _) = attached();
    index.put_device(device("d", "e1", "m"));
    first.take();
    let held = |index: &Index| {
        let entry = index.device(&device_key("d")).unwrap();
        (entry.object.version.revision, entry.state.clone())
    };
    let (over, _) = held(&index);
    let next = Revision(over.0 + 3);
    index.stated(&device_key("d"), over, over, Some("dropped".into()));
    assert_eq!(
        held(&index),
        (over, Some("online".into())),
        "the API server did not take it"
    );
    index.stated(&device_key("d"), over, next, Some("offline".into()));
    assert_eq!(held(&index), (next, Some("offline".into())));
    index.stated(&device_key("d"), over, Revision(over.0 + 2), Some("late".into()));
    assert_eq!(held(&index), (next, Some("offline".into())));
    assert!(first.take().is_empty(), "its node need not hear of it");
}
