//! What goes over the wire, in both versions of MQTT. Pure; the bytes are the library's work.

use std::fmt::Debug;

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::v5 as five;
use rumqttc::v5::mqttbytes::{self as bytes5, QoS as QoS5};
use rumqttc::{self as three, QoS};

use super::credentials::Access;
use super::message::{Filter, Message, Publish};
use super::oversized::{Head, head};
use super::terms::{Codes, KEEP_ALIVE, MOST_IN, Terms, answer};
use super::version::{LARGEST, Lost, Session, Version};

/// What the broker said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The connection stands.
    Up {
        /// Whether the broker has subscriptions and messages of an earlier one.
        session_present: bool,
        /// What it lets the node do.
        terms: Terms,
    },
    /// A message.
    Message {
        /// It.
        message: Message,
        /// How many bytes of it are still to come, and to be passed over.
        left: usize,
    },
    /// An answer to a subscription of this number.
    Subscribed {
        /// Its number.
        packet: u16,
        /// Of each filter, whether it was granted.
        granted: Vec<bool>,
    },
    /// The subscriptions that were taken back under this number are gone.
    Unsubscribed(u16),
    /// The broker has what was sent under this number, and waits to be told that nothing comes again.
    Received(u16),
    /// The broker has what was sent under this number.
    Acknowledged(u16),
    /// The broker will not have what was sent under this number.
    Refused {
        /// Its number.
        packet: u16,
        /// The name of the reason.
        why: String,
    },
    /// Something that only says that it lives.
    Alive,
}

