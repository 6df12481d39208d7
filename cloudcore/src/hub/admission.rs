//! How many connections may be open that nobody has proven to be anybody yet.
//!
//! Behind a proxy that hides sources everybody is one source, so idle connections must not keep out the others
//! of theirs: over the bound the oldest makes room, once it has had the time that an honest handshake takes.
//! Younger ones stay, or a site that comes back at once would push itself out for ever; and so do those whose
//! Hello or request to join is here, for what they wait for then is the API server. That a certificate was shown
//! is not enough: it may be a banned one's.
//!
//! **Invariant:** at most [`TOTAL`] in all and [`PER_SOURCE`] from one source; over the total, the
//! source with the most loses its oldest.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Unproven connections in all.
pub(super) const TOTAL: usize = 1024;
/// Unproven connections of one source. Behind a load balancer that hides sources it is shared,
/// so it leaves room for a whole site that comes back at once.
pub(super) const PER_SOURCE: usize = 256;
/// What a handshake and a greeting take at most over a link that is worth it.
const PATIENCE: Duration = Duration::from_secs(2);
/// From here on QUIC sources must prove that they are where they say.
pub(super) const RETRY_ABOVE: usize = 128;

/// Counts what is not authenticated.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// The oldest first.
    sources: HashMap<IpAddr, VecDeque<Held>>,
    total: usize,
    last: u64,
}

#[derive(Debug)]
struct Held {
    id: u64,
    /// When it came, or had its answer.
    since: Instant,
    /// Whether it has said what it wants, and waits for the answer.
    asked: bool,
    lost: CancellationToken,
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
        let has_room = if mine >= PER_SOURCE {
            open.evict_idle(source)
        } else {
            open.total < TOTAL || open.evict_for(mine)
        };
        if !has_room {
            return None;
        }
        open.last += 1;
        let (id, lost) = (open.last, CancellationToken::new());
        let held = Held {
            id,
            since: Instant::now(),
            asked: false,
            lost: lost.clone(),
        };
        open.sources.entry(source).or_default().push_back(held);
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
        self.evict(source, 0);
        true
    }

    /// Takes the oldest place of a source that waits for its own end, if it was held longer than that takes.
    fn evict_idle(&mut self, source: IpAddr) -> bool {
        let mut places = self.sources.get(&source).into_iter().flatten();
        let idle = places.position(|held| !held.asked && held.since.elapsed() >= PATIENCE);
        if let Some(index) = idle {
            self.evict(source, index);
        }
        idle.is_some()
    }

    fn evict(&mut self, source: IpAddr, index: usize) {
        let taken = self
            .sources
            .get_mut(&source)
            .and_then(|places| places.remove(index));
        if let Some(taken) = taken {
            taken.lost.cancel();
            self.total -= 1;
        }
    }

    fn set_asked(&mut self, source: IpAddr, id: u64, asked: bool) {
        let places = self.sources.get_mut(&source).into_iter().flatten();
        for held in places.filter(|held| held.id == id) {
            (held.asked, held.since) = (asked, Instant::now());
        }
    }

    fn leave(&mut self, source: IpAddr, id: u64) {
        let Some(places) = self.sources.get_mut(&source) else {
            return;
        };
        let before = places.len();
        places.retain(|held| held.id != id);
        self.total -= before - places.len();
        if places.is_empty() {
            self.sources.remove(&source);
        }
    }
}

impl Place {
    /// All that is wanted was said: until the answer it makes no room for others.
    pub(super) fn asked(&self) {
        self.admission.0.lock().set_asked(self.source, self.id, true);
    }

    /// The answer is there, and the other end is to take it.
    pub(super) fn answered(&self) {
        self.admission.0.lock().set_asked(self.source, self.id, false);
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
    use tokio::time::advance;

    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn one_source_has_a_bound_at_which_idle_ones_make_room() {
        let admission = Admission::default();
        let places: Vec<_> = (0..PER_SOURCE).map(|_| admission.enter(v4(1)).unwrap()).collect();
        advance(PATIENCE / 2).await;
        // Those of a site that comes back at once are let finish.
        assert!(admission.enter(v4(1)).is_none());
        let other = admission.enter(v4(2)).unwrap();
        advance(PATIENCE / 2).await;
        let newest = admission.enter(v4(1)).unwrap();
        assert_eq!(admission.len(), PER_SOURCE + 1);
        let lost: Vec<_> = places.iter().map(|place| place.lost.is_cancelled()).collect();
        assert!(lost[0] && !lost[1..].contains(&true) && !newest.lost.is_cancelled());
        drop((places, newest, other));
        assert_eq!(admission.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_makes_no_room_for_others_of_its_source_until_it_has_it() {
        let admission = Admission::default();
        let places: Vec<_> = (0..PER_SOURCE).map(|_| admission.enter(v4(1)).unwrap()).collect();
        places.iter().skip(1).for_each(Place::asked);
        advance(PATIENCE).await;
        let newest = admission.enter(v4(1)).unwrap();
        advance(PATIENCE / 2).await;
        assert!(places[0].lost.is_cancelled() && !places[1].lost.is_cancelled());
        assert!(admission.enter(v4(1)).is_none(), "the newest one is not idle yet");
        places[7].answered();
        advance(PATIENCE / 2).await;
        let other = admission.enter(v4(1)).unwrap();
        assert!(newest.lost.is_cancelled() && !places[7].lost.is_cancelled());
        advance(PATIENCE / 2).await;
        let last = admission.enter(v4(1)).unwrap();
        assert!(places[7].lost.is_cancelled(), "it does not take its answer");
        drop((places, newest, other, last));
        assert_eq!(admission.len(), 0);
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
