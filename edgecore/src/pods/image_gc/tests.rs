//! Which images go, which stay, and when anybody looks.

use super::*;
use crate::pods::testbed::Node;

fn image(name: &str, size: u64) -> api::Image {
    api::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![format!("docker.io/library/{name}:1")],
        size,
        ..api::Image::default()
    }
}

fn ids(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("sha256:{name}")).collect()
}

fn chosen(gc: &ImageGc, images: &[api::Image], needed: &[&str], bytes: u64, after: Duration) -> Vec<String> {
    let now = Instant::now() + after;
    let chosen = gc.choose(images, &ids(needed), bytes, now).into_iter();
    chosen
        .map(|image| image.id.trim_start_matches("sha256:").to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_used_longest_ago_goes_first_and_no_more_than_is_needed() {
    let images = [
        image("new", 10),
        image("old", 10),
        image("never", 10),
        image("needed", 10),
    ];
    let mut gc = ImageGc::default();
    gc.note(&images, &ids(&["old", "needed"]), Instant::now());
    gc.note(&images, &ids(&["new"]), Instant::now() + LOOK);
    let after = LOOK * 2;
    assert_eq!(chosen(&gc, &images, &["needed"], 15, after), ["never", "old"]);
    assert_eq!(
        chosen(&gc, &images, &["needed"], 1000, after),
        ["never", "old", "new"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_young_the_pinned_and_the_image_of_sandboxes_stay() {
    let mut pinned = image("pinned", 10);
    pinned.pinned = true;
    let images = [pinned, image("pause", 1), image("web", 10)];
    let mut gc = ImageGc::default();
    gc.note(&images, &BTreeSet::new(), Instant::now());
    assert_eq!(chosen(&gc, &images, &[], 1000, MIN_AGE / 2), Vec::<String>::new());
    assert_eq!(chosen(&gc, &images, &[], 1000, MIN_AGE), ["web"]);
}

fn full(path: &Path) -> Option<Disk> {
    (path == Path::new("/images")).then_some(Disk {
        bytes: 1000,
        bytes_free: 0,
        inodes: 0,
        inodes_free: 0,
    })
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_the_image_that_a_wanted_pod_names_stays_and_the_others_go() {
    let node = Node::new(&["app:1", "old:1"]);
    let containers = serde_json::json!([{"name": "c", "image": "app:1"}]);
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers},
        "metadata": {"name": "web", "namespace": "ns", "uid": "u1"}});
    node.want(&pod);
    let room = Room {
        runtime: Arc::new(node.runtime.clone()),
        source: node.source.clone(),
        report: node.report.clone(),
        high_percent: 85,
        measure: full,
    };
    let mut gc = ImageGc::default();
    let mut left = async || {
        room.look(&mut gc).await.unwrap();
        tokio::time::sleep(LOOK).await;
        room.look(&mut gc).await.unwrap();
        let images = node.runtime.list_images().await.unwrap().into_iter();
        images.map(|image| image.id).collect::<Vec<_>>()
    };
    assert_eq!(
        left().await.len(),
        2,
        "the cluster has not confirmed what is wanted"
    );
    node.sync();
    assert_eq!(left().await, ["sha256:app:1"]);
    // It was evicted: it stays in the cluster, and never runs again.
    let failed = serde_json::from_value(serde_json::json!({ "phase": "Failed" })).unwrap();
    let pod = serde_json::from_value(pod).unwrap();
    node.report.pod_status(&pod, &failed, None).await.unwrap();
    assert!(left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_all_the_room_there_is_gets_it_offline_too_unless_all_images_are_to_be_kept() {
    let node = Node::new(&["old:1", "older:1"]);
    for (high_percent, left) in [(100, 2), (85, 0)] {
        let room = Room {
            runtime: Arc::new(node.runtime.clone()),
            source: node.source.clone(),
            report: node.report.clone(),
            high_percent,
            // It is not full at all.
            measure: |_| None,
        };
        let (pleas, asked) = mpsc::channel(1);
        let (plea, made) = oneshot::channel();
        let asking = async {
            tokio::time::sleep(MIN_AGE / 12).await;
            pleas.send(plea).await.unwrap();
            made.await.unwrap();
        };
        tokio::select! {
            () = keep_room(room, asked) => {}
            () = asking => {}
        }
        assert_eq!(node.runtime.list_images().await.unwrap().len(), left);
    }
}

#[test]
fn a_container_holds_its_image_by_id_name_or_digest() {
    let mut by_digest = image("digest", 1);
    by_digest.repo_digests = vec!["docker.io/library/digest@sha256:ab".to_owned()];
    let images = [image("id", 1), image("tag", 1), by_digest, image("free", 1)];
    let container = |image_ref: &str| api::Container {
        image_ref: image_ref.to_owned(),
        ..api::Container::default()
    };
    let containers = [
        container("sha256:id"),
        container("docker.io/library/tag:1"),
        container("docker.io/library/digest@sha256:ab"),
    ];
    assert_eq!(used(&images, &containers), ids(&["id", "tag", "digest"]));
}

#[test]
fn a_disk_is_too_full_above_the_high_threshold_and_is_emptied_below_the_low_one() {
    let disk = |bytes_free| Disk {
        bytes: 1000,
        bytes_free,
        inodes: 0,
        inodes_free: 0,
    };
    assert_eq!(too_full(&disk(150), 85), None);
    assert_eq!(too_full(&disk(140), 85), Some(60));
    assert_eq!(too_full(&disk(0), 100), None, "100 keeps them all");
}