impl Version {
    /// The next packet of the input, if all of it is here; of a message that is too large, the beginning.
    pub(super) fn read(self, input: &mut BytesMut) -> Result<Option<Incoming>, Lost> {
        match self {
            Self::Five => match five::Packet::read(input, Some(LARGEST)) {
                Ok(packet) => of_five(packet).map(Some),
                Err(bytes5::Error::InsufficientBytes(_)) => Ok(None),
                Err(bytes5::Error::PayloadSizeLimitExceeded { .. }) => too_large(input),
                Err(_) => Err(Lost::Version),
            },
            Self::Three => match three::Packet::read(input, LARGEST as usize) {
                Ok(packet) => of_three(packet).map(Some),
                Err(three::Error::InsufficientBytes(_)) => Ok(None),
                Err(three::Error::PayloadSizeLimitExceeded(_)) => too_large(input),
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
                properties.session_expiry_interval = u32::try_from(access.kept.as_secs()).ok();
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

    /// Publishes a message, with this number if it wants to be acknowledged.
    pub(super) fn publish(self, packet: u16, publish: Publish, out: &mut BytesMut) -> Result<(), Lost> {
        let Publish {
            topic,
            payload,
            qos,
            retain,
        } = publish;
        match self {
            Self::Five => {
                let publish = five::Publish {
                    qos: bytes5::qos(qos).unwrap_or(QoS5::AtLeastOnce),
                    retain,
                    topic: topic.into(),
                    pkid: packet,
                    payload,
                    ..Default::default()
                };
                publish.write(out).map(drop).map_err(|error| odd(&error))
            }
            Self::Three => {
                let qos = three::qos(qos).unwrap_or(QoS::AtLeastOnce);
                let mut publish = three::Publish::from_bytes(topic, qos, payload);
                (publish.pkid, publish.retain) = (packet, retain);
                publish.write(out).map(drop).map_err(|error| odd(&error))
            }
        }
    }

    /// Says that what the broker has received under this number does not come again.
    pub(super) fn release(self, packet: u16, out: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Five => write_five(&five::Packet::PubRel(five::PubRel::new(packet, None)), out),
            Self::Three => write_three(&three::Packet::PubRel(three::PubRel::new(packet)), out),
        }
    }

    /// Acknowledges a message.
    pub(super) fn acknowledge(self, packet: u16, out: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Five => write_five(&five::Packet::PubAck(five::PubAck::new(packet, None)), out),
            Self::Three => write_three(&three::Packet::PubAck(three::PubAck::new(packet)), out),
        }
    }

    /// Subscribes.
    pub(super) fn subscribe(
        self,
        packet: u16,
        filters: impl Iterator<Item = Filter>,
        out: &mut BytesMut,
    ) -> Result<(), Lost> {
        match self {
            Self::Five => {
                let filters = filters.map(|Filter { path, always }| five::Filter {
                    path,
                    qos: QoS5::AtLeastOnce,
                    retain_forward_rule: if always {
                        five::RetainForwardRule::OnEverySubscribe
                    } else {
                        five::RetainForwardRule::OnNewSubscribe
                    },
                    ..Default::default()
                });
                let mut subscribe = five::Subscribe::new_many(filters, None);
                subscribe.pkid = packet;
                write_five(&five::Packet::Subscribe(subscribe), out)
            }
            Self::Three => {
                let filters =
                    filters.map(|filter| three::SubscribeFilter::new(filter.path, QoS::AtLeastOnce));
                let mut subscribe = three::Subscribe::new_many(filters);
                subscribe.pkid = packet;
                write_three(&three::Packet::Subscribe(subscribe), out)
            }
        }
    }

    /// Takes a subscription back.
    pub(super) fn unsubscribe(self, packet: u16, topic: &str, out: &mut BytesMut) -> Result<(), Lost> {
        match self {
            Self::Five => {
                let mut unsubscribe = five::Unsubscribe::new(topic, None);
                unsubscribe.pkid = packet;
                write_five(&five::Packet::Unsubscribe(unsubscribe), out)
            }
            Self::Three => {
                let mut unsubscribe = three::Unsubscribe::new(topic);
                unsubscribe.pkid = packet;
                write_three(&three::Packet::Unsubscribe(unsubscribe), out)
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

fn too_large(input: &mut BytesMut) -> Result<Option<Incoming>, Lost> {
    let Some(Head { message, bytes }) = head(input)? else {
        return Ok(None);
    };
    let here = bytes.min(input.len());
    input.advance(here);
    let left = bytes - here;
    Ok(Some(Incoming::Message { message, left }))
}

const fn whole(message: Message) -> Incoming {
    Incoming::Message { message, left: 0 }
}

fn refused(packet: u16, reason: &impl Debug) -> Incoming {
    let why = format!("{reason:?}");
    Incoming::Refused { packet, why }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a new kind of packet is nothing that was asked for"
)]
fn of_five(packet: five::Packet) -> Result<Incoming, Lost> {
    use five::{ConnectReturnCode as Code, Packet, PubAckReason, PubRecReason, SubscribeReasonCode};
    Ok(match packet {
        Packet::ConnAck(ack) => {
            let up = Incoming::Up {
                session_present: ack.session_present,
                terms: ack.properties.as_ref().map(Terms::of).unwrap_or_default(),
            };
            let codes = Codes {
                good: Code::Success,
                unknown: &[Code::RefusedProtocolVersion, Code::UnsupportedProtocolVersion],
                denied: &[
                    Code::BadUserNamePassword,
                    Code::NotAuthorized,
                    Code::ClientIdentifierNotValid,
                ],
            };
            return answer(&ack.code, &codes, up);
        }
        Packet::Publish(publish) => whole(Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            too_large: false,
            packet: (publish.qos != QoS5::AtMostOnce).then_some(publish.pkid),
            repeat: publish.dup,
            retained: publish.retain,
        }),
        Packet::SubAck(ack) => {
            let is_good = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            let granted = ack.return_codes.iter().map(is_good).collect();
            let packet = ack.pkid;
            Incoming::Subscribed { packet, granted }
        }
        Packet::UnsubAck(ack) => Incoming::Unsubscribed(ack.pkid),
        Packet::PubAck(ack) => match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Incoming::Acknowledged(ack.pkid),
            reason => refused(ack.pkid, &reason),
        },
        Packet::PubRec(ack) => match ack.reason {
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => Incoming::Received(ack.pkid),
            reason => refused(ack.pkid, &reason),
        },
        Packet::PubComp(ack) => Incoming::Acknowledged(ack.pkid),
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
        Packet::ConnAck(ack) => {
            let up = Incoming::Up {
                session_present: ack.session_present,
                terms: Terms::default(),
            };
            let codes = Codes {
                good: Code::Success,
                unknown: &[Code::RefusedProtocolVersion],
                denied: &[Code::BadUserNamePassword, Code::NotAuthorized, Code::BadClientId],
            };
            return answer(&ack.code, &codes, up);
        }
        Packet::Publish(publish) => whole(Message {
            topic: publish.topic,
            payload: publish.payload,
            too_large: false,
            packet: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
            repeat: publish.dup,
            retained: publish.retain,
        }),
        Packet::SubAck(ack) => {
            let is_good = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            let granted = ack.return_codes.iter().map(is_good).collect();
            let packet = ack.pkid;
            Incoming::Subscribed { packet, granted }
        }
        Packet::UnsubAck(ack) => Incoming::Unsubscribed(ack.pkid),
        Packet::PubAck(ack) => Incoming::Acknowledged(ack.pkid),
        Packet::PubRec(ack) => Incoming::Received(ack.pkid),
        Packet::PubComp(ack) => Incoming::Acknowledged(ack.pkid),
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

    #[test]
    fn what_the_broker_has_and_what_it_will_not_have_are_told_apart() {
        let read = |packet: &[u8]| Version::Five.read(&mut BytesMut::from(packet)).unwrap().unwrap();
        let refused = |why: &str| Incoming::Refused {
            packet: 9,
            why: why.to_owned(),
        };
        assert_eq!(read(&[0x40, 2, 0, 9]), Incoming::Acknowledged(9));
        assert_eq!(
            read(&[0x40, 3, 0, 9, 0x10]),
            Incoming::Acknowledged(9),
            "nobody listens now"
        );
        assert_eq!(read(&[0x50, 4, 0, 9, 0x10, 0]), Incoming::Received(9));
        assert_eq!(read(&[0x40, 3, 0, 9, 0x87]), refused("NotAuthorized"));
        assert_eq!(read(&[0x40, 4, 0, 9, 0x97, 0]), refused("QuotaExceeded"));
        assert_eq!(read(&[0x50, 4, 0, 9, 0x90, 0]), refused("TopicNameInvalid"));
    }
}
