//! Events about devices, each with how often it happened.
//!
//! **Invariant:** the same words about the same object are one Event, written at most once a minute
//! however often they are said, and what is not written yet is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;
use protocol::name::NodeName;
use protocol::object::{Digest, ObjectKey};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use crate::cluster::{Actor, Call, Cluster, Content};

/// How often the count of an Event is written at most.
const AGAIN: Duration = Duration::from_mins(1);
/// Different Events remembered; the oldest is forgotten first.
const MOST: usize = 4_096;
/// The longest message.
const MESSAGE: usize = 1_000;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    api_version: &'static str,
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
}

impl About {
    pub(super) fn device(key: &ObjectKey, uid: &str) -> Self {
        Self {
            api_version: protocol::devices::API_VERSION,
            kind: "Device",
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.to_owned(),
        }
    }

    /// Events of a Node bear its name as their object's uid, as the kubelet's do.
    pub(super) fn node(node: &NodeName) -> Self {
        Self {
            api_version: "v1",
            kind: "Node",
            namespace: String::new(),
            name: node.to_string(),
            uid: node.to_string(),
        }
    }
}

/// One Event: what it says, and how often it was said.
#[derive(Clone, Debug)]
struct Series {
    name: String,
    reason: &'static str,
    message: String,
    count: u64,
    first: SystemTime,
    last: SystemTime,
    /// When it was written, and with which count.
    written: Option<(Instant, u64)>,
}

type Said = (About, &'static str, String);

/// All that was said.
#[derive(Debug, Default)]
struct Book {
    series: BTreeMap<Said, Series>,
    order: VecDeque<Said>,
}

/// A write of an Event.
#[derive(Clone, Debug)]
struct Due {
    said: Said,
    series: Series,
}

impl Book {
    fn say(&mut self, about: About, reason: &'static str, message: &str, now: SystemTime) {
        let message: String = message.chars().take(MESSAGE).collect();
        let said = (about, reason, message);
        if let Some(series) = self.series.get_mut(&said) {
            series.count += 1;
            series.last = now;
            return;
        }
        let series = Series {
            name: event_name(&said, now),
            reason,
            message: said.2.clone(),
            count: 1,
            first: now,
            last: now,
            written: None,
        };
        self.order.push_back(said.clone());
        self.series.insert(said, series);
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.series.remove(&oldest);
            }
        }
    }

    /// The next to write, or when there will be one.
    fn next(&self, now: Instant) -> Result<Due, Option<Instant>> {
        let due = |series: &Series| match series.written {
            None => Some(now),
            Some((at, count)) => (count < series.count).then(|| at + AGAIN),
        };
        let next = self
            .series
            .iter()
            .filter_map(|(said, series)| Some((due(series)?, said, series)));
        match next.min_by_key(|(due, ..)| *due) {
            Some((due, said, series)) if due <= now => Ok(Due {
                said: said.clone(),
                series: series.clone(),
            }),
            Some((due, ..)) => Err(Some(due)),
            None => Err(None),
        }
    }

    /// It was written, or could not be: then it is tried again with the next count.
    fn wrote(&mut self, due: &Due, now: Instant) {
        if let Some(series) = self.series.get_mut(&due.said) {
            series.written = Some((now, due.series.count));
        }
    }
}

/// Unique among those of the object, and the same never twice.
fn event_name((about, reason, message): &Said, now: SystemTime) -> String {
    let at = protocol::clock::millis(now);
    let digest = Digest::of(format!("{about:?} {reason} {message} {at}").as_bytes());
    let digest = hex::encode(&digest.0[..8]);
    let most = 253 - 1 - digest.len();
    let name: String = about.name.chars().take(most).collect();
    format!("{name}.{digest}")
}

