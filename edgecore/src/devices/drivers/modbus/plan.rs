//! Which reads serve all properties behind one endpoint. Pure.
//!
//! Properties of one unit, table and cycle that lie near each other are read at once: a request costs
//! a bus more than eight registers that nobody asked for.

use std::time::Duration;

use protocol::devices::DeviceName;

use super::config::{Property, Table};

/// The most registers of one read.
const REGISTERS: u16 = 125;
/// The most coils or inputs of one read.
const COILS: u16 = 2000;
/// How many that nobody asked for may lie between two of one read.
const GAP: u16 = 8;

/// One read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Read {
    /// The unit.
    pub(crate) unit: u8,
    /// The table.
    pub(crate) table: Table,
    /// The first address.
    pub(crate) address: u16,
    /// How many.
    pub(crate) count: u16,
    /// How often.
    pub(crate) cycle: Duration,
    /// What it is for.
    pub(crate) members: Vec<Member>,
}

/// One property in a read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// The device.
    pub(crate) device: DeviceName,
    /// The property.
    pub(crate) property: String,
    /// Where it is.
    pub(crate) at: Property,
}

/// The reads that serve these properties of units.
pub(crate) fn plan(wanted: impl IntoIterator<Item = (u8, Member)>) -> Vec<Read> {
    let mut singles: Vec<Read> = wanted
        .into_iter()
        .map(|(unit, member)| single(unit, member))
        .collect();
    singles.sort_by_key(|read| (read.unit, read.table, read.cycle, read.address, read.count));
    let mut reads: Vec<Read> = Vec::new();
    for next in singles {
        match reads.last_mut().filter(|last| joins(last, &next)) {
            Some(last) => {
                last.count = last.count.max(next.address + next.count - last.address);
                last.members.extend(next.members);
            }
            None => reads.push(next),
        }
    }
    reads
}

/// A read that was refused, as one for each property: the gap, or one of them, may be what the device
/// does not have.
pub(crate) fn apart(read: &Read) -> Vec<Read> {
    let members = read.members.iter().cloned();
    members.map(|member| single(read.unit, member)).collect()
}

fn single(unit: u8, member: Member) -> Read {
    Read {
        unit,
        table: member.at.table,
        address: member.at.address,
        count: member.at.layout.kind.width(),
        cycle: member.at.cycle,
        members: vec![member],
    }
}

fn joins(last: &Read, next: &Read) -> bool {
    let same = (last.unit, last.table, last.cycle) == (next.unit, next.table, next.cycle);
    let both = last
        .members
        .iter()
        .chain(&next.members)
        .all(|member| member.at.merge);
    let end = u32::from(last.address) + u32::from(last.count);
    let near = u32::from(next.address) <= end + u32::from(GAP);
    let most = if last.table.is_bits() { COILS } else { REGISTERS };
    let count = (u32::from(next.address) + u32::from(next.count)).max(end) - u32::from(last.address);
    same && both && near && count <= u32::from(most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::{Kind, Layout};
    use super::*;
    use crate::devices::drivers::writing::Manner;

    fn member(table: Table, address: u16, kind: Kind) -> Member {
        Member {
            device: DeviceName::new("hall", "meter"),
            property: format!("{table:?}{address}"),
            at: Property {
                table,
                address,
                layout: Layout {
                    kind,
                    scale: 1.0,
                    swap_bytes: false,
                    swap_words: false,
                    numeric: false,
                },
                cycle: Duration::from_secs(1),
                merge: true,
                write: None,
                manner: Manner {
                    confirm_timeout: Duration::from_secs(30),
                    enforce: false,
                },
            },
        }
    }

    fn spans(members: Vec<(u8, Member)>) -> Vec<(u8, Table, u16, u16)> {
        let span = |read: Read| (read.unit, read.table, read.address, read.count);
        plan(members).into_iter().map(span).collect()
    }

    #[test]
    fn near_ones_are_read_at_once_and_a_wider_gap_divides() {
        let holding = |address, kind| (1, member(Table::Holding, address, kind));
        assert_eq!(
            spans(vec![
                holding(12, Kind::Float(2)),
                holding(0, Kind::Unsigned(2)),
                holding(10, Kind::Unsigned(1)),
                holding(23, Kind::Unsigned(1)),
            ]),
            [(1, Table::Holding, 0, 14), (1, Table::Holding, 23, 1)]
        );
    }

    #[test]
    fn units_tables_and_cycles_are_never_mixed() {
        let mut slow = member(Table::Holding, 1, Kind::Unsigned(1));
        slow.at.cycle = Duration::from_mins(1);
        assert_eq!(
            spans(vec![
                (1, member(Table::Holding, 0, Kind::Unsigned(1))),
                (2, member(Table::Holding, 1, Kind::Unsigned(1))),
                (1, member(Table::Input, 1, Kind::Unsigned(1))),
                (1, slow),
            ])
            .len(),
            4
        );
    }

    #[test]
    fn a_property_that_must_not_be_merged_is_read_alone() {
        let mut alone = member(Table::Holding, 1, Kind::Unsigned(1));
        alone.at.merge = false;
        let holding = |address| (1, member(Table::Holding, address, Kind::Unsigned(1)));
        assert_eq!(spans(vec![holding(0), (1, alone), holding(2)]).len(), 3);
    }

    proptest! {
        #[test]
        fn every_property_is_in_exactly_one_read_that_covers_it(
            addresses in prop::collection::vec((0u16..=65_535, 1u8..=4, any::<bool>()), 1..80),
        ) {
            let members: Vec<_> = addresses
                .into_iter()
                .map(|(address, width, bits)| {
                    let kind = if bits { Kind::Switch } else { Kind::Text(u16::from(width)) };
                    let table = if bits { Table::Coil } else { Table::Holding };
                    (1, member(table, address.min(65_535 - 4), kind))
                })
                .collect();
            let reads = plan(members.clone());
            prop_assert_eq!(reads.iter().map(|read| read.members.len()).sum::<usize>(), members.len());
            for read in &reads {
                let most = if read.table.is_bits() { COILS } else { REGISTERS };
                prop_assert!(read.count <= most);
                for member in &read.members {
                    prop_assert!(member.at.address >= read.address);
                    let end = u32::from(member.at.address) + u32::from(member.at.layout.kind.width());
                    prop_assert!(end <= u32::from(read.address) + u32::from(read.count));
                }
            }
        }
    }

    #[test]
    fn a_refused_read_falls_apart() {
        let reads = plan([
            (1, member(Table::Holding, 0, Kind::Unsigned(1))),
            (1, member(Table::Holding, 5, Kind::Unsigned(1))),
        ]);
        assert_eq!(reads.len(), 1);
        let apart = apart(&reads[0]);
        assert_eq!(
            apart
                .iter()
                .map(|read| (read.address, read.count))
                .collect::<Vec<_>>(),
            [(0, 1), (5, 1)]
        );
    }
}
