//! What the bridge counts, and the MQTT driver of what concerns both: plain numbers for `status`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The numbers of one bridge, since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Whether a broker answers.
    pub connected: AtomicBool,
    /// Whether it has granted what the bridge reads, so that it keeps or delivers what comes there.
    pub subscribed: AtomicBool,
    /// Messages that came in.
    pub messages_in: AtomicU64,
    /// Updates, states and questions that were not taken.
    pub refused: AtomicU64,
    /// Messages on device topics that were old: the broker had kept them for new subscribers, or over
    /// a power cut.
    pub retained_ignored: AtomicU64,
    /// Messages that the broker delivered again and that were taken before.
    pub repeats: AtomicU64,
    /// Messages without an acknowledgement that found no room.
    pub dropped_in: AtomicU64,
    /// Documents and deltas that found no room, and messages that the broker would not take.
    pub dropped_out: AtomicU64,
    /// Connections after the first.
    pub reconnects: AtomicU64,
    /// Messages that were too large and passed over; counted on 3.1.1 alone, as MQTT 5 does not deliver
    /// them.
    pub too_large: AtomicU64,
    /// Sessions given up because of something that could not be read.
    pub sessions_dropped: AtomicU64,
    /// What the broker says that it dropped since its own start.
    pub broker_dropped: AtomicU64,
}

/// The numbers at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// As in [`Counters`].
    pub connected: bool,
    /// As in [`Counters`].
    pub subscribed: bool,
    /// As in [`Counters`].
    pub messages_in: u64,
    /// As in [`Counters`].
    pub refused: u64,
    /// As in [`Counters`].
    pub retained_ignored: u64,
    /// As in [`Counters`].
    pub repeats: u64,
    /// As in [`Counters`].
    pub dropped_in: u64,
    /// As in [`Counters`].
    pub dropped_out: u64,
    /// As in [`Counters`].
    pub reconnects: u64,
    /// As in [`Counters`].
    pub too_large: u64,
    /// As in [`Counters`].
    pub sessions_dropped: u64,
    /// As in [`Counters`].
    pub broker_dropped: u64,
}

impl Counters {
    /// The numbers now.
    pub fn read(&self) -> Counted {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counted {
            connected: self.connected.load(Ordering::Relaxed),
            subscribed: self.subscribed.load(Ordering::Relaxed),
            messages_in: of(&self.messages_in),
            refused: of(&self.refused),
            retained_ignored: of(&self.retained_ignored),
            repeats: of(&self.repeats),
            dropped_in: of(&self.dropped_in),
            dropped_out: of(&self.dropped_out),
            reconnects: of(&self.reconnects),
            too_large: of(&self.too_large),
            sessions_dropped: of(&self.sessions_dropped),
            broker_dropped: of(&self.broker_dropped),
        }
    }
}

/// One more.
pub(crate) fn count(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}
