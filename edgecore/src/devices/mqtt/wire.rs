//! One connection to the broker, over MQTT 5 or, where the broker knows no better, 3.1.1.
//!
//! A connection lives once: after a loss another is made. What the library would keep for its own
//! reconnects the bridge keeps already, and knows what of it answers which message.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rumqttc::v5;

use super::bridge::Message;
use super::credentials::Access;
use super::outbox::Outgoing;

/// The largest packet that is taken; with the library's own 10 KiB, one larger message stops
/// everything, as the broker delivers it again at each reconnect.
pub(super) const LARGEST: u32 = 256 << 10;
/// How many messages the broker may have delivered and not seen acknowledged.
const MOST_IN: u16 = 4096;
/// The same the other way; each costs memory from the start.
const MOST_OUT: u16 = 1024;
/// How many requests lie with the connection: few, so that acknowledgements do not wait long.
const QUEUE: usize = 2048;
/// How long the broker keeps the session of a node that is away.
const SESSION: Duration = Duration::from_hours(24);
/// How soon a broker that is silently gone is noticed, about.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long a broker may take to answer a connection.
const ANSWER: Duration = Duration::from_secs(5);

/// Which version of the protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 5.
    Five,
    /// MQTT 3.1.1.
    Three,
}

/// What the broker does with an old session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// It goes on.
    Resumed,
    /// It is dropped, with what waits in it.
    Clean,
}

/// What happens on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It stands.
    Up {
        /// Whether the broker has subscriptions and messages of an earlier one.
        session_present: bool,
        /// The largest packet that the broker takes.
        largest: usize,
    },
    /// A message came.
    Message(Message),
    /// The subscriptions stand, or some were refused.
    Subscribed {
        /// Whether the broker refused any.
        refused: bool,
    },
    /// The oldest message that was published went out under this number.
    Sent(u16),
    /// The broker has what was sent under this number.
    Acknowledged(u16),
    /// An acknowledgement went out.
    AckSent,
    /// Nothing that matters here.
    Other,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// The broker knows no such version, or sent something that cannot be read.
    #[error("the broker does not speak this version of MQTT, or sent what cannot be read")]
    Version,
    /// The broker delivered more than was allowed.
    #[error("the broker delivered a message of more than {LARGEST} bytes")]
    TooLarge,
    /// The broker ended it without a word.
    #[error("the broker hung up")]
    HungUp,
    /// It could not be made, or broke.
    #[error("{0}")]
    Broken(String),
}

enum Client {
    Five(v5::AsyncClient),
    Three(rumqttc::AsyncClient),
}

/// A connection.
pub(super) struct Wire {
    client: Client,
    events: BoxStream<'static, Result<Event, Lost>>,
}

impl Wire {
    /// Begins to connect; the first event says how it went.
    pub(super) fn connect(version: Version, session: Session, access: &Access) -> Self {
        match version {
            Version::Five => Self::five(session, access),
            Version::Three => Self::three(session, access),
        }
    }

    /// What happened next. Loses nothing when it is dropped.
    pub(super) async fn next(&mut self) -> Result<Event, Lost> {
        let ended = || Err(Lost::Broken("the connection has ended".to_owned()));
        self.events.next().await.unwrap_or_else(ended)
    }

