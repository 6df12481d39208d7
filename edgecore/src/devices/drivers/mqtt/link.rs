//! One connection to a broker, over the bridge's own wire: what is the devices' alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::encode::Message;
use crate::devices::Broker;
use crate::devices::credentials::Credentials;
use crate::devices::mqtt::{Access, Event, Filter, Greeting, Lost, Publish, Wire};
use crate::devices::tls::NoTls;

/// How long the broker keeps what came while edgecore was away.
const SESSION: Duration = Duration::from_hours(1);
/// The most topics of one SUBSCRIBE.
const TOPICS: usize = 100;
/// What a packet has around topic and payload, at most.
const AROUND: usize = 16;

/// What became of a message that was to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way under this number, which is 0 where nobody acknowledges it.
    Yes(u16),
    /// There is no room now.
    Later,
    /// The broker takes none so large, and would end the connection over it.
    TooLarge,
}

/// One connection; ends with an error.
pub(super) struct Link {
    wire: Wire,
    /// The largest packet that the broker takes.
    largest: usize,
    /// The topics that the broker was asked for and has not answered, by the number of what it was asked.
    asked: BTreeMap<u16, Vec<String>>,
    /// Those that it did not grant.
    refused: BTreeSet<String>,
}

impl Link {
    /// Begins to connect.
    pub(super) fn open(
        broker: &Broker,
        client_id: String,
        credentials: Option<&Credentials>,
        greeting: Greeting,
    ) -> Result<Self, NoTls> {
        let access = Access::new(broker, client_id, credentials, SESSION)?;
        Ok(Self {
            wire: Wire::connect(greeting, &access),
            largest: 0,
            asked: BTreeMap::new(),
            refused: BTreeSet::new(),
        })
    }

    /// What happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Event, Lost> {
        let event = self.wire.next().await?;
        if let Event::Up { largest, .. } = event {
            self.largest = largest;
        }
        if let Event::Subscribed { packet, granted } = &event {
            let asked = self.asked.remove(packet).unwrap_or_default();
            let answers = asked.into_iter().zip(granted);
            self.refused
                .extend(answers.filter_map(|(topic, granted)| (!granted).then_some(topic)));
        }
        Ok(event)
    }

    /// The topics that the broker was asked for and has not granted.
    pub(super) fn lacking(&self) -> impl Iterator<Item = &str> {
        let topics = self.asked.values().flatten().chain(&self.refused);
        topics.map(String::as_str)
    }

    /// Subscribes to topics; each with whether its retained message is wanted even where the broker has
    /// the subscription already, which on 3.1.1 brings it always.
    pub(super) fn subscribe(&mut self, topics: &[(&str, bool)]) -> Result<(), Lost> {
        let filter = |(topic, always): &(&str, bool)| Filter {
            path: (*topic).to_owned(),
            always: *always,
        };
        for chunk in topics.chunks(TOPICS) {
            let packet = self.wire.subscribe(chunk.iter().map(filter))?;
            let asked = chunk.iter().map(|(topic, _)| (*topic).to_owned());
            self.asked.insert(packet, asked.collect());
        }
        Ok(())
    }

    /// Takes a subscription back.
    pub(super) fn unsubscribe(&mut self, topic: &str) {
        if !self.wire.has_room() || self.wire.unsubscribe(topic).is_err() {
            tracing::debug!(topic, "a subscription stays for now: too much waits to be sent");
        }
    }

    /// Publishes.
    pub(super) fn publish(&mut self, message: Message) -> Sent {
        let Message {
            topic,
            payload,
            qos,
            retain,
        } = message;
        if topic.len() + payload.len() + AROUND > self.largest {
            return Sent::TooLarge;
        }
        let publish = Publish {
            topic,
            payload: payload.into(),
            qos,
            retain,
        };
        if !self.wire.has_room() {
            return Sent::Later;
        }
        self.wire.publish(publish).map_or(Sent::Later, Sent::Yes)
    }

    /// Acknowledges a message; false if there is no connection any more.
    pub(super) fn acknowledge(&mut self, packet: u16) -> bool {
        self.wire.acknowledge(packet).is_ok()
    }

    /// Says good-bye, and waits until it was sent, within bounds.
    pub(super) async fn close(self) {
        self.wire.close().await;
    }
}
