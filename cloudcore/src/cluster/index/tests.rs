//! Smallest worlds in which the index could go wrong, and all small ones by chance.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::object::canonical;
use serde_json::json;

use super::*;

fn node() -> NodeName {
    "e1".parse().unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Pod, "shop", name)
}

fn secret(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Secret, "shop", name)
}

fn pod_in(namespace: &str, name: &str, revision: u64, secrets: &[&str]) -> PodEntry {
    let json = json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "resourceVersion": revision.to_string(),
        },
        "spec": {"nodeName": "e1"},
    });
    let object = canonical(Kind::Pod, json.to_string().as_bytes()).unwrap();
    let refs = secrets
        .iter()
        .map(|name| ObjectKey::new(Kind::Secret, namespace, *name))
        .collect();
    PodEntry {
        object: Arc::new(object),
        refs,
        withheld: false,
    }
}

fn pod(name: &str, revision: u64, secrets: &[&str]) -> PodEntry {
    pod_in("shop", name, revision, secrets)
}

fn object(kind: Kind, namespace: &str, name: &str) -> Arc<Object> {
    let json =
        json!({"metadata": {"name": name, "namespace": namespace, "uid": "u", "resourceVersion": "1"}});
    Arc::new(canonical(kind, json.to_string().as_bytes()).unwrap())
}

fn attached() -> (Index, Arc<Dirty>) {
    let (mut index, feed) = (Index::default(), Arc::new(Dirty::default()));
    index.attach(&node(), Arc::clone(&feed));
    (index, feed)
}

fn pods(index: &Index) -> Vec<String> {
    index
        .keys(&node(), Kind::Pod)
        .into_iter()
        .map(|key| key.name)
        .collect()
}

#[test]
fn a_late_event_neither_resurrects_nor_removes_what_a_consistent_list_said() {
    let (mut index, _) = attached();
    index.fold_begins(&node());
    index.fold(&node(), vec![pod("a", 5, &[])], Revision(10));
    index.put_pod(&node(), pod("gone", 7, &[]));
    index.remove_pod(&node(), &key("a"), Revision(9));
    assert_eq!(pods(&index), ["a"]);
    index.remove_pod(&node(), &key("a"), Revision(11));
    assert!(pods(&index).is_empty());
}

#[test]
fn a_pod_deleted_while_the_list_was_made_stays_deleted() {
    let (mut index, _) = attached();
    index.fold_begins(&node());
    index.put_pod(&node(), pod("a", 8, &[]));
    index.remove_pod(&node(), &key("a"), Revision(12));
    index.put_pod(&node(), pod("b", 13, &[]));
    index.fold(&node(), vec![pod("a", 8, &[])], Revision(10));
    assert_eq!(
        pods(&index),
        ["b"],
        "b is newer than the list, a was deleted after it"
    );
}

#[test]
fn a_lagging_full_list_says_nothing_about_a_node_with_a_newer_one() {
    let (mut index, _) = attached();
    index.fold_begins(&node());
    index.fold(&node(), vec![pod("a", 9, &[])], Revision(10));
    index.pods_listed(&BTreeSet::new(), Revision(8));
    assert_eq!(pods(&index), ["a"]);
    index.pods_listed(&BTreeSet::new(), Revision(11));
    assert!(pods(&index).is_empty());
}

#[test]
fn after_a_restore_the_older_consistent_list_is_believed() {
    let (mut index, _) = attached();
    index.fold_begins(&node());
    index.fold(&node(), vec![pod("new", 90, &[])], Revision(100));
    index.fold_begins(&node());
    index.fold(&node(), vec![pod("old", 40, &[])], Revision(50));
    assert_eq!(pods(&index), ["old"]);
    assert_eq!(index.view_revision(&node(), Kind::Pod), Revision(50));
}

#[test]
fn a_named_object_is_watched_while_a_pod_names_it_and_by_a_node_that_may() {
    let (mut index, _) = attached();
    let other: NodeName = "e2".parse().unwrap();
    index.attach(&other, Arc::default());
    index.put_pod(&node(), pod("a", 1, &["s"]));
    index.put_pod(&other, pod("b", 2, &["s"]));
    let watching = Wanted {
        node: other.clone(),
        entry: 1,
    };
    let wanted = index.wanted(&HashMap::from([(secret("s"), watching.clone())]));
    assert_eq!(
        wanted.get(&secret("s")),
        Some(&watching),
        "who watches keeps watching"
    );
    index.remove_pod(&other, &key("b"), Revision(3));
    assert_eq!(index.wanted(&wanted)[&secret("s")].node, node());
    index.put_pod(&node(), pod("a", 4, &[]));
    assert!(index.wanted(&wanted).is_empty());
}