    /// Publishes a message.
    pub(super) fn publish(&self, outgoing: Outgoing) -> Result<(), Lost> {
        let Outgoing { topic, payload, .. } = outgoing;
        match &self.client {
            Client::Five(client) => client
                .try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload)
                .map_err(|error| no_room(&error)),
            Client::Three(client) => client
                .try_publish(topic, rumqttc::QoS::AtLeastOnce, false, payload)
                .map_err(|error| no_room(&error)),
        }
    }

    /// Acknowledges a message.
    pub(super) fn acknowledge(&self, packet: u16) -> Result<(), Lost> {
        match &self.client {
            Client::Five(client) => {
                let of = v5::mqttbytes::v5::Publish {
                    qos: v5::mqttbytes::QoS::AtLeastOnce,
                    pkid: packet,
                    ..Default::default()
                };
                client.try_ack(&of).map_err(|error| no_room(&error))
            }
            Client::Three(client) => {
                let mut of = rumqttc::Publish::new("", rumqttc::QoS::AtLeastOnce, Vec::new());
                of.pkid = packet;
                client.try_ack(&of).map_err(|error| no_room(&error))
            }
        }
    }

    /// Subscribes; what the broker had kept comes only with a subscription that is new.
    pub(super) fn subscribe(&self, filters: impl Iterator<Item = String>) -> Result<(), Lost> {
        use v5::mqttbytes::v5::{Filter, RetainForwardRule};
        match &self.client {
            Client::Five(client) => {
                let filters = filters.map(|path| Filter {
                    path,
                    qos: v5::mqttbytes::QoS::AtLeastOnce,
                    retain_forward_rule: RetainForwardRule::OnNewSubscribe,
                    ..Default::default()
                });
                client
                    .try_subscribe_many(filters)
                    .map_err(|error| no_room(&error))
            }
            Client::Three(client) => {
                let filter = |path| rumqttc::SubscribeFilter::new(path, rumqttc::QoS::AtLeastOnce);
                client
                    .try_subscribe_many(filters.map(filter))
                    .map_err(|error| no_room(&error))
            }
        }
    }

    /// Takes leave; the session stays.
    pub(super) fn disconnect(&self) -> Result<(), Lost> {
        match &self.client {
            Client::Five(client) => client.try_disconnect().map_err(|error| no_room(&error)),
            Client::Three(client) => client.try_disconnect().map_err(|error| no_room(&error)),
        }
    }

    fn five(session: Session, access: &Access) -> Self {
        let mut options = v5::MqttOptions::new(&access.client_id, &access.host, access.port);
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(ANSWER.as_secs());
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_connection_timeout(ANSWER.as_secs())
            .set_network_options(network)
            .set_manual_acks(true)
            .set_clean_start(session == Session::Clean)
            .set_session_expiry_interval(u32::try_from(SESSION.as_secs()).ok())
            .set_receive_maximum(Some(MOST_IN))
            .set_max_packet_size(Some(LARGEST))
            .set_outgoing_inflight_upper_limit(MOST_OUT);
        if let Some((user, password)) = &access.login {
            options.set_credentials(user, password);
        }
        if let Some(tls) = access.tls() {
            options.set_transport(tls);
        }
        let (client, events) = v5::AsyncClient::new(options, QUEUE);
        let events = stream::unfold(events, |mut events| async {
            let event = events
                .poll()
                .await
                .map(of_five)
                .map_err(|error| lost_five(&error));
            Some((event, events))
        });
        Self {
            client: Client::Five(client),
            events: events.boxed(),
        }
    }

    fn three(session: Session, access: &Access) -> Self {
        let mut options = rumqttc::MqttOptions::new(&access.client_id, &access.host, access.port);
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_manual_acks(true)
            .set_clean_session(session == Session::Clean)
            .set_max_packet_size(LARGEST as usize, LARGEST as usize)
            .set_inflight(MOST_OUT);
        if let Some((user, password)) = &access.login {
            options.set_credentials(user, password);
        }
        if let Some(tls) = access.tls() {
            options.set_transport(tls);
        }
        let (client, mut events) = rumqttc::AsyncClient::new(options, QUEUE);
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(ANSWER.as_secs());
        events.set_network_options(network);
        let events = stream::unfold(events, |mut events| async {
            let event = events
                .poll()
                .await
                .map(of_three)
                .map_err(|error| lost_three(&error));
            Some((event, events))
        });
        Self {
            client: Client::Three(client),
            events: events.boxed(),
        }
    }
}

/// The caller's own bounds prevent it.
fn no_room(error: &impl std::fmt::Display) -> Lost {
    Lost::Broken(format!("the connection takes no more: {error}"))
}