fn time(at: SystemTime) -> String {
    Timestamp::try_from(at)
        .map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

fn document(
    Due {
        said: (about, ..),
        series,
    }: &Due,
) -> (String, Value) {
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
        "reason": series.reason,
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

    /// Says something of an object. It is written by [`Events::run`].
    pub(super) fn say(&self, about: About, reason: &'static str, message: &str) {
        let now = self.cluster.clock().now();
        self.book.lock().say(about, reason, message, now);
        self.bell.notify_one();
    }

    /// Writes what was said, one after the other, for ever.
    pub(super) async fn run(&self) {
        loop {
            let next = self.book.lock().next(Instant::now());
            match next {
                Ok(due) => {
                    self.write(&due).await;
                    self.book.lock().wrote(&due, Instant::now());
                }
                Err(Some(at)) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = self.bell.notified() => {}
                },
                Err(None) => self.bell.notified().await,
            }
        }
    }

    /// An Event is worth one try: what says it may come again.
    async fn write(&self, due: &Due) {
        let (collection, event) = document(due);
        let api = self.cluster.api();
        if due.series.written.is_some() {
            let body = json!({ "count": event["count"], "lastTimestamp": event["lastTimestamp"] });
            let body = body.to_string().into_bytes();
            let event = format!("{collection}/{}", due.series.name);
            let call = Call::patch(event, Content::MergePatch, body);
            match api.call(Actor::Cloudcore, call).await {
                // It is an hour old and gone: made anew.
                Err(error) if error.is_not_found() => {}
                other => return tell(other.err()),
            }
        }
        let call = Call::post(collection, event.to_string().into_bytes());
        tell(api.call(Actor::Cloudcore, call).await.err());
    }
}

fn tell(error: Option<crate::cluster::ApiError>) {
    if let Some(error) = error.filter(|error| !error.is_conflict()) {
        debug!(
            error = &error as &dyn std::error::Error,
            "an event about a device was not written"
        );
    }
}

#[cfg(test)]
mod tests {
    use protocol::object::Kind;

    use super::*;

    fn about() -> About {
        About::device(&ObjectKey::new(Kind::Device, "n", "pump"), "u")
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_words_are_one_event_with_a_count() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.say(about(), "ReportRefused", "no", at(0));
        let first = book.next(start).unwrap();
        book.wrote(&first, start);
        assert_eq!(book.next(start).unwrap_err(), None);
        for second in 1..=9 {
            book.say(about(), "ReportRefused", "no", at(second));
        }
        assert_eq!(book.next(start).unwrap_err(), Some(start + AGAIN));
        let again = book.next(start + AGAIN).unwrap();
        let (path, event) = document(&again);
        assert_eq!(path, "/api/v1/namespaces/n/events");
        assert_eq!(
            (&event["count"], &event["lastTimestamp"]),
            (&json!(10), &json!("1970-01-01T00:00:09Z"))
        );
        assert_eq!(event["metadata"]["name"], document(&first).1["metadata"]["name"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_without_end_is_forgotten_from_the_oldest() {
        let mut book = Book::default();
        for number in 0..5_000 {
            book.say(about(), "ReportRefused", &number.to_string(), at(0));
        }
        assert_eq!((book.series.len(), book.order.len()), (MOST, MOST));
        assert!(book.series.keys().all(|(_, _, message)| message != "0"));
    }

    #[test]
    fn an_event_s_name_is_one_that_kubernetes_takes() {
        let long = About::device(&ObjectKey::new(Kind::Device, "n", "x".repeat(253)), "u");
        let name = event_name(&(long, "R", "m".into()), at(1));
        assert_eq!(name.len(), 253);
    }

    #[test]
    fn where_there_is_no_device_the_event_is_the_node_s() {
        let mut book = Book::default();
        book.say(About::node(&"e1".parse().unwrap()), "ReportRefused", "no", at(0));
        let due = Due {
            said: book.order[0].clone(),
            series: book.series[&book.order[0]].clone(),
        };
        let (path, event) = document(&due);
        assert_eq!(path, "/api/v1/namespaces/default/events");
        assert_eq!(event["involvedObject"]["uid"], "e1");
    }
}
