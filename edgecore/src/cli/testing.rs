//! A node that was killed, and whose disk has lost something.

use std::process::Command;

use super::Paths;
use crate::store::{Batch, Incident, Table, open_stores};

/// A joined node below a directory of its own; its daemon does not run, and a large value of its store is gone.
pub(in crate::cli) async fn damaged(name: &str) -> Paths {
    let root = std::env::temp_dir().join(format!("tombolo-{name}-{}", std::process::id()));
    let alive = Paths::below(root.join("alive"));
    std::fs::create_dir_all(alive.config_dir()).unwrap();
    std::fs::write(alive.config(), "node_name: pump-7\naddresses: [cloud]\n").unwrap();
    let stores = open_stores(&alive.state_dir()).unwrap();
    let large = Batch::new().put(Table::Desired, "large", vec![7; 10_000]);
    stores.meta.commit(large).await.unwrap();
    // As it is at this moment.
    let copied = Command::new("cp")
        .args(["-a".into(), root.join("alive"), root.join("killed")])
        .status();
    assert!(copied.unwrap().success());
    let killed = Paths::below(root.join("killed"));
    std::fs::remove_dir_all(killed.state_dir().join("objects/meta")).unwrap();
    killed
}

/// What the daemon finds to tell when it is started.
pub(in crate::cli) fn told_by_the_daemon(paths: &Paths) -> Vec<Incident> {
    open_stores(&paths.state_dir()).unwrap().incidents
}

/// Removes the node.
pub(in crate::cli) fn remove(paths: &Paths) {
    std::fs::remove_dir_all(paths.at("/").parent().unwrap()).unwrap();
}