/// The last of the filters is for a number of the broker's own, which it may keep to itself.
fn refused<T>(codes: &[T], is_good: impl Fn(&T) -> bool) -> bool {
    codes
        .split_last()
        .is_none_or(|(_, codes)| !codes.iter().all(is_good))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a new kind of packet is nothing that was asked for"
)]
fn of_five(event: v5::Event) -> Event {
    use v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    match event {
        v5::Event::Incoming(Packet::ConnAck(ack)) => Event::Up {
            session_present: ack.session_present,
            largest: ack
                .properties
                .and_then(|properties| properties.max_packet_size)
                .map_or(LARGEST as usize, |size| size as usize),
        },
        v5::Event::Incoming(Packet::Publish(publish)) => {
            let wants_ack = publish.qos != v5::mqttbytes::QoS::AtMostOnce;
            Event::Message(Message {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload,
                packet: wants_ack.then_some(publish.pkid),
                repeat: publish.dup,
                retained: publish.retain,
            })
        }
        v5::Event::Incoming(Packet::SubAck(ack)) => Event::Subscribed {
            refused: refused(&ack.return_codes, |code| {
                matches!(code, SubscribeReasonCode::Success(_))
            }),
        },
        v5::Event::Incoming(Packet::PubAck(ack)) => Event::Acknowledged(ack.pkid),
        v5::Event::Outgoing(rumqttc::Outgoing::Publish(packet)) => Event::Sent(packet),
        v5::Event::Outgoing(rumqttc::Outgoing::PubAck(_)) => Event::AckSent,
        _ => Event::Other,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a new kind of packet is nothing that was asked for"
)]
fn of_three(event: rumqttc::Event) -> Event {
    use rumqttc::{Packet, SubscribeReasonCode};
    match event {
        rumqttc::Event::Incoming(Packet::ConnAck(ack)) => Event::Up {
            session_present: ack.session_present,
            largest: LARGEST as usize,
        },
        rumqttc::Event::Incoming(Packet::Publish(publish)) => {
            let wants_ack = publish.qos != rumqttc::QoS::AtMostOnce;
            Event::Message(Message {
                topic: publish.topic,
                payload: publish.payload,
                packet: wants_ack.then_some(publish.pkid),
                repeat: publish.dup,
                retained: publish.retain,
            })
        }
        rumqttc::Event::Incoming(Packet::SubAck(ack)) => Event::Subscribed {
            refused: refused(&ack.return_codes, |code| {
                matches!(code, SubscribeReasonCode::Success(_))
            }),
        },
        rumqttc::Event::Incoming(Packet::PubAck(ack)) => Event::Acknowledged(ack.pkid),
        rumqttc::Event::Outgoing(rumqttc::Outgoing::Publish(packet)) => Event::Sent(packet),
        rumqttc::Event::Outgoing(rumqttc::Outgoing::PubAck(_)) => Event::AckSent,
        _ => Event::Other,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other reason is the same to the bridge"
)]
fn lost_five(error: &v5::ConnectionError) -> Lost {
    use v5::mqttbytes::Error;
    use v5::mqttbytes::v5::ConnectReturnCode as Code;
    use v5::{ConnectionError, StateError};
    match error {
        ConnectionError::MqttState(
            StateError::IncomingPacketTooLarge { .. }
            | StateError::Deserialization(Error::PayloadSizeLimitExceeded { .. }),
        ) => Lost::TooLarge,
        ConnectionError::MqttState(
            StateError::ConnectionAborted | StateError::Deserialization(Error::Io(_)),
        ) => Lost::HungUp,
        // A broker of 3.1.1 answers in its own version, or hangs up.
        ConnectionError::ConnectionRefused(
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion,
        )
        | ConnectionError::NotConnAck(_)
        | ConnectionError::MqttState(StateError::Deserialization(_)) => Lost::Version,
        ConnectionError::MqttState(error) => Lost::Broken(error.to_string()),
        error => Lost::Broken(error.to_string()),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other reason is the same to the bridge"
)]
fn lost_three(error: &rumqttc::ConnectionError) -> Lost {
    use rumqttc::{ConnectReturnCode, ConnectionError, Error, StateError};
    match error {
        ConnectionError::MqttState(StateError::Deserialization(Error::PayloadSizeLimitExceeded(_))) => {
            Lost::TooLarge
        }
        ConnectionError::MqttState(StateError::ConnectionAborted | StateError::Io(_)) => Lost::HungUp,
        ConnectionError::ConnectionRefused(ConnectReturnCode::RefusedProtocolVersion)
        | ConnectionError::NotConnAck(_)
        | ConnectionError::MqttState(StateError::Deserialization(_)) => Lost::Version,
        error => Lost::Broken(error.to_string()),
    }
}
