//! What goes wrong in a world, and how often: rolled once per seed, so that seeds differ in kind.

use std::time::Duration;

use super::dice::Dice;

/// The faults of one world, as mean times between them for the whole world.
#[derive(Clone, Debug)]
pub(crate) struct Menu {
    pub(crate) edges: usize,
    pub(crate) replicas: usize,
    /// How long the world is disturbed.
    pub(crate) lasts: Duration,
    pub(crate) latency_ms: u64,
    pub(crate) api_ms: u64,
    /// How far watches lag behind.
    pub(crate) lag_ms: u64,
    pub(crate) disk_ms: u64,
    pub(crate) user: Duration,
    /// Between two bursts of what devices say, in a world that has any.
    pub(crate) devices: Option<Duration>,
    pub(crate) faults: Vec<(Fault, Duration)>,
    /// When etcd is restored from a backup, and how old that is; with another epoch or not.
    pub(crate) restore: Option<(Duration, Duration, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A connection dies both ways, and neither end is told.
    Cut,
    /// One way only.
    HalfOpen,
    /// Frames come later, all of them.
    Stall,
    /// An edge has no network for a while.
    Partition,
    ReplicaCrash,
    ReplicaDrain,
    /// A watch stands still.
    WatchStall,
    /// A watch ends and lists anew.
    WatchBreak,
    Brownout,
    EdgeCrash,
    PowerOff,
    /// An edge dials although it has a session.
    SecondSession,
    /// A container ends by itself.
    ContainerExit,
    DiskFull,
    /// The device gets an older image of its disk.
    Rollback,
    ClockJump,
}

const ALL: [(Fault, u64); 16] = [
    (Fault::Cut, 200),
    (Fault::HalfOpen, 300),
    (Fault::Stall, 200),
    (Fault::Partition, 900),
    (Fault::ReplicaCrash, 900),
    (Fault::ReplicaDrain, 1_200),
    (Fault::WatchStall, 200),
    (Fault::WatchBreak, 400),
    (Fault::Brownout, 600),
    (Fault::EdgeCrash, 400),
    (Fault::PowerOff, 900),
    (Fault::SecondSession, 300),
    (Fault::ContainerExit, 200),
    (Fault::DiskFull, 600),
    (Fault::Rollback, 4_000),
    (Fault::ClockJump, 1_500),
];

impl Menu {
    pub(crate) fn roll(dice: &mut Dice) -> Self {
        let pick = |dice: &mut Dice, from: &[u64]| from[dice.below(from.len())];
        let lasts = Duration::from_secs(pick(dice, &[3_600, 7_200, 14_400]));
        let mut faults = Vec::new();
        for (fault, seconds) in ALL {
            // A third of the faults does not happen at all; the others more or less often.
            let factor = pick(dice, &[0, 0, 1, 2, 4, 8]);
            if factor > 0 {
                faults.push((fault, Duration::from_secs(seconds * factor)));
            }
        }
        let restore = dice.chance(0.15).then(|| {
            let age = Duration::from_secs(pick(dice, &[20, 120, 600]));
            (lasts.mul_f64(0.3 + 0.5 * dice.fraction()), age, dice.chance(0.7))
        });
        Self {
            edges: 1 + dice.below(3),
            replicas: 1 + dice.below(3),
            lasts,
            latency_ms: pick(dice, &[20, 100, 800]),
            api_ms: pick(dice, &[5, 20, 150]),
            lag_ms: pick(dice, &[50, 500, 5_000]),
            disk_ms: pick(dice, &[10, 10, 200]),
            user: Duration::from_secs(pick(dice, &[30, 90, 300])),
            devices: dice
                .chance(0.4)
                .then(|| Duration::from_secs(pick(dice, &[8, 30, 90]))),
            faults,
            restore,
        }
    }
}
