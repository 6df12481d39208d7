//! One connection to a broker, in MQTT 5 or 3.1.1, pumped by a task of its own, so that whoever waits
//! for something else never holds up a keep-alive.
//!
//! The library has a client for each version, over types of its own; they are alike behind [`Client`]
//! and [`Pump`].

mod five;
mod three;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::encode::Message;
use crate::devices::Broker;
use crate::devices::credentials::Credentials;
use crate::devices::mqtt::{Greeting, Lost, Session, Version};
use crate::devices::tls::{self, NoTls};

/// How soon a broker that is silently gone is noticed, about.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How many seconds a broker may take to answer.
const ANSWER: u64 = 10;
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
    Message(Delivered),
    /// The connection is gone, and why.
    Down(Lost),
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Delivered {
    /// Its topic.
    pub(crate) topic: String,
    /// Its payload.
    pub(crate) payload: Bytes,
    /// Whether the broker had kept it.
    pub(crate) retained: bool,
    /// What it is acknowledged with, if it wants to be.
    pub(crate) receipt: Option<Receipt>,
}

/// What a message is acknowledged with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    packet: u16,
    /// The quality of service, which is 1 or 2.
    qos: u8,
}

/// The asking half of a client; each says false where there is no room now.
trait Client: Send + Sync {
    /// Each topic with whether its retained message is wanted in any case.
    fn subscribe(&self, topics: &[(&str, bool)]) -> bool;
    fn unsubscribe(&self, topic: &str) -> bool;
    fn publish(&self, message: Message) -> bool;
    fn acknowledge(&self, receipt: Receipt) -> bool;
    fn leave(&self) -> bool;
}

/// The half of a client that does the work.
trait Pump: Send + 'static {
    /// What happened next; none if it concerns nobody.
    fn next(&mut self) -> impl Future<Output = Option<Event>> + Send;
}

/// Who asks for a connection, and how.
struct Asker<'a> {
    broker: &'a Broker,
    client_id: &'a str,
    login: Option<(String, String)>,
    transport: Option<Transport>,
    is_clean: bool,
}

/// One connection; ends with [`Event::Down`].
pub(crate) struct Link {
    client: Box<dyn Client>,
    events: mpsc::Receiver<Event>,
    _pump: JoinSet<()>,
}

impl Link {
    /// Begins to connect.
    pub(crate) fn open(
        broker: &Broker,
        client_id: &str,
        credentials: Option<&Credentials>,
        greeting: Greeting,
    ) -> Result<Self, NoTls> {
        let transport = if broker.tls {
            let tls = Arc::new(tls::client(credentials)?);
            Some(Transport::Tls(TlsConfiguration::Rustls(tls)))
        } else {
            None
        };
        let asker = Asker {
            broker,
            client_id,
            login: credentials.and_then(Credentials::login),
            transport,
            is_clean: greeting.session == Session::Clean,
        };
        Ok(match greeting.version {
            Version::Five => Self::of(five::open(asker)),
            Version::Three => Self::of(three::open(asker)),
        })
    }

    fn of<C: Client + 'static>((client, pump): (C, impl Pump)) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let mut task = JoinSet::new();
        task.spawn(run(pump, sender));
        Self {
            client: Box::new(client),
            events,
            _pump: task,
        }
    }

    /// What happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Event {
        let event = self.events.recv().await;
        event.unwrap_or(Event::Down(Lost::HungUp))
    }

    /// Subscribes to topics; each with whether its retained message is wanted even where the broker has
    /// the subscription already, which on 3.1.1 brings it always. False if they have to be tried again.
    pub(crate) fn subscribe(&self, topics: &[(&str, bool)]) -> bool {
        topics.chunks(TOPICS).all(|chunk| self.client.subscribe(chunk))
    }

    /// Takes a subscription back.
    pub(crate) fn unsubscribe(&self, topic: &str) {
        if !self.client.unsubscribe(topic) {
            tracing::debug!(topic, "a subscription stays for now: too much waits to be sent");
        }
    }

    /// Publishes; false if there is no room now.
    pub(crate) fn publish(&self, message: Message) -> bool {
        self.client.publish(message)
    }

    /// Acknowledges a message; false if there is no room now.
    pub(crate) fn acknowledge(&self, receipt: Receipt) -> bool {
        self.client.acknowledge(receipt)
    }

    /// Says good-bye, and waits until it was sent, within bounds.
    pub(crate) async fn close(mut self) {
        if self.client.leave() {
            let down = async { while !matches!(self.next().await, Event::Down(_)) {} };
            let _ = tokio::time::timeout(Duration::from_millis(500), down).await;
        }
    }
}

async fn run(mut pump: impl Pump, events: mpsc::Sender<Event>) {
    loop {
        let Some(event) = pump.next().await else {
            continue;
        };
        let last = matches!(event, Event::Down(_));
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}
