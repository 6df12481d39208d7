//! What the log says of pods' connections that cloudcore did not take.
//!
//! A pod tries again at once and for ever, and sees no more of it than that its connection was closed: only here can
//! be read why. That the link is down is said by the link.
//!
//! **Invariant:** in any minute at most [`MOST`] lines, and one of each address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two lines about one address.
const AGAIN: Duration = Duration::from_mins(1);
/// Addresses that are told of in that time.
const MOST: usize = 10;

/// The pod that has an address, as `namespace/name`.
pub type Whose = Arc<dyn Fn(IpAddr) -> Option<String> + Send + Sync>;

/// Who was told of when.
pub(super) struct Refusals {
    whose: Whose,
    told: Mutex<HashMap<IpAddr, Instant>>,
}

impl Refusals {
    pub(super) fn new(whose: Whose) -> Self {
        Self {
            whose,
            told: Mutex::default(),
        }
    }

    /// Whose connection it was, if the log may tell of it now.
    pub(super) fn tell(&self, from: SocketAddr, now: Instant) -> Option<String> {
        let address = from.ip();
        let mut told = self.told.lock();
        told.retain(|_, at| now < *at + AGAIN);
        if told.len() >= MOST || told.contains_key(&address) {
            return None;
        }
        told.insert(address, now);
        drop(told);
        let unknown = || "of the host's network, or none of this node".to_owned();
        Some((self.whose)(address).unwrap_or_else(unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 86, 0, last], port))
    }

    fn refusals() -> Refusals {
        Refusals::new(Arc::new(|address| {
            (address == from(3, 0).ip()).then(|| "shop/web".to_owned())
        }))
    }

    #[test]
    fn a_refused_pod_is_named_once_a_minute_from_whatever_port_it_tries() {
        let (refusals, now) = (refusals(), Instant::now());
        assert_eq!(refusals.tell(from(3, 40_000), now).as_deref(), Some("shop/web"));
        for port in 40_001..41_000 {
            assert_eq!(refusals.tell(from(3, port), now), None);
        }
        let other = refusals.tell(from(4, 40_000), now).unwrap();
        assert!(other.contains("host's network"), "{other}");
        assert!(refusals.tell(from(3, 40_000), now + AGAIN).is_some());
    }

    #[test]
    fn of_many_pods_some_are_named_and_few_are_remembered() {
        let (refusals, now) = (refusals(), Instant::now());
        let named = (0..=255).filter(|last| refusals.tell(from(*last, 1), now).is_some());
        assert_eq!((named.count(), refusals.told.lock().len()), (MOST, MOST));
        assert!(refusals.tell(from(255, 1), now + AGAIN).is_some());
        assert_eq!(refusals.told.lock().len(), 1);
    }
}
