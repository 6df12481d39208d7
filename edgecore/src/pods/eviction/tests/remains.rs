//! What ended pods left goes before a pod that runs.

use super::*;

/// A job that has ended and a pod that runs, on a node that is short of room as long as both have a container.
async fn with_a_job_that_left_much() -> (Node, std::path::PathBuf) {
    let mut node = Node::new(&["app:1", "old:1"]);
    node.image_gc_high_percent = 85;
    node.sight = Some(|runtime| match runtime.containers() {
        0 | 1 => plenty(),
        _ => no_disk(),
    });
    node.runtime.exits_at_once("job", 0);
    let mut job = plain("job");
    job["spec"]["restartPolicy"] = json!("Never");
    job["spec"]["containers"][0]["image"] = json!("old:1");
    node.boot().await;
    node.sync();
    node.want(&job);
    node.until("Succeeded", |node| node.phase("job") == "Succeeded")
        .await;
    let logs = node.link_dir().with_file_name("pods").join("ns_job_job");
    std::fs::create_dir_all(logs.join("job")).unwrap();
    node.want(&plain("busy"));
    (node, logs)
}

#[tokio::test(start_paused = true)]
async fn containers_logs_and_images_of_ended_pods_go_before_a_pod_that_runs() {
    let (mut node, logs) = with_a_job_that_left_much().await;
    node.until("room", |node| node.runtime.count("RemoveContainer") == 1)
        .await;
    node.until("no image that nobody uses", |node| {
        node.runtime.count("RemoveImage") == 1
    })
    .await;
    assert_eq!(calls(&node, "RemoveImage"), ["RemoveImage sha256:old:1"]);
    assert!(!logs.exists());
    let told = node.status("job");
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!(node.runtime.count("RemoveContainer"), 1);
        assert_eq!(node.phase("busy"), "Running", "it is not evicted");
        assert_eq!(
            (node.phase("job").as_str(), node.status("job").container_statuses),
            ("Succeeded", told.container_statuses.clone())
        );
        node.kill().await;
        node.boot().await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_enough_room_ended_pods_keep_what_they_left() {
    let (mut node, logs) = with_a_job_that_left_much().await;
    node.kill().await;
    node.sight = None;
    node.boot().await;
    node.until("Running", |node| node.phase("busy") == "Running")
        .await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(node.runtime.count("RemoveContainer"), 0);
    assert!(logs.exists());
}
