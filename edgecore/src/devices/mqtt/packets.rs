//! What goes over the wire, in both versions of MQTT. Pure; the bytes are the library's work.

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5 as five;
use rumqttc::v5::mqttbytes::{self as bytes5, QoS as QoS5};
use rumqttc::{self as three, QoS};

use super::bridge::Message;
use super::credentials::Access;
use super::version::{LARGEST, Lost, Session, Version};
use super::wire::{KEEP_ALIVE, MOST_IN, MOST_OUT, SESSION};

/// What the broker said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The connection stands.
    Up {
        /// Whether the broker has subscriptions and messages of an earlier one.
        session_present: bool,
        /// The largest packet that the broker takes.
        largest: usize,
        /// How many messages it takes before it has acknowledged one.
        most: u16,
    },
    /// A message.
    Message(Message),
    /// An answer to a subscription of this number.
    Subscribed {
        /// Its number.
        packet: u16,
        /// Whether any filter was refused.
        refused: bool,
    },
    /// The broker has what was sent under this number.
    Acknowledged(u16),
    /// Something that only says that it lives.
    Alive,
}

impl Version {
    /// The next packet of the input, if all of it is here.
    pub(super) fn read(self, input: &mut BytesMut) -> Result<Option<Incoming>, Lost> {
        match self {
            Self::Five => match five::Packet::read(input, Some(LARGEST)) {
                Ok(packet) => of_five(packet).map(Some),
                Err(bytes5::Error::InsufficientBytes(_)) => Ok(None),
                Err(bytes5::Error::PayloadSizeLimitExceeded { .. }) => Err(Lost::TooLarge),
                Err(_) => Err(Lost::Version),
            },
            Self::Three => match three::Packet::read(input, LARGEST as usize) {
                Ok(packet) => of_three(packet).map(Some),
                Err(three::Error::InsufficientBytes(_)) => Ok(None),
                Err(three::Error::PayloadSizeLimitExceeded(_)) => Err(Lost::TooLarge),
                Err(_) => Err(Lost::Version),
            },
        }
    }

    /// Asks for a connection.
    pub(super) fn connect(self, session: Session, access: &Access, out: &mut BytesMut) -> Result<(), Lost> {
        let keep_alive = u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX);
        let clean = session == Session::Clean;
        match self {
            Self::Five => {
                let mut properties = five::ConnectProperties::new();
                properties.session_expiry_interval = u32::try_from(SESSION.as_secs()).ok();
                properties.receive_maximum = Some(MOST_IN);
                properties.max_packet_size = Some(LARGEST);
                let connect = five::Connect {
                    keep_alive,
                    client_id: access.client_id.clone(),
                    clean_start: clean,
                    properties: Some(properties),
                };
                let login = access.login.as_ref();
                let login = login.map(|(user, password)| five::Login::new(user, password));
                write_five(&five::Packet::Connect(connect, None, login), out)
            }
            Self::Three => {
                let mut connect = three::Connect::new(&access.client_id);
                connect.keep_alive = keep_alive;
                connect.clean_session = clean;
                if let Some((user, password)) = &access.login {
                    connect.set_login(user, password);
                }
                write_three(&three::Packet::Connect(connect), out)
            }
        }
    }

    /// Publishes a message.
    pub(super) fn publish(
        self,
        packet: u16,
        (topic, payload): (String, Bytes),
        out: &mut BytesMut,
    ) -> Result<(), Lost> {
        match self {
            Self::Five => {
                let publish = five::Publish {
                    qos: QoS5::AtLeastOnce,
                    topic: topic.into(),
                    pkid: packet,
                    payload,
                    ..Default::default()
                };
                publish.write(out).map(drop).map_err(|error| odd(&error))
            }
            Self::Three => {
                let mut publish = three::Publish::from_bytes(topic, QoS::AtLeastOnce, payload);
                publish.pkid = packet;
                publish.write(out).map(drop).map_err(|error| odd(&error))
            }
        }
    }

    /// Acknowledges a message.
    pub(super) fn acknowledge(self, packet: u16, out: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Five => write_five(&five::Packet::PubAck(five::PubAck::new(packet, None)), out),
            Self::Three => write_three(&three::Packet::PubAck(three::PubAck::new(packet)), out),
        }
    }

    /// Subscribes; what the broker had kept comes only with a subscription that is new.
    pub(super) fn subscribe(
        self,
        packet: u16,
        filters: impl Iterator<Item = String>,
        out: &mut BytesMut,
    ) -> Result<(), Lost> {
        match self {
            Self::Five => {
                let filters = filters.map(|path| five::Filter {
                    path,
                    qos: QoS5::AtLeastOnce,
                    retain_forward_rule: five::RetainForwardRule::OnNewSubscribe,
                    ..Default::default()
                });
                let mut subscribe = five::Subscribe::new_many(filters, None);
                subscribe.pkid = packet;
                write_five(&five::Packet::Subscribe(subscribe), out)
            }
            Self::Three => {
                let filters = filters.map(|path| three::SubscribeFilter::new(path, QoS::AtLeastOnce));
                let mut subscribe = three::Subscribe::new_many(filters);
                subscribe.pkid = packet;
                write_three(&three::Packet::Subscribe(subscribe), out)
            }
        }
    }

    /// Asks for a sign of life.
    pub(super) fn ping(self, out: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Five => write_five(&five::Packet::PingReq(five::PingReq), out),
            Self::Three => write_three(&three::Packet::PingReq, out),
        }
    }

    /// Takes leave.
    pub(super) fn leave(self, out: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Five => {
                let reason = five::DisconnectReasonCode::NormalDisconnection;
                write_five(&five::Packet::Disconnect(five::Disconnect::new(reason)), out)
            }
            Self::Three => write_three(&three::Packet::Disconnect, out),
        }
    }
}

