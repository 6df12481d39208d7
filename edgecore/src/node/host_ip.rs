//! The device's own address, as it was seen last.
//!
//! Whoever looks at the device notes it here; whoever tells pods of it, or asks one on the host network,
//! reads it: a DHCP server may give another at any time.
//! **Invariant:** an address that is gone stays until there is another; nobody can name a better one.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

/// The device's address. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct HostIp(Arc<watch::Sender<Option<IpAddr>>>);

impl HostIp {
    /// Notes the address that the device has now; without a network it has none, and the last one stays.
    pub fn learn(&self, seen: Option<IpAddr>) {
        let is_news = |last: &mut Option<IpAddr>| seen.is_some_and(|seen| last.replace(seen) != Some(seen));
        self.0.send_if_modified(is_news);
    }

    /// The last one that was seen.
    pub fn last(&self) -> Option<IpAddr> {
        *self.0.borrow()
    }

    /// For whoever waits for another one.
    pub fn changes(&self) -> watch::Receiver<Option<IpAddr>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_counts_and_outlives_the_network() {
        let (told, seen) = (HostIp::default(), HostIp::default());
        assert_eq!(told.last(), None);
        let shared = seen.clone();
        for address in [[198, 18, 0, 7], [198, 18, 0, 8]] {
            seen.learn(Some(address.into()));
            assert_eq!(shared.last(), Some(address.into()));
        }
        seen.learn(None);
        assert_eq!(shared.last(), Some([198, 18, 0, 8].into()));
    }
}
