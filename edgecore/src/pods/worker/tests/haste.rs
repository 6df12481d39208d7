//! Steps that the runtime says it made and does not show.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_stop_that_changes_nothing_is_tried_once_a_second_in_the_end() {
    let web = pod(&json!({"containers": [{"name": "c", "image": "app:1"}]}));
    let node = wanting(&web, |_| {}).await;
    node.until("a run", |node| node.phase("u1") == "Running").await;
    node.runtime.ignores_stops(600);
    node.want(&deleted(web, 0));
    let began = Instant::now();
    node.until("the end", |node| node.gone() == ["u1"]).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(100), "{took:?}");
}