#[test]
fn statuses_of_pods_change_nothing_of_what_should_be_watched_and_all_that_does_is_counted() {
    let (mut index, _) = attached();
    let other: NodeName = "e2".parse().unwrap();
    index.attach(&other, Arc::default());
    let state = |index: &Index| (index.namings(), index.wanted(&HashMap::new()));
    index.put_pod(&node(), pod("a", 1, &["s"]));
    let before = state(&index);
    for revision in 2..100 {
        index.put_pod(&node(), pod("a", revision, &["s"]));
    }
    index.put_pod(&node(), pod("b", 100, &["s"]));
    index.remove_pod(&node(), &key("b"), Revision(101));
    assert_eq!(state(&index), before);

    let mut counted = before.0;
    let mut grew = |index: &Index| index.namings() > std::mem::replace(&mut counted, index.namings());
    index.put_pod(&other, pod("c", 102, &["s"]));
    assert!(grew(&index), "another node may read it");
    index.put_pod(&node(), pod("a", 103, &["s", "t"]));
    assert!(grew(&index), "another object");
    index.put_pod(&node(), pod("a", 104, &["t"]));
    assert!(grew(&index), "a node that may not read it any more");
    index.remove_pod(&other, &key("c"), Revision(105));
    assert!(grew(&index), "an object that nobody names");
}

#[test]
fn a_read_is_told_to_the_pods_that_wait_for_it_and_is_waited_for_no_longer() {
    let (mut index, feed) = attached();
    for revision in 1..100 {
        index.put_pod(&node(), pod("a", revision, &["s", "t"]));
    }
    index.put_pod(&node(), pod("b", 100, &["t"]));
    index.put_pod(&node(), pod("c", 101, &["s"]));
    index.put_pod(&node(), pod("d", 102, &["s"]));
    // One that names it no longer, and one that is gone.
    index.put_pod(&node(), pod("c", 103, &[]));
    index.remove_pod(&node(), &key("d"), Revision(104));
    assert_eq!(index.named[&secret("s")].waiting.len(), 1);
    feed.take();
    index.resolve(&secret("s"), Lookup::Absent(AbsentReason::Missing));
    assert_eq!(feed.take(), BTreeSet::from([secret("s"), key("a")]));
    index.put_pod(&node(), pod("e", 105, &["s"]));
    assert!(index.named[&secret("s")].waiting.is_empty());
    feed.take();
    index.resolve(&secret("s"), Lookup::Absent(AbsentReason::Forbidden));
    assert_eq!(
        feed.take(),
        BTreeSet::from([secret("s")]),
        "no pod waits any more"
    );
    index.detach(&node(), &feed);
    assert!(index.named.is_empty());
}

#[test]
fn an_object_released_and_named_again_in_one_fold_is_watched_anew() {
    let (mut index, _) = attached();
    index.put_pod(&node(), pod("a", 1, &["s"]));
    let before = index.wanted(&HashMap::new());
    index.resolve(&secret("s"), Lookup::Absent(AbsentReason::Missing));
    index.fold_begins(&node());
    index.fold(&node(), vec![pod("b", 5, &["s"])], Revision(10));
    assert_eq!(index.lookup(&node(), &secret("s")), Some(&Lookup::Unknown));
    assert_ne!(index.wanted(&before), before, "the old watch would never tell it");
    let again = index.wanted(&before);
    assert_eq!(index.wanted(&again), again);
}

#[test]
fn an_older_node_is_believed_of_a_list_alone() {
    let (mut index, _) = attached();
    let at = |revision: u64| {
        let json = json!({"metadata": {"name": "e1", "uid": "u", "resourceVersion": revision.to_string()}});
        let json = json.to_string();
        NodeEntry {
            object: Arc::new(canonical(Kind::Node, json.as_bytes()).unwrap()),
            whole: Body::compress(json.as_bytes()),
            autonomous: false,
        }
    };
    let held = |index: &Index| index.node("e1").unwrap().object.version.revision;
    index.put_node(at(9), false);
    index.put_node(at(7), false);
    assert_eq!(held(&index), Revision(9));
    index.put_node(at(7), true);
    assert_eq!(held(&index), Revision(7));
}

#[test]
fn a_node_sees_a_secret_only_through_its_own_pods() {
    let (mut index, _) = attached();
    let other: NodeName = "e2".parse().unwrap();
    index.attach(&other, Arc::default());
    index.put_pod(&node(), pod("a", 1, &["s"]));
    index.resolve(&secret("s"), Lookup::Present(object(Kind::Secret, "shop", "s")));
    assert!(index.object(&node(), &secret("s")).is_some());
    assert!(index.object(&other, &secret("s")).is_none() && index.lookup(&other, &secret("s")).is_none());
}

#[test]
fn a_pod_hears_when_what_it_names_becomes_known() {
    let (mut index, feed) = attached();
    index.put_pod(&node(), pod("a", 1, &["s"]));
    feed.take();
    index.resolve(&secret("s"), Lookup::Absent(AbsentReason::Missing));
    assert_eq!(feed.take(), BTreeSet::from([secret("s"), key("a")]));
    index.resolve(&secret("s"), Lookup::Absent(AbsentReason::Missing));
    assert!(feed.take().is_empty(), "nothing changed");
    index.resolve(&secret("s"), Lookup::Present(object(Kind::Secret, "shop", "s")));
    assert_eq!(feed.take(), BTreeSet::from([secret("s")]));
}

