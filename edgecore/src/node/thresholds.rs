//! How much of what must be left on a node.
//!
//! Pure. The kubelet's signals and thresholds, under their names; [`shortage`](super::shortage) says what they mean.

use std::fmt;

/// The kubelet's `memory.available`.
const MEMORY: u64 = 100 << 20;
/// One part in so many, where the memory is so small that [`MEMORY`] would be more.
const MEMORY_PART: u64 = 10;
/// The kubelet's `nodefs.available`, in percent.
const DISK_PERCENT: u8 = 10;
/// The kubelet's `nodefs.inodesFree` and `imagefs.inodesFree`, in percent.
const INODES_PERCENT: u8 = 5;
/// The kubelet's `imagefs.available`, in percent.
const IMAGES_PERCENT: u8 = 15;

/// What a node can be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`
    Disk,
    /// `nodefs.inodesFree`
    Inodes,
    /// `imagefs.available`, where images lie on a file system of their own.
    Images,
    /// `imagefs.inodesFree`, the same.
    ImageInodes,
    /// `pid.available`
    Pids,
}

impl Signal {
    /// All of them; memory is looked after first.
    pub const ALL: [Self; 6] = [
        Self::Memory,
        Self::Disk,
        Self::Inodes,
        Self::Images,
        Self::ImageInodes,
        Self::Pids,
    ];

    /// As the kubelet's configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Disk => "nodefs.available",
            Self::Inodes => "nodefs.inodesFree",
            Self::Images => "imagefs.available",
            Self::ImageInodes => "imagefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// The condition of the Node that shows it.
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk | Self::Inodes | Self::Images | Self::ImageInodes => "DiskPressure",
            Self::Pids => "PIDPressure",
        }
    }
}

/// How little may be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// It is not looked at.
    Off,
    /// So much.
    Amount(u64),
    /// So much, but no more than a tenth of what there is: a small device would be short for ever.
    AmountOrTenth(u64),
    /// A part of what there is.
    Percent(u8),
}

impl Threshold {
    /// How much of `capacity` must be left; nothing when it is off.
    pub fn of(self, capacity: u64) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::Amount(amount) => Some(amount),
            Self::AmountOrTenth(amount) => Some(amount.min(capacity / MEMORY_PART)),
            Self::Percent(percent) => Some(part(capacity, percent)),
        }
    }
}

/// As it is written in the configuration.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("0"),
            Self::Amount(amount) | Self::AmountOrTenth(amount) => {
                f.write_str(&super::quantity::bytes(*amount).0)
            }
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// The kubelet multiplies by a percentage in single precision: the same fraction, so that both say the same to
/// the byte.
fn part(capacity: u64, percent: u8) -> u64 {
    const FRACTION_BITS: u32 = 23;
    const BIAS: u32 = 127;
    let bits = (f32::from(percent) / 100.0).to_bits();
    let mantissa = (bits & ((1 << FRACTION_BITS) - 1)) | (1 << FRACTION_BITS);
    let shift = (BIAS + FRACTION_BITS).saturating_sub(bits >> FRACTION_BITS);
    let share = (u128::from(capacity) * u128::from(mantissa)) >> shift.min(127);
    u64::try_from(share).unwrap_or(capacity)
}

/// One value a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSignal<T>([T; Signal::ALL.len()]);

impl<T: Copy> PerSignal<T> {
    /// The same for all.
    pub const fn all(value: T) -> Self {
        Self([value; Signal::ALL.len()])
    }

    /// That of one signal.
    pub const fn get(&self, signal: Signal) -> T {
        self.0[signal as usize]
    }

    /// Sets that of one signal.
    pub const fn set(&mut self, signal: Signal, value: T) {
        self.0[signal as usize] = value;
    }
}

/// The thresholds of a node.
pub type Thresholds = PerSignal<Threshold>;

/// What the kubelet has in `evictionHard` when nothing is said.
impl Default for Thresholds {
    fn default() -> Self {
        let mut thresholds = Self::all(Threshold::Off);
        thresholds.set(Signal::Memory, Threshold::AmountOrTenth(MEMORY));
        thresholds.set(Signal::Disk, Threshold::Percent(DISK_PERCENT));
        thresholds.set(Signal::Inodes, Threshold::Percent(INODES_PERCENT));
        thresholds.set(Signal::Images, Threshold::Percent(IMAGES_PERCENT));
        thresholds.set(Signal::ImageInodes, Threshold::Percent(INODES_PERCENT));
        thresholds
    }
}

#[cfg(test)]
mod tests {
    use super::super::capacity::disk_reserved;
    use super::*;

    #[test]
    fn every_signal_has_a_value_of_its_own() {
        let mut numbers = PerSignal::all(0);
        for (number, signal) in Signal::ALL.into_iter().enumerate() {
            numbers.set(signal, number);
        }
        let read = Signal::ALL.map(|signal| numbers.get(signal));
        assert_eq!(read, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_percentage_is_the_kubelets_to_the_byte() {
        for capacity in [0, 1, 999, 1000, 64 << 30, 62_671_098_880, 1 << 50] {
            let tenth = Threshold::Percent(DISK_PERCENT).of(capacity);
            assert_eq!(tenth, Some(disk_reserved(capacity)));
            assert_eq!(Threshold::Percent(100).of(capacity), Some(capacity));
            assert_eq!(Threshold::Percent(50).of(capacity), Some(capacity / 2));
        }
    }
}
