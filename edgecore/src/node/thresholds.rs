//! Below how much that is left the node is short of something, and pods are evicted.
//!
//! Pure. The kubelet's hard thresholds, under their names; what they say of a load is the same for the Node's
//! conditions and for the eviction of pods, so that no pod is evicted for a pressure that the Node does not show.

use std::fmt;

use super::{Disk, Load};

/// The kubelet's `memory.available`.
const MEMORY: u64 = 100 << 20;
/// One part in so many, where the memory is so small that [`MEMORY`] would be more.
const MEMORY_PART: u64 = 10;
/// The kubelet's `nodefs.available`, in percent.
const DISK_PERCENT: u8 = 10;
/// The kubelet's `nodefs.inodesFree`, in percent.
const INODES_PERCENT: u8 = 5;

/// What a node can be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`
    Disk,
    /// `nodefs.inodesFree`
    Inodes,
}

impl Signal {
    /// All of them; memory is looked after first.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Inodes];

    /// As the kubelet's configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Disk => "nodefs.available",
            Self::Inodes => "nodefs.inodesFree",
        }
    }

    /// The condition of the Node that shows it.
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk | Self::Inodes => "DiskPressure",
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

/// The thresholds of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Of memory, in bytes.
    pub memory: Threshold,
    /// Of the file system of the pods, in bytes.
    pub disk: Threshold,
    /// Of its inodes.
    pub inodes: Threshold,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory: Threshold::AmountOrTenth(MEMORY),
            disk: Threshold::Percent(DISK_PERCENT),
            inodes: Threshold::Percent(INODES_PERCENT),
        }
    }
}

/// There is less left than there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub signal: Signal,
    /// How much must be left.
    pub threshold: u64,
    /// How much is left.
    pub available: u64,
}

impl Thresholds {
    /// The threshold of a signal.
    pub fn get(&self, signal: Signal) -> Threshold {
        match signal {
            Signal::Memory => self.memory,
            Signal::Disk => self.disk,
            Signal::Inodes => self.inodes,
        }
    }

    /// Sets the threshold of a signal.
    pub fn set(&mut self, signal: Signal, threshold: Threshold) {
        match signal {
            Signal::Memory => self.memory = threshold,
            Signal::Disk => self.disk = threshold,
            Signal::Inodes => self.inodes = threshold,
        }
    }

    /// What the node is short of, memory first. What could not be read is not short.
    pub fn shortages(&self, memory_capacity: u64, load: &Load) -> Vec<Shortage> {
        let disk = load.disk;
        let seen = |signal| match signal {
            Signal::Memory => Some((load.memory_available, memory_capacity)),
            Signal::Disk => disk.map(
                |Disk {
                     bytes_free, bytes, ..
                 }| (bytes_free, bytes),
            ),
            Signal::Inodes => disk.map(
                |Disk {
                     inodes_free, inodes, ..
                 }| (inodes_free, inodes),
            ),
        };
        let short = |signal| {
            let (available, capacity) = seen(signal)?;
            let threshold = self.get(signal).of(capacity)?;
            (available < threshold).then_some(Shortage {
                signal,
                threshold,
                available,
            })
        };
        Signal::ALL.into_iter().filter_map(short).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::capacity::disk_reserved;
    use super::*;

    fn load(memory_available: u64, bytes_free: u64, inodes_free: u64) -> Load {
        Load {
            memory_available,
            disk: Some(Disk {
                bytes: 1000,
                bytes_free,
                inodes: 100,
                inodes_free,
            }),
            ..Load::default()
        }
    }

    fn signals(thresholds: &Thresholds, load: &Load) -> Vec<Signal> {
        let shortages = thresholds.shortages(8 << 30, load);
        shortages.iter().map(|shortage| shortage.signal).collect()
    }

    #[test]
    fn a_node_is_short_of_what_is_below_the_kubelets_thresholds() {
        let defaults = Thresholds::default();
        assert_eq!(signals(&defaults, &load(100 << 20, 100, 5)), []);
        assert_eq!(
            signals(&defaults, &load((100 << 20) - 1, 99, 4)),
            [Signal::Memory, Signal::Disk, Signal::Inodes]
        );
        let mut unread = load(u64::MAX, 0, 0);
        unread.disk = None;
        assert_eq!(signals(&defaults, &unread), []);
    }

    #[test]
    fn a_small_device_may_use_nine_tenths_of_its_memory() {
        let short = |available| {
            let load = load(available, 1000, 100);
            !Thresholds::default().shortages(256 << 20, &load).is_empty()
        };
        assert!(short(25 << 20) && !short(26 << 20));
    }

    #[test]
    fn a_file_system_without_a_limit_of_inodes_is_never_short_of_them() {
        let mut load = load(u64::MAX, 1000, 0);
        load.disk = load.disk.map(|disk| Disk { inodes: 0, ..disk });
        assert_eq!(signals(&Thresholds::default(), &load), []);
    }

    #[test]
    fn a_signal_that_is_off_is_not_looked_at() {
        let mut thresholds = Thresholds::default();
        for signal in Signal::ALL {
            thresholds.set(signal, Threshold::Off);
        }
        assert_eq!(signals(&thresholds, &load(0, 0, 0)), []);
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
