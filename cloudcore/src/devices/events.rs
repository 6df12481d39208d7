//! Events about devices, each with how often it happened and its newest time.
//!
//! What it is: the writing. What is written when is the [`Book`]'s.
//!
//! **Invariant:** one Event is written at a time, and never more than so many a second.

mod book;

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use crate::cluster::{Actor, ApiError, Call, Cluster, Content};

pub(super) use book::About;

use book::{Book, Due, Ended};

/// Between two writes: twenty a second, whatever is wrong with how many devices.
const GAP: Duration = Duration::from_millis(50);

fn time(at: SystemTime) -> String {
    Timestamp::try_from(at)
        .map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

fn document(Due { said, series }: &Due) -> (String, Value) {
    let (about, reason, _) = &**said;
    let namespace = if about.namespace.is_empty() {
        "default"
    } else {
        &about.namespace
    };
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "namespace": namespace, "name": series.name },
        "involvedObject": {
            "apiVersion": about.api_version, "kind": about.kind, "name": about.name, "uid": about.uid,
            "namespace": if about.namespace.is_empty() { Value::Null } else { json!(about.namespace) },
        },
        "type": "Warning",
        "reason": reason,
        "message": series.message,
        "source": { "component": "cloudcore" },
        "reportingComponent": "cloudcore",
        "count": series.count,
        "firstTimestamp": time(series.first),
        "lastTimestamp": time(series.last),
    });
    (format!("/api/v1/namespaces/{namespace}/events"), event)
}

/// Says things, and writes what was said.
pub(super) struct Events {
    cluster: Cluster,
    book: Mutex<Book>,
    bell: Notify,
}

impl Events {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            book: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Says something of an object. It is written by [`Events::run`]; what is too much is lost, unless there
    /// [was room](Events::has_room).
    pub(super) fn say(&self, about: About, reason: &'static str, message: &str) {
        let now = (self.cluster.clock().now(), Instant::now());
        self.book.lock().say(about, reason, message, now);
        self.bell.notify_one();
    }

    /// Whether something new is written too, if it is said now.
    pub(super) fn has_room(&self) -> bool {
        self.book.lock().has_room()
    }

    /// Writes what was said, one after the other, for ever.
    pub(super) async fn run(&self) {
        loop {
            let next = self.book.lock().next(Instant::now());
            match next {
                Ok(due) => {
                    let how = ended(self.write(&due).await);
                    self.book.lock().wrote(&due, how, Instant::now());
                    sleep(GAP).await;
                }
                Err(Some(at)) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.bell.notified() => {}
                },
                Err(None) => self.bell.notified().await,
            }
        }
    }

    async fn write(&self, due: &Due) -> Result<(), ApiError> {
        let (collection, event) = document(due);
        let api = self.cluster.api();
        if due.series.is_made {
            let news =
                ["count", "lastTimestamp", "message"].map(|field| (field.to_owned(), event[field].clone()));
            let body = Value::Object(news.into_iter().collect()).to_string().into_bytes();
            let event = format!("{collection}/{}", due.series.name);
            let call = Call::patch(event, Content::MergePatch, body);
            match api.call(Actor::Cloudcore, call).await {
                // It is an hour old and gone: made anew.
                Err(error) if error.is_not_found() => {}
                other => return other.map(drop),
            }
        }
        let call = Call::post(collection, event.to_string().into_bytes());
        api.call(Actor::Cloudcore, call).await.map(drop)
    }
}

fn ended(result: Result<(), ApiError>) -> Ended {
    match result {
        Ok(()) => Ended::Written,
        // Its name says when it was said first: it is this one, and its answer was lost.
        Err(error) if error.is_conflict() => Ended::Written,
        Err(error) => {
            debug!(
                error = &error as &dyn std::error::Error,
                "an event about a device was not written"
            );
            match error.code() {
                400 | 404 | 413 | 422 => Ended::Refused,
                _ => Ended::Failed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::object::{Kind, ObjectKey};

    use super::book::tests::said_once;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_event_is_in_the_namespace_of_its_device_and_says_how_often_and_when() {
        let device = About::device(&ObjectKey::new(Kind::Device, "n", "pump"), "u");
        let (path, event) = document(&said_once(device));
        assert_eq!(path, "/api/v1/namespaces/n/events");
        assert_eq!(
            (&event["count"], &event["lastTimestamp"]),
            (&json!(1), &json!("1970-01-01T00:00:09Z"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_device_the_event_is_the_node_s() {
        let (path, event) = document(&said_once(About::node(&"e1".parse().unwrap())));
        assert_eq!(path, "/api/v1/namespaces/default/events");
        assert_eq!(event["involvedObject"]["uid"], "e1");
    }
}
