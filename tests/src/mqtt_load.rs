//! Devices that count: one MQTT connection each, with the settings and users of [`mosquitto`](crate::mosquitto).
//!
//! Each says 1, 2, 3, ... of its property `count`, at a steady pace and whether or not it is answered,
//! as devices do. What was said and what was answered is known at any time: values in between are what
//! anybody else may show.
//!
//! **Invariant:** on a device's topic values never fall, whatever happens to its connection.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::future::join_all;
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use crate::{
    machine::Machine,
    mosquitto::PASSWORD,
    wait::{Look, until},
};

/// The property that counts.
pub const PROPERTY: &str = "count";
/// After a connection was lost, or could not be made.
const PAUSE: Duration = Duration::from_millis(300);
/// How many refusals are remembered word for word.
const REMEMBERED: usize = 20;

/// What one device has said, and what of it was accepted.
#[derive(Debug)]
pub struct Counter {
    device: String,
    sent: AtomicU64,
    accepted: AtomicU64,
}

/// What all devices have said; it outlives their connections.
#[derive(Debug)]
pub struct Counters {
    of: Vec<Counter>,
    refusals: Mutex<Vec<String>>,
}

/// Devices that count until this is dropped.
#[derive(Debug)]
pub struct Load {
    counters: Arc<Counters>,
    orders: watch::Sender<Order>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Count,
    /// Nothing new is said; the last value is said again until it was accepted.
    Rest,
    End,
}

impl Counter {
    /// The device, as its topics name it: `<namespace>/<name>`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The last value that it said; it may be on its way yet.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// The last value that was answered with a result.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Counters {
    /// These devices, `<namespace>/<name>`, which have said nothing yet.
    pub fn new(devices: impl IntoIterator<Item = String>) -> Arc<Self> {
        let of = devices.into_iter().map(|device| Counter {
            device,
            sent: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        });
        Arc::new(Self {
            of: of.collect(),
            refusals: Mutex::default(),
        })
    }

    /// Every device.
    pub fn all(&self) -> &[Counter] {
        &self.of
    }

    /// How many values were said.
    pub fn total(&self) -> u64 {
        self.of.iter().map(Counter::sent).sum()
    }

    /// The first refusals since the last call.
    pub fn take_refusals(&self) -> Vec<String> {
        std::mem::take(&mut self.refusals.lock())
    }

    /// Waits until every device has an answer to something that it says from now on.
    pub async fn heard(&self, limit: Duration) -> Result<()> {
        let before: Vec<u64> = self.of.iter().map(Counter::sent).collect();
        until("an answer to every device", limit, || async {
            let deaf = self
                .of
                .iter()
                .zip(&before)
                .filter(|(counter, before)| counter.accepted() <= **before);
            Ok(nobody(deaf.map(|(counter, _)| counter)))
        })
        .await
    }
}

impl Load {
    /// Begins to count on a machine that runs the broker, each device once in `pace`.
    pub fn start(machine: &Machine, counters: &Arc<Counters>, pace: Duration) -> Result<Self> {
        let namespace = File::open(format!("/proc/{}/ns/net", machine.pid()?))?;
        let (orders, heard) = watch::channel(Order::Count);
        let all = Arc::clone(counters);
        // Sockets belong to the network that their thread is in: all is done on this one.
        let work = move || {
            if let Err(error) = count(&namespace, &all, pace, heard) {
                eprintln!("devices that count: {error:#}");
            }
        };
        let thread = thread::Builder::new().name("mqtt-load".to_owned()).spawn(work)?;
        Ok(Self {
            counters: Arc::clone(counters),
            orders,
            thread: Some(thread),
        })
    }

    /// Says nothing new, and returns when the last value of every device was accepted.
    pub async fn rest(&self, limit: Duration) -> Result<()> {
        self.orders.send_replace(Order::Rest);
        until("an answer to the last value of every device", limit, || async {
            let open = self.counters.of.iter();
            Ok(nobody(
                open.filter(|counter| counter.accepted() != counter.sent()),
            ))
        })
        .await
    }

    /// Goes on to count.
    pub fn resume(&self) {
        self.orders.send_replace(Order::Count);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.orders.send_replace(Order::End);
        if let Some(thread) = self.thread.take() {
            // What it had to say it has said.
            drop(thread.join());
        }
    }
}

