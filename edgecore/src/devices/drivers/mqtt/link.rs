//! One connection to a broker, over the bridge's own wire: what is the devices' alone.

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
        Ok(event)
    }

    /// Subscribes to topics; each with whether its retained message is wanted even where the broker has
    /// the subscription already, which on 3.1.1 brings it always.
    pub(super) fn subscribe(&mut self, topics: &[(&str, bool)]) -> Result<(), Lost> {
        let filter = |(topic, always): &(&str, bool)| Filter {
            path: (*topic).to_owned(),
            always: *always,
        };
        topics
            .chunks(TOPICS)
            .try_for_each(|chunk| self.wire.subscribe(chunk.iter().map(filter)))
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
