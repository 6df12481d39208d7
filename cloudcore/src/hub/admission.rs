//! How many connections may be open that nobody has proven to be anybody yet.
//!
//! **Invariant:** at most [`TOTAL`] in all and [`PER_SOURCE`] from one source; over the total, the
//! source with the most loses its oldest.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Unproven connections in all.
pub(super) const TOTAL: usize = 1024;
/// Unproven connections of one source. Behind a load balancer that hides sources it is shared,
/// so it leaves room for a whole site that comes back at once.
pub(super) const PER_SOURCE: usize = 256;
/// From here on QUIC sources must prove that they are where they say.
pub(super) const RETRY_ABOVE: usize = 128;

/// Counts what is not authenticated.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    sources: HashMap<IpAddr, VecDeque<(u64, CancellationToken)>>,
    total: usize,
    last: u64,
}

/// A place among the unproven, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Admission,
    source: IpAddr,
    id: u64,
    /// Fires when another needs the place more.
    pub(super) lost: CancellationToken,
}

impl Admission {
    /// A place, or none.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let source = prefix(address);
        let mut open = self.0.lock();
        let mine = open.sources.get(&source).map_or(0, VecDeque::len);
        if mine >= PER_SOURCE || (open.total >= TOTAL && !open.evict_for(mine)) {
            return None;
        }
        open.last += 1;
        let (id, lost) = (open.last, CancellationToken::new());
        open.sources
            .entry(source)
            .or_default()
            .push_back((id, lost.clone()));
        open.total += 1;
        Some(Place {
            admission: self.clone(),
            source,
            id,
            lost,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().total
    }
}

impl Open {
    /// Takes the oldest place of the source with the most, if that has more than the newcomer's.
    fn evict_for(&mut self, newcomers: usize) -> bool {
        let most = self.sources.iter().max_by_key(|(_, places)| places.len());
        let Some((&source, _)) = most.filter(|(_, places)| places.len() > newcomers) else {
            return false;
        };
        let oldest = self.sources.get_mut(&source).and_then(VecDeque::pop_front);
        if let Some((_, lost)) = oldest {
            lost.cancel();
            self.total -= 1;
        }
        true
    }

    fn leave(&mut self, source: IpAddr, id: u64) {
        let Some(places) = self.sources.get_mut(&source) else {
            return;
        };
        let before = places.len();
        places.retain(|(other, _)| *other != id);
        self.total -= before - places.len();
        if places.is_empty() {
            self.sources.remove(&source);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.0.lock().leave(self.source, self.id);
    }
}

/// One IPv4 address, or one IPv6 network: a host commands all of its /64.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_source_has_a_bound_and_leaves_room_for_others() {
        let admission = Admission::default();
        let places: Vec<_> = (0..PER_SOURCE).map(|_| admission.enter(v4(1)).unwrap()).collect();
        assert!(admission.enter(v4(1)).is_none());
        assert!(admission.enter(v4(2)).is_some());
        drop(places);
        assert_eq!(admission.len(), 0);
        assert!(admission.enter(v4(1)).is_some());
    }

    #[test]
    fn over_the_total_the_source_with_the_most_loses_its_oldest() {
        let admission = Admission::default();
        let mut places = Vec::new();
        let mut source = 0;
        while admission.len() < TOTAL {
            source += 1;
            for _ in 0..PER_SOURCE.min(TOTAL - admission.len()) - usize::from(source == 1) {
                places.push(admission.enter(v4(source)).unwrap());
            }
        }
        let honest = admission.enter(v4(200)).unwrap();
        assert_eq!(admission.len(), TOTAL);
        assert_eq!(places.iter().filter(|place| place.lost.is_cancelled()).count(), 1);
        assert!(!places[0].lost.is_cancelled() && !honest.lost.is_cancelled());
        drop((places, honest));
        assert_eq!(admission.len(), 0);
        assert!(admission.0.lock().sources.is_empty());
    }

    #[test]
    fn a_whole_ipv6_network_counts_as_one_source() {
        let (a, b) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::ffff:2".parse().unwrap(),
        );
        assert_eq!(prefix(a), prefix(b));
        assert_ne!(prefix(a), prefix("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(prefix("::ffff:192.0.2.1".parse().unwrap()), v4(1));
    }
}
