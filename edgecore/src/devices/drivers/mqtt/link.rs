//! One connection to a broker: MQTT 5, pumped by a task of its own, so that whoever waits for something
//! else never holds up a keep-alive.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, RetainForwardRule};
use rumqttc::v5::{AsyncClient, Event as Raw, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::encode::Message;
use crate::devices::Broker;
use crate::devices::credentials::Credentials;
use crate::devices::tls::{self, NoTls};

/// Larger messages are refused by the broker, which knows this number.
const MAX_PACKET: u32 = 256 * 1024;
/// How long the broker keeps what came while edgecore was away.
const SESSION_EXPIRY: u32 = 3600;
/// How many messages wait here before the socket is left to fill.
const WAITING: usize = 512;
/// How many requests wait to be sent.
const REQUESTS: usize = 4096;
/// The most topics of one SUBSCRIBE.
const TOPICS: usize = 100;

/// What happens on a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// The broker answered; whether it had kept the session.
    Up {
        /// Whether the broker had kept the session.
        session_present: bool,
    },
    /// A message came.
    Message(Publish),
    /// The connection is gone, and why.
    Down(String),
}

/// One connection; ends with [`Event::Down`].
pub(crate) struct Link {
    client: AsyncClient,
    events: mpsc::Receiver<Event>,
    _pump: JoinSet<()>,
}

impl Link {
    /// Begins to connect.
    pub(crate) fn open(
        broker: &Broker,
        client_id: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, NoTls> {
        let mut options = MqttOptions::new(client_id, broker.bracketed(), broker.port);
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(SESSION_EXPIRY));
        options.set_max_packet_size(Some(MAX_PACKET));
        options.set_keep_alive(Duration::from_secs(20));
        options.set_manual_acks(true);
        options.set_connection_timeout(10);
        if let Some((user, password)) = credentials.and_then(Credentials::login) {
            options.set_credentials(user, password);
        }
        if broker.tls {
            let tls = tls::client(credentials)?;
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))));
        }
        let (client, event_loop) = AsyncClient::new(options, REQUESTS);
        let (sender, events) = mpsc::channel(WAITING);
        let mut pump = JoinSet::new();
        pump.spawn(run(event_loop, sender));
        Ok(Self {
            client,
            events,
            _pump: pump,
        })
    }

    /// What happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Event {
        let event = self.events.recv().await;
        event.unwrap_or_else(|| Event::Down("the connection ended".to_owned()))
    }

    /// Subscribes to topics; each with whether its retained message is wanted even where the broker has
    /// the subscription already. False if they have to be tried again.
    pub(crate) fn subscribe(&self, topics: &[(&str, bool)]) -> bool {
        let filter = |(topic, always): &(&str, bool)| {
            let mut filter = Filter::new(*topic, QoS::AtLeastOnce);
            filter.retain_forward_rule = if *always {
                RetainForwardRule::OnEverySubscribe
            } else {
                RetainForwardRule::OnNewSubscribe
            };
            filter
        };
        topics
            .chunks(TOPICS)
            .all(|chunk| self.client.try_subscribe_many(chunk.iter().map(filter)).is_ok())
    }

    /// Takes a subscription back.
    pub(crate) fn unsubscribe(&self, topic: &str) {
        if self.client.try_unsubscribe(topic).is_err() {
            tracing::debug!(topic, "a subscription stays for now: too much waits to be sent");
        }
    }

    /// Publishes; false if there is no room now.
    pub(crate) fn publish(&self, message: Message) -> bool {
        let qos = match message.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        self.client
            .try_publish(message.topic, qos, message.retain, message.payload)
            .is_ok()
    }

    /// Acknowledges a message; false if there is no room now.
    pub(crate) fn acknowledge(&self, publish: &Publish) -> bool {
        self.client.try_ack(publish).is_ok()
    }

    /// Says good-bye, and waits until it was sent, within bounds.
    pub(crate) async fn close(mut self) {
        if self.client.try_disconnect().is_ok() {
            let down = async { while !matches!(self.next().await, Event::Down(_)) {} };
            let _ = tokio::time::timeout(Duration::from_millis(500), down).await;
        }
    }
}

async fn run(mut event_loop: EventLoop, events: mpsc::Sender<Event>) {
    loop {
        let event = match event_loop.poll().await {
            Ok(Raw::Incoming(Packet::ConnAck(answer))) => Event::Up {
                session_present: answer.session_present,
            },
            Ok(Raw::Incoming(Packet::Publish(publish))) => Event::Message(publish),
            Ok(Raw::Incoming(Packet::Disconnect(disconnect))) => {
                Event::Down(format!("the broker ended it: {:?}", disconnect.reason_code))
            }
            Ok(_) => continue,
            Err(error) => Event::Down(error.to_string()),
        };
        let last = matches!(event, Event::Down(_));
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}
