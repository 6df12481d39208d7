//! Events about pods, with the kubelet's reasons and words.
//!
//! Telling never waits: events go through a bounded queue to [`pump`], and are lost when it is full. They are
//! reported a little later and together, so that the story of a pod takes nothing from its start, nor from those that
//! wait for a turn to start. The same event is not told again within a minute, so that a pod that keeps failing does
//! not fill the link.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use protocol::clock::Clock;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::seams::Report;
use super::{spec, status};

/// How long the same event stays untold.
const QUIET: Duration = Duration::from_mins(1);
/// How many different events are remembered: five for each of the 110 pods that a node has by default, and some for
/// what else happens. What is more than that in a minute is not told. Cloudcore writes as many within one, so that none wait
/// in the outbox as long as pods come and go.
const REMEMBERED: usize = 600;
/// How much of a message is told, in characters. The output of a probe may be much longer than an event may be
/// ([`MAX_EVENT`](protocol::reported::MAX_EVENT)), and each character takes up to six bytes as JSON.
const MESSAGE: usize = 1_000;
/// How many wait to be reported.
const QUEUED: usize = 512;

/// How long after an event another one may come that is reported with it, and how long the first one waits
/// at most: a burst of pods tells its story when the pods run.
const GATHER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Between two looks whether pods wait for a turn to start.
const LOOK: Duration = Duration::from_millis(100);

/// Reports what is told, until nobody tells any more; while all turns to start are taken, a little later.
pub async fn pump(mut waiting: mpsc::Receiver<Event>, report: Arc<dyn Report>, starts: Arc<Semaphore>) {
    while let Some(first) = waiting.recv().await {
        let events = gather(first, &mut waiting, &starts).await;
        // Side by side: what is kept together is written once.
        join_all(events.into_iter().map(|event| report.event(event))).await;
    }
}

async fn gather(first: Event, waiting: &mut mpsc::Receiver<Event>, starts: &Semaphore) -> Vec<Event> {
    let mut events = vec![first];
    let mut busy = Instant::now();
    let latest = busy + GATHER.1;
    while events.len() < QUEUED {
        let until = latest.min(busy + GATHER.0);
        let told = timeout_at(until.min(Instant::now() + LOOK), waiting.recv()).await;
        let now = Instant::now();
        match told {
            Ok(Some(event)) => {
                events.push(event);
                busy = now;
            }
            Ok(None) => break,
            Err(_) if now >= latest => break,
            Err(_) if starts.available_permits() == 0 => busy = now,
            Err(_) if now >= until => break,
            Err(_) => {}
        }
    }
    events
}

/// Good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something went as it should.
    Normal,
    /// Something did not.
    Warning,
}

/// Tells events of this node's pods.
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    queue: mpsc::Sender<Event>,
    clock: Clock,
    node: String,
    /// When what was told, by its hash: a message may be long.
    told: Mutex<BTreeMap<u64, Instant>>,
    hasher: RandomState,
}

impl Events {
    /// Events told in the name of `node`, and the queue that [`pump`] empties.
    pub fn new(clock: Clock, node: &str) -> (Self, mpsc::Receiver<Event>) {
        let (queue, waiting) = mpsc::channel(QUEUED);
        let told = Mutex::new(BTreeMap::new());
        let shared = Shared {
            queue,
            clock,
            node: node.to_owned(),
            told,
            hasher: RandomState::new(),
        };
        (
            Self {
                shared: Arc::new(shared),
            },
            waiting,
        )
    }

    /// Tells an event about the whole pod.
    pub fn pod(&self, pod: &Pod, tone: Tone, reason: &str, message: &str) {
        self.tell(pod, None, (tone, reason, message));
    }

    /// Tells an event about one container, named by its field: `spec.containers{name}`.
    pub fn container(&self, pod: &Pod, field: &str, event: (Tone, &str, &str)) {
        self.tell(pod, Some(field), event);
    }

    /// What tells events about one container, for those who do not hold its pod.
    pub fn teller(&self, pod: &Pod, field: &str) -> impl Fn((Tone, &str, &str)) + Send + Sync + use<> {
        let (events, container) = (self.clone(), reference(pod, Some(field)));
        move |event| events.tell_of(container.clone(), event)
    }

    /// Tells an event about the node itself.
    pub fn node(&self, tone: Tone, reason: &str, message: &str) {
        let node = &self.shared.node;
        // A kubelet names its node so, UID and all.
        let reference = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            uid: Some(node.clone()),
            ..ObjectReference::default()
        };
        self.tell_of(reference, (tone, reason, message));
    }

    fn tell(&self, pod: &Pod, field: Option<&str>, event: (Tone, &str, &str)) {
        self.tell_of(reference(pod, field), event);
    }

    fn tell_of(&self, object: ObjectReference, event: (Tone, &str, &str)) {
        let (_, reason, message) = event;
        let told = (&object.uid, &object.field_path, reason, message);
        if self.is_news(self.shared.hasher.hash_one(told)) {
            // A full queue loses the event: pods do not wait for their story.
            let _ = self.shared.queue.try_send(self.event(object, event));
        }
    }

    fn is_news(&self, key: u64) -> bool {
        let now = Instant::now();
        let mut told = self.shared.told.lock();
        if told.get(&key).is_some_and(|at| now < *at + QUIET) {
            return false;
        }
        told.retain(|_, at| now < *at + QUIET);
        if told.len() >= REMEMBERED {
            return false;
        }
        told.insert(key, now);
        true
    }

    fn event(&self, object: ObjectReference, (tone, reason, message): (Tone, &str, &str)) -> Event {
        let now = self.shared.clock.now();
        let nanoseconds = now
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let node = Some(self.shared.node.clone());
        Event {
            metadata: ObjectMeta {
                name: object.name.as_ref().map(|name| format!("{name}.{nanoseconds:x}")),
                // An event of what has no namespace stands in this one.
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: object,
            reason: Some(reason.to_owned()),
            message: Some(message.chars().take(MESSAGE).collect()),
            type_: Some(if tone == Tone::Normal { "Normal" } else { "Warning" }.to_owned()),
            count: Some(1),
            first_timestamp: Some(status::time(now)),
            last_timestamp: Some(status::time(now)),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: node.clone(),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: node,
            ..Event::default()
        }
    }
}