fn write_five(packet: &five::Packet, out: &mut BytesMut) -> Result<(), Lost> {
    packet.write(out, None).map(drop).map_err(|error| odd(&error))
}

fn write_three(packet: &three::Packet, out: &mut BytesMut) -> Result<(), Lost> {
    packet
        .write(out, usize::MAX)
        .map(drop)
        .map_err(|error| odd(&error))
}

/// Whether a broker of 3.1.1 answered in its own version, which has no properties: to the library that
/// is the beginning of an answer, and not every broker hangs up after it.
pub(super) const fn refuses_five(answer: &[u8]) -> bool {
    matches!(answer, [0x20, 2, ..])
}

/// The bridge's own bounds prevent it.
fn odd(error: &impl std::fmt::Display) -> Lost {
    Lost::Broken(format!("a message cannot be written: {error}"))
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
fn of_five(packet: five::Packet) -> Result<Incoming, Lost> {
    use five::{ConnectReturnCode as Code, Packet, SubscribeReasonCode};
    Ok(match packet {
        Packet::ConnAck(ack) => match ack.code {
            Code::Success => {
                let properties = ack.properties.as_ref();
                let largest = properties.and_then(|properties| properties.max_packet_size);
                let most = properties.and_then(|properties| properties.receive_max);
                Incoming::Up {
                    session_present: ack.session_present,
                    largest: largest.unwrap_or(LARGEST) as usize,
                    most: most.unwrap_or(MOST_OUT).min(MOST_OUT),
                }
            }
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => return Err(Lost::Version),
            code => return Err(Lost::Broken(format!("the broker refused it: {code:?}"))),
        },
        Packet::Publish(publish) => Incoming::Message(Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            packet: (publish.qos != QoS5::AtMostOnce).then_some(publish.pkid),
            repeat: publish.dup,
            retained: publish.retain,
        }),
        Packet::SubAck(ack) => Incoming::Subscribed {
            packet: ack.pkid,
            refused: refused(&ack.return_codes, |code| {
                matches!(code, SubscribeReasonCode::Success(_))
            }),
        },
        Packet::PubAck(ack) => Incoming::Acknowledged(ack.pkid),
        Packet::Disconnect(bye) => {
            let why = format!("the broker ended it: {:?}", bye.reason_code);
            return Err(Lost::Broken(why));
        }
        _ => Incoming::Alive,
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a new kind of packet is nothing that was asked for"
)]
fn of_three(packet: three::Packet) -> Result<Incoming, Lost> {
    use three::{ConnectReturnCode as Code, Packet, SubscribeReasonCode};
    Ok(match packet {
        Packet::ConnAck(ack) => match ack.code {
            Code::Success => Incoming::Up {
                session_present: ack.session_present,
                largest: LARGEST as usize,
                most: MOST_OUT,
            },
            Code::RefusedProtocolVersion => return Err(Lost::Version),
            code => return Err(Lost::Broken(format!("the broker refused it: {code:?}"))),
        },
        Packet::Publish(publish) => Incoming::Message(Message {
            topic: publish.topic,
            payload: publish.payload,
            packet: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
            repeat: publish.dup,
            retained: publish.retain,
        }),
        Packet::SubAck(ack) => Incoming::Subscribed {
            packet: ack.pkid,
            refused: refused(&ack.return_codes, |code| {
                matches!(code, SubscribeReasonCode::Success(_))
            }),
        },
        Packet::PubAck(ack) => Incoming::Acknowledged(ack.pkid),
        _ => Incoming::Alive,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_3_1_1_to_mqtt_5_is_known_before_the_broker_hangs_up() {
        assert!(refuses_five(&[0x20, 2, 0, 1]));
        let refused = [0x20, 3, 0, 0x84, 0];
        assert!(!refuses_five(&refused));
        let read = Version::Five.read(&mut BytesMut::from(refused.as_slice()));
        assert_eq!(read, Err(Lost::Version), "one that knows how to say no in MQTT 5");
    }
}
