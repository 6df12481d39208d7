//! Who may enter the directories of pods.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[tokio::test(start_paused = true)]
async fn other_users_of_the_device_enter_no_directory_of_a_pod_although_an_older_one_stood_open() {
    let mut node = Node::new(&["app:1"]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let pod = node.on_disk("u1", "");
    let pods = pod.parent().unwrap();
    fs::create_dir_all(pods).unwrap();
    fs::set_permissions(pods, fs::Permissions::from_mode(0o755)).unwrap();
    node.boot().await;
    node.sync();
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    assert_eq!((mode(pods), mode(&pod)), (0o750, 0o750));
}
