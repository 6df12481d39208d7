//! Which MQTT the next connection speaks, and whether it goes on with the old session. Pure; the
//! bridge and the drivers decide it alike.
//!
//! MQTT 5 comes first, for it alone keeps what is too large from being delivered. A broker that knows
//! 3.1.1 alone refuses it in its own words, in words that cannot be read, or hangs up.

use std::io;

/// The largest packet that is taken; of a larger message only the beginning is looked at.
pub(crate) const LARGEST: u32 = 256 << 10;

/// Which version of the protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 5.
    Five,
    /// MQTT 3.1.1.
    Three,
}

/// What the broker does with an old session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// It goes on.
    Resumed,
    /// It is dropped, with what waits in it.
    Clean,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    /// The broker knows no such version, or sent something that cannot be read.
    #[error("the broker does not speak this version of MQTT, or sent what cannot be read")]
    Version,
    /// The broker ended it without a word.
    #[error("the broker hung up")]
    HungUp,
    /// The broker knows the node by another name or password, or not at all.
    #[error("the broker refused it: {0}")]
    Denied(String),
    /// It could not be made, or broke.
    #[error("{0}")]
    Broken(String),
}

impl Lost {
    /// What the system says of a connection that ended.
    pub(crate) fn of_system(error: &io::Error) -> Self {
        let hung_up = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
        );
        if hung_up {
            Self::HungUp
        } else {
            Self::Broken(error.to_string())
        }
    }
}

/// How the next connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// In which version.
    pub(crate) version: Version,
    /// With the old session or without.
    pub(crate) session: Session,
}

impl Default for Greeting {
    fn default() -> Self {
        Self {
            version: Version::Five,
            session: Session::Resumed,
        }
    }
}

impl Greeting {
    /// A connection stands: the session is a new one or wanted.
    pub(crate) const fn connected(&mut self) {
        self.session = Session::Resumed;
    }

    /// A connection ended; whether it had stood. A broker that hung up once for a reason of its own is
    /// not spoken to in the old version for ever: one that knows no other costs an attempt. Returns
    /// whether the next may follow at once, since the broker said that it speaks the older version alone.
    pub(crate) const fn lost(&mut self, lost: &Lost, stood: bool) -> bool {
        let is_refusal = matches!((lost, self.version), (Lost::Version, Version::Five)) && !stood;
        if stood {
            self.version = Version::Five;
        }
        match (lost, stood) {
            // What could not be read would be delivered again at each reconnect.
            (Lost::Version, true) => self.session = Session::Clean,
            (Lost::Version | Lost::HungUp, false) => {
                self.version = match self.version {
                    Version::Five => Version::Three,
                    Version::Three => Version::Five,
                };
            }
            (Lost::HungUp | Lost::Denied(_) | Lost::Broken(_), _) => {}
        }
        is_refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Lost {
        Lost::Broken("refused".to_owned())
    }

    #[test]
    fn a_broker_that_does_not_know_the_version_is_asked_in_the_other() {
        let mut greeting = Greeting::default();
        assert!(greeting.lost(&Lost::Version, false), "at once");
        assert_eq!(greeting.version, Version::Three);
        assert!(!greeting.lost(&Lost::Version, false), "it refuses both");
        assert_eq!(greeting.version, Version::Five);
        assert!(!greeting.lost(&Lost::HungUp, false), "it may be busy");
        assert_eq!(greeting.version, Version::Three);
        // A connection that stood is proof of the version.
        greeting.lost(&Lost::HungUp, true);
        greeting.lost(&refused(), false);
        assert_eq!(greeting.version, Version::Five);
    }

    #[test]
    fn a_broker_that_was_spoken_to_in_the_old_version_is_asked_in_the_new_one_again() {
        let mut greeting = Greeting::default();
        greeting.lost(&Lost::HungUp, false);
        assert_eq!(greeting.version, Version::Three);
        greeting.lost(&Lost::Version, true);
        assert_eq!(
            (greeting.version, greeting.session),
            (Version::Five, Session::Clean)
        );
        greeting.lost(&Lost::HungUp, false);
        assert_eq!(
            (greeting.version, greeting.session),
            (Version::Three, Session::Clean)
        );
    }

    #[test]
    fn a_message_that_cannot_be_read_costs_the_session_once() {
        let mut greeting = Greeting::default();
        greeting.lost(&Lost::Version, true);
        assert_eq!(greeting.session, Session::Clean);
        greeting.lost(&refused(), false);
        assert_eq!(greeting.session, Session::Clean, "until it was dropped");
        greeting.connected();
        assert_eq!(greeting.session, Session::Resumed);
    }
}