/// Done when there is none of them.
fn nobody<'a>(counters: impl Iterator<Item = &'a Counter>) -> Look<()> {
    let left: Vec<String> = counters
        .map(|counter| format!("{}: {} of {}", counter.device, counter.accepted(), counter.sent()))
        .collect();
    Look::when(left.is_empty(), || {
        format!(
            "{} accepted no more than {}",
            left.len(),
            left[..left.len().min(3)].join(", ")
        )
    })
}

fn count(
    namespace: &File,
    counters: &Counters,
    pace: Duration,
    mut orders: watch::Receiver<Order>,
) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the machine's network")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let spread = pace / u32::try_from(counters.of.len().max(1))?;
        let devices = counters.of.iter().zip(0..).map(|(counter, place)| {
            let orders = orders.clone();
            let first = Instant::now() + spread * place;
            async move {
                loop {
                    // Whatever ended the connection, the device makes another.
                    drop(speak(counter, counters, (first, pace), &orders).await);
                    sleep(PAUSE).await;
                }
            }
        });
        let devices: Vec<_> = devices.collect();
        tokio::select! {
            _ = join_all(devices) => Ok(()),
            ended = orders.wait_for(|order| *order == Order::End) => ended.map(drop).context("nobody listens"),
        }
    })
}

/// One connection, to its end.
async fn speak(
    counter: &Counter,
    counters: &Counters,
    (first, pace): (Instant, Duration),
    orders: &watch::Receiver<Order>,
) -> Result<()> {
    let mut options = MqttOptions::new(&counter.device, "127.0.0.1", 1883);
    options
        .set_credentials(&counter.device, PASSWORD)
        .set_keep_alive(Duration::from_secs(10));
    let (client, mut events) = AsyncClient::new(options, 16);
    let topic = format!("$hw/events/device/{}/twin/update", counter.device);
    client.try_subscribe(format!("{topic}/result"), QoS::AtLeastOnce)?;
    while !matches!(next(&mut events).await?, Packet::SubAck(_)) {}
    let say = async {
        let mut ticks = interval_at(first.max(Instant::now()), pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (order, sent) = (*orders.borrow(), counter.sent());
            let value = match order {
                Order::Count => sent + 1,
                Order::Rest | Order::End if counter.accepted() < sent => sent,
                Order::Rest | Order::End => continue,
            };
            // Said first, published then: whoever shows it cannot know it earlier.
            counter.sent.store(value, Ordering::SeqCst);
            client
                .publish(&topic, QoS::AtLeastOnce, false, update(value))
                .await?;
        }
    };
    let hear = async {
        loop {
            if let Packet::Publish(publish) = next(&mut events).await? {
                counters.hear(counter, &publish.payload);
            }
        }
    };
    tokio::select! {
        ended = say => ended,
        ended = hear => ended,
    }
}

fn update(value: u64) -> String {
    let value = value.to_string();
    json!({ "event_id": value, "timestamp": 0, "twin": { PROPERTY: { "actual": { "value": value } } } })
        .to_string()
}

/// The next packet that came.
async fn next(events: &mut EventLoop) -> Result<Packet> {
    loop {
        if let Event::Incoming(packet) = events.poll().await? {
            return Ok(packet);
        }
    }
}

impl Counters {
    fn hear(&self, counter: &Counter, payload: &[u8]) {
        if let Err(refusal) = counter.hear(payload) {
            let mut refusals = self.refusals.lock();
            if refusals.len() < REMEMBERED {
                refusals.push(format!("{}: {refusal:#}", counter.device));
            }
        }
    }
}

impl Counter {
    fn hear(&self, payload: &[u8]) -> Result<()> {
        let result: Value = serde_json::from_slice(payload)?;
        let said = || anyhow!("{result}");
        ensure!(result.get("code").is_none_or(Value::is_null), "{}", said());
        let value = result["event_id"]
            .as_str()
            .and_then(|mark| mark.parse().ok())
            .with_context(said)?;
        self.accepted.fetch_max(value, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_an_acceptance_and_a_refusal_none() {
        let counters = Counters::new(["default/a".to_owned()]);
        let counter = &counters.all()[0];
        counters.hear(counter, br#"{"event_id":"7","timestamp":1,"twin":{}}"#);
        counters.hear(counter, br#"{"event_id":"5","timestamp":1,"twin":{}}"#);
        counters.hear(
            counter,
            br#"{"event_id":"9","timestamp":1,"code":404,"reason":"no"}"#,
        );
        assert_eq!(counter.accepted(), 7);
        assert_eq!(counters.take_refusals().len(), 1);
        assert_eq!(counters.take_refusals(), Vec::<String>::new());
    }
}
