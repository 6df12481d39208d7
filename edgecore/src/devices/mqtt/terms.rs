//! What each end of a connection lets the other do: what this node asks for, whether a broker lets it in, and what it
//! lets it do then. Pure.
//!
//! Whoever does more than a broker lets him is thrown out, and would be again after each connection. MQTT 3.1.1 knows none of it.

use std::fmt::Debug;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::ConnAckProperties;

use super::packets::Incoming;
use super::version::{LARGEST, Lost};

/// How many messages the broker may have delivered and not seen acknowledged.
pub(super) const MOST_IN: u16 = 4096;
/// The same the other way.
pub(super) const MOST_OUT: u16 = 1024;
/// How soon a broker that is silently gone is noticed, about.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The terms of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// The largest packet that the broker takes.
    pub(super) largest: usize,
    /// How many messages it takes before it has acknowledged one.
    pub(super) most: u16,
    /// It hangs up on a client that is silent for half as long again.
    pub(super) keep_alive: Duration,
    /// The best quality of service that it has; never less than 1, without which nothing here is safe.
    pub(super) qos: u8,
    /// Whether it keeps messages for new subscribers.
    pub(super) retains: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            largest: LARGEST as usize,
            most: MOST_OUT,
            keep_alive: KEEP_ALIVE,
            qos: 2,
            retains: true,
        }
    }
}

impl Terms {
    /// What the broker said; what it does not name it does not bound.
    pub(super) fn of(said: &ConnAckProperties) -> Self {
        let any = Self::default();
        // One that asks for less, or for nothing, hears of the node as often as any: that it is gone is to be
        // noticed.
        let keep_alive = said.server_keep_alive.filter(|seconds| *seconds > 0);
        let keep_alive = keep_alive.map_or(KEEP_ALIVE, |seconds| Duration::from_secs(seconds.into()));
        Self {
            largest: said.max_packet_size.map_or(any.largest, |bytes| bytes as usize),
            most: said.receive_max.map_or(any.most, |most| most.min(MOST_OUT)),
            keep_alive: keep_alive.min(KEEP_ALIVE),
            qos: said.max_qos.map_or(any.qos, |qos| qos.clamp(1, 2)),
            retains: said.retain_available != Some(0),
        }
    }
}

/// What the codes of the broker's answer mean, in one version.
pub(super) struct Codes<C: 'static> {
    /// It lets the node in.
    pub(super) good: C,
    /// It does not speak that version.
    pub(super) unknown: &'static [C],
    /// Somebody else is wanted.
    pub(super) denied: &'static [C],
}

/// What the broker's answer to the greeting means, in whichever version.
pub(super) fn answer<C: PartialEq + Debug>(
    code: &C,
    codes: &Codes<C>,
    up: Incoming,
) -> Result<Incoming, Lost> {
    if *code == codes.good {
        Ok(up)
    } else if codes.unknown.contains(code) {
        Err(Lost::Version)
    } else if codes.denied.contains(code) {
        Err(Lost::Denied(format!("{code:?}")))
    } else {
        Err(Lost::Broken(format!("the broker refused it: {code:?}")))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::version::Version;
    use super::*;

    fn after(version: Version, answer: &[u8]) -> Terms {
        match version.read(&mut BytesMut::from(answer)) {
            Ok(Some(Incoming::Up { terms, .. })) => terms,
            other => panic!("{other:?}"),
        }
    }

    fn named(properties: &[u8]) -> Terms {
        let length = u8::try_from(properties.len()).unwrap();
        let answer = [&[0x20, 3 + length, 0, 0, length], properties].concat();
        after(Version::Five, &answer)
    }

    #[test]
    fn a_broker_hears_of_the_node_as_often_as_it_wants_to_and_never_less_often_than_any() {
        let seconds = |properties: &[u8]| named(properties).keep_alive.as_secs();
        assert_eq!(seconds(&[]), 20);
        assert_eq!(seconds(&[0x13, 0, 10]), 10);
        assert_eq!(seconds(&[0x13, 1, 0]), 20);
        assert_eq!(seconds(&[0x13, 0, 0]), 20, "it never hangs up");
    }

    #[test]
    fn who_is_not_the_one_that_the_broker_knows_is_told_so_in_both_versions() {
        let said = |version: Version, answer: &[u8]| version.read(&mut BytesMut::from(answer)).unwrap_err();
        for code in [2, 4, 5] {
            let said = said(Version::Three, &[0x20, 2, 0, code]);
            assert!(matches!(said, Lost::Denied(_)), "{said:?}");
        }
        for code in [0x85, 0x86, 0x87] {
            let said = said(Version::Five, &[0x20, 3, 0, code, 0]);
            assert!(matches!(said, Lost::Denied(_)), "{said:?}");
        }
        assert_eq!(said(Version::Three, &[0x20, 2, 0, 1]), Lost::Version);
        let busy = said(Version::Five, &[0x20, 3, 0, 0x89, 0]);
        assert!(matches!(busy, Lost::Broken(_)), "{busy:?}");
    }

    #[test]
    fn what_is_not_named_is_not_bounded() {
        assert_eq!(named(&[]), Terms::default());
        assert_eq!(after(Version::Three, &[0x20, 2, 0, 0]), Terms::default());
        let bounds = [0x21, 0, 5, 0x24, 1, 0x25, 0, 0x27, 0, 1, 0, 0];
        let bounded = Terms {
            largest: 65_536,
            most: 5,
            qos: 1,
            retains: false,
            ..Terms::default()
        };
        assert_eq!(named(&bounds), bounded);
        assert_eq!(
            named(&[0x24, 0, 0x25, 1]),
            Terms {
                qos: 1,
                ..Terms::default()
            }
        );
    }
}