fn reference(pod: &Pod, field: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(spec::namespace(pod).to_owned()),
        name: Some(spec::name(pod).to_owned()),
        uid: Some(spec::uid(pod).to_owned()),
        field_path: field.map(ToOwned::to_owned),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Pod;
    use tokio::time::sleep;

    use super::{Clock, Events, GATHER, REMEMBERED, Semaphore, Tone, pump};
    use crate::pods::testbed::FakeReport;

    fn pod(uid: &str) -> Pod {
        let pod = serde_json::json!({"metadata": {"name": "web", "uid": uid}});
        serde_json::from_value(pod).unwrap()
    }

    fn web() -> Pod {
        pod("u1")
    }

    /// Turns to start, one of them free.
    fn quiet() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(1))
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_come_together_are_reported_together_and_a_little_later() {
        let report = Arc::new(FakeReport::default());
        let (events, waiting) = Events::new(Clock::system(), "edge-1");
        let reported = || report.events.lock().len();
        let telling = async {
            for reason in ["Pulled", "Created", "Started"] {
                events.pod(&web(), Tone::Normal, reason, "as it should");
                sleep(GATHER.0 / 2).await;
            }
            assert_eq!(reported(), 0, "the pod is still at it");
            sleep(GATHER.0).await;
            assert_eq!(reported(), 3);
            drop(events);
        };
        tokio::join!(pump(waiting, report.clone(), quiet()), telling);
    }

    #[test]
    fn an_event_is_never_too_large_for_the_link() {
        let name = |length| "n".repeat(length);
        let pod =
            serde_json::json!({"metadata": {"name": name(253), "namespace": name(63), "uid": name(36)}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let (events, _waiting) = Events::new(Clock::system(), &name(253));
        for written in ["\u{1}", "\u{1f6a2}"] {
            let message = (Tone::Warning, "Unhealthy", &*written.repeat(10_000));
            let field = format!("spec.containers{{{}}}", name(63));
            let event = events.event(super::reference(&pod, Some(&field)), message);
            let length = serde_json::to_vec(&event).unwrap().len();
            assert!(length <= protocol::reported::MAX_EVENT, "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_events_that_never_pauses_is_reported_all_the_same() {
        let report = Arc::new(FakeReport::default());
        let (events, waiting) = Events::new(Clock::system(), "edge-1");
        let telling = async {
            for count in 0..200 {
                events.pod(&web(), Tone::Normal, "Pulled", &count.to_string());
                sleep(Duration::from_millis(100)).await;
                let late = count - 1 - i32::try_from(report.events.lock().len()).unwrap();
                assert!(late <= 101, "{late} wait");
            }
            drop(events);
        };
        tokio::join!(pump(waiting, report.clone(), quiet()), telling);
        assert_eq!(report.events.lock().len(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn events_wait_while_all_turns_to_start_are_taken_and_a_little_longer() {
        let report = Arc::new(FakeReport::default());
        let (events, waiting) = Events::new(Clock::system(), "edge-1");
        let starts = quiet();
        let reported = || report.events.lock().len();
        let telling = async {
            let start = starts.acquire().await.unwrap();
            events.pod(&web(), Tone::Normal, "Started", "as it should");
            sleep(GATHER.0 * 5).await;
            assert_eq!(reported(), 0, "others wait for their turn");
            drop(start);
            sleep(GATHER.0 / 2).await;
            assert_eq!(reported(), 0, "the last of them have only begun");
            sleep(GATHER.0).await;
            assert_eq!(reported(), 1);
            drop(events);
        };
        tokio::join!(pump(waiting, report.clone(), starts.clone()), telling);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_does_not_end_keeps_no_event_for_long() {
        let report = Arc::new(FakeReport::default());
        let (events, waiting) = Events::new(Clock::system(), "edge-1");
        let telling = async {
            events.pod(&web(), Tone::Warning, "FailedMount", "no such secret");
            sleep(GATHER.1 + GATHER.0).await;
            assert_eq!(report.events.lock().len(), 1);
            drop(events);
        };
        let crowded = Arc::new(Semaphore::new(0));
        tokio::join!(pump(waiting, report.clone(), crowded), telling);
    }

    #[tokio::test(start_paused = true)]
    async fn the_starts_of_as_many_pods_as_a_node_has_are_told_and_memory_has_an_end() {
        let report = Arc::new(FakeReport::default());
        let (events, waiting) = Events::new(Clock::system(), "edge-1");
        let telling = async {
            for uid in 0..110 {
                let pod = pod(&uid.to_string());
                for reason in ["Pulling", "Pulled", "Created", "Started", "Unhealthy"] {
                    events.pod(&pod, Tone::Normal, reason, "within a minute");
                }
                sleep(Duration::from_millis(1)).await;
            }
            sleep(GATHER.1).await;
            assert_eq!(report.events.lock().len(), 550);
            for count in 0..REMEMBERED {
                events.pod(&web(), Tone::Normal, "Pulled", &count.to_string());
            }
            assert_eq!(events.shared.told.lock().len(), REMEMBERED);
            drop(events);
        };
        tokio::join!(pump(waiting, report.clone(), quiet()), telling);
    }
}
