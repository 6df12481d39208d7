//! A device on one connection, as its user: it says numbers and hears the results.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::update;

const PATIENCE: Duration = Duration::from_mins(1);

/// See above; the connection ends with it.
pub(crate) struct Speaker {
    client: AsyncClient,
    topic: String,
    answered: Arc<Mutex<BTreeSet<u64>>>,
    _task: JoinSet<()>,
}

impl Speaker {
    /// Connects, and returns once it will hear every result.
    pub(crate) async fn connect(port: u16, device: &str) -> Self {
        let mut options = MqttOptions::new(device, "127.0.0.1", port);
        options.set_credentials(device, "secret");
        let (client, mut events) = AsyncClient::new(options, 100);
        let topic = format!("$hw/events/device/{device}/twin/update");
        let results = format!("{topic}/result");
        client.subscribe(results, QoS::AtLeastOnce).await.unwrap();
        while !matches!(next(&mut events).await, Packet::SubAck(_)) {}
        let answered = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(hear(events, Arc::clone(&answered)));
        Self {
            client,
            topic,
            answered,
            _task: task,
        }
    }

    /// Says a number; it is its own mark.
    pub(crate) async fn say(&self, number: u64, qos: QoS) {
        let number = number.to_string();
        let payload = update(&number, &number);
        self.client
            .publish(&self.topic, qos, false, payload)
            .await
            .unwrap();
    }

    /// Waits until this many of its numbers had a result.
    pub(crate) async fn until_answered(&self, count: usize) {
        let all = async {
            while self.answered() < count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = timeout(PATIENCE, all).await;
        assert!(
            waited.is_ok(),
            "{} of {count} were answered at {}",
            self.answered(),
            self.topic
        );
    }

    /// How many different numbers had a result.
    pub(crate) fn answered(&self) -> usize {
        self.answered.lock().len()
    }
}

async fn hear(mut events: EventLoop, answered: Arc<Mutex<BTreeSet<u64>>>) {
    loop {
        if let Packet::Publish(publish) = next(&mut events).await {
            let result: Value = serde_json::from_slice(&publish.payload).unwrap();
            assert!(result["code"].is_null(), "{result}");
            let number = result["event_id"].as_str().unwrap().parse().unwrap();
            answered.lock().insert(number);
        }
    }
}

/// The next packet that comes; no connection of a well-behaved device ends.
async fn next(events: &mut EventLoop) -> Packet {
    loop {
        if let Event::Incoming(packet) = events.poll().await.unwrap() {
            return packet;
        }
    }
}
