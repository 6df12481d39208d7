//! Rights that change under a replica that runs.

use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::testing::{Asked, cluster};
use super::*;

/// What cloudcore's roles say, which tests change.
#[derive(Clone, Copy)]
struct Roles {
    way: Option<Impersonation>,
    leases: bool,
}

/// An API server that lets cloudcore act for nodes as the roles say, except for one node, which it lets nobody
/// write the Lease of.
fn world(way: Impersonation) -> (Cluster, Arc<Mutex<Roles>>) {
    let way = Some(way);
    let roles = Arc::new(Mutex::new(Roles { way, leases: true }));
    let told = Arc::clone(&roles);
    let cluster = cluster(move |asked| answer(&asked, *told.lock()));
    (cluster, roles)
}

fn answer(asked: &Asked, roles: Roles) -> (StatusCode, Value) {
    let headers = &asked.head.headers;
    let way = if headers.contains_key("impersonate-group") {
        Impersonation::Classic
    } else {
        Impersonation::Constrained
    };
    let path = asked.head.uri.path();
    let of_a_node = headers.contains_key("impersonate-user");
    let refused = (of_a_node && (roles.way != Some(way) || (path.contains("/leases/") && !roles.leases)))
        || path.ends_with("/leases/barred");
    let code = if refused {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::NOT_FOUND
    };
    (
        code,
        json!({ "code": code.as_u16(), "reason": "", "message": "" }),
    )
}

/// What a replica says of itself when it has looked for a while.
async fn after_a_minute(cluster: &Cluster) -> Option<&'static str> {
    let _ended = timeout(Duration::from_mins(1), cluster.probe()).await;
    cluster.health().obstacle()
}

#[tokio::test(start_paused = true)]
async fn a_replica_goes_the_other_way_when_its_rights_are_changed_while_it_runs() {
    use Impersonation::{Classic, Constrained};
    for (before, after) in [(Classic, Constrained), (Constrained, Classic)] {
        let (cluster, roles) = world(before);
        cluster.api().go(before);
        assert_eq!(after_a_minute(&cluster).await, None);
        assert_eq!(cluster.api().impersonation(), before);
        roles.lock().way = Some(after);
        assert_eq!(after_a_minute(&cluster).await, None);
        assert_eq!(cluster.api().impersonation(), after);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_may_act_for_no_node_says_so_until_it_may() {
    let (cluster, roles) = world(Impersonation::Classic);
    let had = *roles.lock();
    for lost in [Roles { way: None, ..had }, Roles { leases: false, ..had }] {
        assert_eq!(after_a_minute(&cluster).await, None);
        *roles.lock() = lost;
        let said = after_a_minute(&cluster).await;
        assert!(said.is_some_and(|said| said.contains("no node")), "{said:?}");
        *roles.lock() = had;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_is_refused_makes_a_replica_look_and_stays_the_only_one() {
    let (cluster, roles) = world(Impersonation::Constrained);
    assert_eq!(after_a_minute(&cluster).await, None);
    let barred: NodeName = "barred".parse().unwrap();
    let look_soon = async || {
        cluster.fence(&barred, "session").await.unwrap_err();
        cluster.health().quiet_for().is_none()
    };
    assert!(look_soon().await);
    assert_eq!(after_a_minute(&cluster).await, None);
    // And what it looks for is what all nodes need.
    roles.lock().way = Some(Impersonation::Classic);
    assert!(look_soon().await);
    assert_eq!(after_a_minute(&cluster).await, None);
    assert_eq!(cluster.api().impersonation(), Impersonation::Classic);
}
