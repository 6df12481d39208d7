//! The library's client of MQTT 5.

use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Filter, Packet, Publish, RetainForwardRule};
use rumqttc::v5::mqttbytes::{Error as Bytes, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as Raw, EventLoop, MqttOptions, StateError};

use super::{ANSWER, Asker, Client, Delivered, Event, KEEP_ALIVE, Pump, REQUESTS, Receipt};
use crate::devices::drivers::mqtt::encode::Message;
use crate::devices::mqtt::{LARGEST, Lost};

/// How long the broker keeps what came while edgecore was away.
const SESSION_EXPIRY: u32 = 3600;

pub(super) fn open(asker: Asker<'_>) -> (AsyncClient, EventLoop) {
    let Asker { broker, .. } = asker;
    let mut options = MqttOptions::new(asker.client_id, broker.bracketed(), broker.port);
    options.set_clean_start(asker.is_clean);
    options.set_session_expiry_interval(Some(SESSION_EXPIRY));
    // Larger messages are refused by the broker, which knows this number.
    options.set_max_packet_size(Some(LARGEST));
    options.set_keep_alive(KEEP_ALIVE);
    options.set_manual_acks(true);
    options.set_connection_timeout(ANSWER);
    if let Some((user, password)) = asker.login {
        options.set_credentials(user, password);
    }
    if let Some(transport) = asker.transport {
        options.set_transport(transport);
    }
    AsyncClient::new(options, REQUESTS)
}

impl Client for AsyncClient {
    fn subscribe(&self, topics: &[(&str, bool)]) -> bool {
        let filter = |(topic, always): &(&str, bool)| {
            let mut filter = Filter::new(*topic, QoS::AtLeastOnce);
            filter.retain_forward_rule = if *always {
                RetainForwardRule::OnEverySubscribe
            } else {
                RetainForwardRule::OnNewSubscribe
            };
            filter
        };
        self.try_subscribe_many(topics.iter().map(filter)).is_ok()
    }

    fn unsubscribe(&self, topic: &str) -> bool {
        self.try_unsubscribe(topic).is_ok()
    }

    fn publish(&self, message: Message) -> bool {
        let qos = qos(message.qos);
        self.try_publish(message.topic, qos, message.retain, message.payload)
            .is_ok()
    }

    fn acknowledge(&self, receipt: Receipt) -> bool {
        let publish = Publish {
            qos: qos(receipt.qos),
            pkid: receipt.packet,
            ..Publish::default()
        };
        self.try_ack(&publish).is_ok()
    }

    fn leave(&self) -> bool {
        self.try_disconnect().is_ok()
    }
}

const fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

impl Pump for EventLoop {
    async fn next(&mut self) -> Option<Event> {
        Some(match self.poll().await {
            Ok(Raw::Incoming(Packet::ConnAck(answer))) => Event::Up {
                session_present: answer.session_present,
            },
            Ok(Raw::Incoming(Packet::Publish(publish))) => Event::Message(delivered(publish)),
            Ok(Raw::Incoming(Packet::Disconnect(bye))) => {
                let why = format!("the broker ended it: {:?}", bye.reason_code);
                Event::Down(Lost::Broken(why))
            }
            Ok(_) => return None,
            Err(error) => Event::Down(lost(error)),
        })
    }
}

fn delivered(publish: Publish) -> Delivered {
    let receipt = Receipt {
        packet: publish.pkid,
        qos: publish.qos as u8,
    };
    Delivered {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload,
        retained: publish.retain,
        receipt: (publish.qos != QoS::AtMostOnce).then_some(receipt),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not known here is told in the library's words"
)]
fn lost(error: ConnectionError) -> Lost {
    use ConnectReturnCode::{RefusedProtocolVersion, UnsupportedProtocolVersion};
    use ConnectionError::{ConnectionRefused, Io, MqttState};
    match error {
        MqttState(StateError::ConnectionAborted) => Lost::HungUp,
        MqttState(
            StateError::IncomingPacketTooLarge { .. }
            | StateError::Deserialization(Bytes::PayloadSizeLimitExceeded { .. }),
        ) => Lost::TooLarge,
        MqttState(StateError::Deserialization(Bytes::Io(error)) | StateError::Io(error)) | Io(error) => {
            Lost::of_system(&error)
        }
        ConnectionRefused(RefusedProtocolVersion | UnsupportedProtocolVersion)
        | MqttState(StateError::Deserialization(_)) => Lost::Version,
        error => Lost::Broken(error.to_string()),
    }
}
