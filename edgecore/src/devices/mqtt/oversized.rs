//! The beginning of a message that is too large. Pure.
//!
//! MQTT 5 lets a client say how large a message may be; 3.1.1 does not, and a broker delivers again, at
//! every subscription, what it keeps. So such a message is passed over where it stands: its topic and its
//! number are read, the rest is thrown away as it comes, and nobody else behind the broker is held up.

use bytes::Bytes;

use super::message::Message;
use super::version::Lost;

/// The kind of packet that carries a message, in the upper half of the first byte.
const PUBLISH: u8 = 3;

/// The beginning of such a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The message, without its payload.
    pub(super) message: Message,
    /// How many bytes the packet has in all.
    pub(super) bytes: usize,
}

/// The beginning, once enough of it is here; of another kind of packet nothing can be made. It looks the
/// same in both versions.
pub(super) fn head(input: &[u8]) -> Result<Option<Head>, Lost> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(None);
    };
    let (kind, qos) = (first >> 4, first >> 1 & 3);
    if kind != PUBLISH || qos > 2 {
        return Err(Lost::Version);
    }
    let Some((length, rest)) = length(rest)? else {
        return Ok(None);
    };
    let bytes = input.len() - rest.len() + length;
    let Some((topic, rest)) = short(rest).and_then(|(size, rest)| rest.split_at_checked(size.into())) else {
        return Ok(None);
    };
    let packet = match (qos, short(rest)) {
        (0, _) => None,
        (_, Some((packet, _))) => Some(packet),
        (_, None) => return Ok(None),
    };
    let message = Message {
        topic: String::from_utf8_lossy(topic).into_owned(),
        payload: Bytes::new(),
        too_large: true,
        packet,
        repeat: first & 8 != 0,
        retained: first & 1 != 0,
    };
    Ok(Some(Head { message, bytes }))
}

/// How many bytes follow, in at most four bytes of seven bits each, the lowest first.
fn length(input: &[u8]) -> Result<Option<(usize, &[u8])>, Lost> {
    let mut length = 0;
    for (index, byte) in input.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((length, &input[index + 1..])));
        }
    }
    if input.len() < 4 {
        Ok(None)
    } else {
        Err(Lost::Version)
    }
}

fn short(input: &[u8]) -> Option<(u16, &[u8])> {
    let (bytes, rest) = input.split_first_chunk()?;
    Some((u16::from_be_bytes(*bytes), rest))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rumqttc::v5::mqttbytes::v5 as five;
    use rumqttc::{self as three};

    use super::*;
    use crate::devices::mqtt::packets::Incoming;
    use crate::devices::mqtt::version::{LARGEST, Version};

    const SIZE: usize = LARGEST as usize + 1;

    fn written(version: Version, qos: u8, retain: bool) -> BytesMut {
        let mut out = BytesMut::new();
        let payload = Bytes::from(vec![b'x'; SIZE]);
        match version {
            Version::Five => {
                let qos = rumqttc::v5::mqttbytes::qos(qos).unwrap();
                let mut publish = five::Publish::new("hall/lamp", qos, payload, None);
                (publish.pkid, publish.retain, publish.dup) = (7, retain, true);
                publish.write(&mut out).unwrap();
            }
            Version::Three => {
                let mut publish = three::Publish::from_bytes("hall/lamp", three::qos(qos).unwrap(), payload);
                (publish.pkid, publish.retain, publish.dup) = (7, retain, true);
                publish.write(&mut out).unwrap();
            }
        }
        out
    }

    #[test]
    fn of_a_message_that_is_too_large_all_but_the_payload_is_known_wherever_it_is_cut() {
        for (version, qos, retain) in [
            (Version::Three, 1, true),
            (Version::Three, 0, false),
            (Version::Five, 2, false),
        ] {
            let whole = written(version, qos, retain);
            let mut known = None;
            for here in 0..40 {
                let found = head(&whole[..here]).unwrap();
                assert!(found.is_some() || known.is_none(), "{here}");
                if let Some(found) = found {
                    assert_eq!(found.bytes, whole.len());
                    assert_eq!(known.get_or_insert(found.message.clone()), &found.message);
                }
            }
            let message = known.unwrap();
            assert_eq!(message.topic, "hall/lamp");
            assert_eq!(message.packet, (qos > 0).then_some(7));
            assert_eq!((message.retained, message.repeat), (retain, true));
            assert!(message.payload.is_empty() && message.too_large);
        }
    }

    #[test]
    fn what_follows_it_is_read() {
        for version in [Version::Three, Version::Five] {
            let mut input = written(version, 1, false);
            let bytes = input.len();
            input.extend_from_slice(&[0xd0, 0]);
            let read = version.read(&mut input).unwrap();
            assert!(
                matches!(read, Some(Incoming::Message { left: 0, .. })),
                "{read:?}"
            );
            assert_eq!(version.read(&mut input), Ok(Some(Incoming::Alive)));
            let mut input = written(version, 1, false).split_to(1000);
            let read = version.read(&mut input).unwrap();
            let Some(Incoming::Message { left, .. }) = read else {
                panic!("{read:?}")
            };
            assert_eq!((left, input.len()), (bytes - 1000, 0));
        }
    }

    #[test]
    fn nothing_else_may_be_so_large() {
        for input in [
            &[0x20, 0xff, 0xff, 0x7f][..],
            &[0x36, 0xff, 0xff, 0x7f],
            &[0x30, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(head(input), Err(Lost::Version), "{input:?}");
        }
        assert_eq!(head(&[0x30, 0xff, 0xff]), Ok(None));
    }
}
