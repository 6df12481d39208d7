//! The library's client of MQTT 3.1.1. How long the session is kept only the broker's settings say.

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event as Raw, EventLoop, MqttOptions, Packet, Publish,
    QoS, StateError, SubscribeFilter, mqttbytes::Error as Bytes,
};

use super::{ANSWER, Asker, Client, Delivered, Event, KEEP_ALIVE, Pump, REQUESTS, Receipt};
use crate::devices::drivers::mqtt::encode::Message;
use crate::devices::mqtt::{LARGEST, Lost};

pub(super) fn open(asker: Asker<'_>) -> (AsyncClient, EventLoop) {
    let Asker { broker, .. } = asker;
    let mut options = MqttOptions::new(asker.client_id, broker.bracketed(), broker.port);
    options.set_clean_session(asker.is_clean);
    // The broker does not know this number: a larger message ends the connection.
    options.set_max_packet_size(LARGEST as usize, LARGEST as usize);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_manual_acks(true);
    if let Some((user, password)) = asker.login {
        options.set_credentials(user, password);
    }
    if let Some(transport) = asker.transport {
        options.set_transport(transport);
    }
    let (client, mut pump) = AsyncClient::new(options, REQUESTS);
    pump.network_options.set_connection_timeout(ANSWER);
    (client, pump)
}

impl Client for AsyncClient {
    fn subscribe(&self, topics: &[(&str, bool)]) -> bool {
        let filter = |(topic, _): &(&str, bool)| SubscribeFilter::new((*topic).to_owned(), QoS::AtLeastOnce);
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
        let mut publish = Publish::new("", qos(receipt.qos), []);
        publish.pkid = receipt.packet;
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
        topic: publish.topic,
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
    use ConnectionError::{ConnectionRefused, Io, MqttState};
    match error {
        MqttState(StateError::ConnectionAborted) => Lost::HungUp,
        MqttState(StateError::Deserialization(Bytes::PayloadSizeLimitExceeded(_))) => Lost::TooLarge,
        MqttState(StateError::Deserialization(Bytes::Io(error)) | StateError::Io(error)) | Io(error) => {
            Lost::of_system(&error)
        }
        ConnectionRefused(ConnectReturnCode::RefusedProtocolVersion)
        | MqttState(StateError::Deserialization(_)) => Lost::Version,
        error => Lost::Broken(error.to_string()),
    }
}