#[test]
fn services_follow_the_namespaces_of_the_pods() {
    let (mut index, feed) = attached();
    for (namespace, name) in [("default", "kubernetes"), ("default", "other"), ("shop", "web")] {
        index.put(object(Kind::Service, namespace, name));
    }
    let names = |index: &Index| -> Vec<String> {
        index
            .keys(&node(), Kind::Service)
            .into_iter()
            .map(|key| format!("{}/{}", key.namespace, key.name))
            .collect()
    };
    assert_eq!(names(&index), ["default/kubernetes"]);
    feed.take();
    index.put_pod(&node(), pod("a", 1, &[]));
    assert_eq!(names(&index), ["default/kubernetes", "shop/web"]);
    assert!(
        feed.take()
            .contains(&ObjectKey::new(Kind::Service, "shop", "web"))
    );
    index.remove_pod(&node(), &key("a"), Revision(2));
    assert_eq!(names(&index), ["default/kubernetes"]);
    assert!(
        feed.take()
            .contains(&ObjectKey::new(Kind::Service, "shop", "web")),
        "it has to be removed there"
    );
}

#[test]
fn nothing_is_kept_for_a_node_whose_last_session_ended() {
    let (mut index, feed) = attached();
    let newer = Arc::new(Dirty::default());
    index.attach(&node(), Arc::clone(&newer));
    index.put_pod(&node(), pod("a", 1, &["s"]));
    index.detach(&node(), &feed);
    assert_eq!(pods(&index), ["a"], "the newer session goes on");
    index.detach(&node(), &newer);
    assert!(pods(&index).is_empty() && index.wanted(&HashMap::new()).is_empty());
}

/// What may reach the index, in any order.
#[derive(Clone, Debug)]
enum Told {
    Put(usize, u64),
    Gone(usize, u64),
    Begin,
    Fold,
}

/// A true history: at which revisions each of three pods was written and deleted.
fn history() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..3_usize, any::<bool>()), 1..12)
}

/// The pods that exist in truth at a revision.
fn truth(history: &[(usize, bool)], at: usize) -> BTreeMap<usize, u64> {
    let mut pods = BTreeMap::new();
    for (revision, (pod, alive)) in history.iter().enumerate().take(at) {
        if *alive {
            pods.insert(*pod, revision as u64 + 1);
        } else {
            pods.remove(pod);
        }
    }
    pods
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn listed(history: &[(usize, bool)], at: usize) -> Vec<PodEntry> {
    truth(history, at)
        .into_iter()
        .map(|(name, revision)| pod(NAMES[name], revision, &["s"]))
        .collect()
}

fn tell(index: &mut Index, told: &Told, history: &[(usize, bool)], list_at: usize) {
    match told {
        Told::Put(name, revision) => index.put_pod(&node(), pod(NAMES[*name], *revision, &["s"])),
        Told::Gone(name, revision) => index.remove_pod(&node(), &key(NAMES[*name]), Revision(*revision)),
        Told::Begin => index.fold_begins(&node()),
        Told::Fold => index.fold(&node(), listed(history, list_at), Revision(list_at as u64)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The watch tells history in order, from wherever it stands; a consistent list is begun and
    /// folded in anywhere. What the index holds then is the truth.
    #[test]
    fn a_list_folded_into_a_watch_anywhere_gives_the_truth(
        history in history(), begin in 0..12_usize, list_at in 0..12_usize, fold in 0..12_usize,
    ) {
        let last = history.len();
        // A consistent list is at least as new as all that happened before it was begun, the watch
        // may lag behind it or run ahead while it travels.
        let (begin, list_at) = (begin.min(last), list_at.min(last));
        let mut script: Vec<Told> = history.iter().enumerate().map(|(at, (name, alive))| {
            let revision = at as u64 + 1;
            if *alive { Told::Put(*name, revision) } else { Told::Gone(*name, revision) }
        }).collect();
        script.insert(begin, Told::Begin);
        script.insert((begin + 1 + fold).min(script.len()), Told::Fold);
        prop_assume!(list_at >= begin);

        let (mut index, feed) = attached();
        for told in &script {
            tell(&mut index, told, &history, list_at);
        }
        let expected: Vec<String> = truth(&history, last).keys().map(|name| NAMES[*name].to_owned()).collect();
        prop_assert_eq!(pods(&index), expected.clone());
        prop_assert_eq!(index.wanted(&HashMap::new()).len(), usize::from(!expected.is_empty()));
        prop_assert!(feed.take().len() <= NAMES.len() + 1, "bounded by keys");
    }
}
