//! Which way to cloudcore goes first, from what became of those before.
//!
//! A handshake shows little: some networks let the first packets of each UDP flow through and drop the rest.
//! So a QUIC session that falls silent soon after its handshake is a *strike*. After two in a row a WebSocket
//! goes first, and QUIC is asked about more and more rarely; a session that lasts wipes them out. A
//! WebSocket that fares no better says that it was the network, and not QUIC.
//!
//! Whatever goes first, the other way is begun when that gets no answer: a strike never costs the link. It costs
//! time where TCP is swallowed as well, for then a WebSocket has all of its own before QUIC begins.
//!
//! Pure but for the lock: instants and dice are the callers'.

use std::time::Duration;

use parking_lot::Mutex;
use protocol::transport::Transport;

use super::probes::Probes;

/// A session that was answered for so long has shown that its way carries.
const PROVEN: Duration = Duration::from_mins(10);
/// So many strikes are no accident: one replica that fails is one.
const OUT: u32 = 2;

/// What is known of the ways. It outlives sessions.
#[derive(Debug)]
pub struct Ways(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// What won last.
    won: Transport,
    /// QUIC sessions in a row that shook hands and then fell silent.
    strikes: u32,
    /// How many there were before something fell silent last.
    before: u32,
}

impl Default for Ways {
    /// QUIC first.
    fn default() -> Self {
        Self(Mutex::new(Known {
            won: Transport::Quic,
            strikes: 0,
            before: 0,
        }))
    }
}

impl Ways {
    /// Which goes first.
    pub(super) fn first(&self) -> Transport {
        if self.quic_is_out() {
            Transport::WebSocket
        } else {
            self.0.lock().won
        }
    }

    /// Whether the last QUIC sessions fell silent, so that its handshake shows nothing.
    pub(super) fn quic_is_out(&self) -> bool {
        self.0.lock().strikes >= OUT
    }

    /// What came of a dial. Who finds no way begins anew with QUIC.
    pub(super) fn dialled(&self, won: Option<Transport>) {
        self.0.lock().won = won.unwrap_or(Transport::Quic);
    }

    /// cloudcore has taken a session.
    pub(super) fn welcomed(&self, over: Transport) {
        self.0.lock().won = over;
    }

    /// A session, or Hello, gets no answer any more; before that it was answered for `lasted`.
    pub(super) fn fell_silent(&self, over: Transport, lasted: Duration) {
        self.lasted(over, lasted);
        let mut known = self.0.lock();
        known.before = known.strikes;
        if lasted < PROVEN {
            known.strikes = match over {
                Transport::Quic => known.strikes.saturating_add(1),
                Transport::WebSocket => 0,
            };
        }
    }

    /// What fell silent last is answered again.
    pub(super) fn answers_again(&self) {
        let mut known = self.0.lock();
        known.strikes = known.before;
    }

    /// A session is over that was answered for `lasted`.
    pub(super) fn lasted(&self, over: Transport, lasted: Duration) {
        if over == Transport::Quic && lasted >= PROVEN {
            self.0.lock().strikes = 0;
        }
    }

    /// When a session over WebSocket asks about QUIC: the first time as late as strikes advise.
    pub(super) fn probes(&self) -> Probes {
        Probes::after(self.0.lock().strikes.saturating_sub(OUT - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(40);

    fn first_probe(ways: &Ways) -> u64 {
        ways.probes().pause(0.5).as_secs() / 60
    }

    #[test]
    fn quic_that_falls_silent_twice_goes_second_and_is_asked_about_ever_more_rarely() {
        let ways = Ways::default();
        ways.fell_silent(Transport::Quic, SOON);
        assert_eq!((ways.first(), first_probe(&ways)), (Transport::Quic, 2));
        let mut probes = Vec::new();
        for _ in 0..14 {
            ways.fell_silent(Transport::Quic, Duration::ZERO);
            // However often it shakes hands.
            ways.dialled(Some(Transport::Quic));
            ways.welcomed(Transport::Quic);
            assert_eq!(ways.first(), Transport::WebSocket);
            probes.push(first_probe(&ways));
        }
        assert_eq!(probes[..4], [4, 8, 16, 32]);
        assert_eq!(probes[12..], [1440, 1440], "at least once a day");
    }

    #[test]
    fn a_quic_session_that_lasts_is_trusted_again() {
        for silent in [false, true] {
            let ways = Ways::default();
            (0..5).for_each(|_| ways.fell_silent(Transport::Quic, SOON));
            ways.welcomed(Transport::Quic);
            ways.lasted(Transport::Quic, PROVEN.saturating_sub(SOON));
            assert_eq!(ways.first(), Transport::WebSocket);
            if silent {
                // Of a network that was away.
                ways.fell_silent(Transport::Quic, PROVEN);
            } else {
                ways.lasted(Transport::Quic, PROVEN);
            }
            assert_eq!((ways.first(), first_probe(&ways)), (Transport::Quic, 2));
        }
    }

    #[test]
    fn a_silence_that_passes_changes_nothing() {
        let ways = Ways::default();
        for _ in 0..5 {
            ways.fell_silent(Transport::Quic, SOON);
            ways.answers_again();
        }
        assert_eq!(ways.first(), Transport::Quic);
        (0..2).for_each(|_| ways.fell_silent(Transport::Quic, SOON));
        ways.fell_silent(Transport::WebSocket, SOON);
        ways.answers_again();
        assert_eq!(ways.first(), Transport::WebSocket);
    }

    #[test]
    fn where_a_websocket_fares_no_better_quic_is_not_to_blame() {
        let ways = Ways::default();
        (0..2).for_each(|_| ways.fell_silent(Transport::Quic, SOON));
        ways.dialled(Some(Transport::WebSocket));
        ways.fell_silent(Transport::WebSocket, PROVEN);
        assert_eq!(ways.first(), Transport::WebSocket, "that one carried");
        ways.fell_silent(Transport::WebSocket, SOON);
        ways.dialled(None);
        assert_eq!((ways.first(), first_probe(&ways)), (Transport::Quic, 2));
    }

    #[test]
    fn what_won_last_goes_first_and_who_finds_no_way_begins_with_quic() {
        let ways = Ways::default();
        assert_eq!(ways.first(), Transport::Quic);
        ways.dialled(Some(Transport::WebSocket));
        assert_eq!(ways.first(), Transport::WebSocket);
        ways.welcomed(Transport::Quic);
        assert_eq!(ways.first(), Transport::Quic);
        ways.dialled(Some(Transport::WebSocket));
        ways.dialled(None);
        assert_eq!(ways.first(), Transport::Quic);
    }
}
