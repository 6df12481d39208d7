//! Which of the connections that arrive are carried.
//!
//! The cluster IP is one of the device's own addresses: a neighbour on its network who adds a route reaches it, too. Only
//! this device's pods and the device itself are meant. Where the pods' range is not known, because their network is not
//! ours, anybody may come. One address can never take everything: a pod that forgets to close its connections
//! is refused before the others are.
//!
//! **Invariant:** at most [`MAX_CONNECTIONS`] are open, and of each address no more than is its share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;

use super::super::pod_cidr::PodCidr;

/// Of the 256 tunnels that a node may have, those that pods may hold; the rest stays for
/// `kubectl logs` and `exec`.
pub const MAX_CONNECTIONS: usize = 192;
/// Of them, those of one pod.
const MAX_OF_POD: usize = 64;
/// Of them, those of an address of the device: all pods on its network have it, and so have all others where their
/// network hides them behind it.
const MAX_OF_DEVICE: usize = 128;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The device's own.
    Device,
    /// A pod's, or perhaps one.
    Pod,
    /// Neither.
    Stranger,
}

/// Why a connection is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum NotAdmitted {
    /// It comes from another machine.
    #[error("the address is neither this device's nor one of its pods'")]
    Stranger,
    /// Its address has its share.
    #[error("it holds {0} connections to the API server")]
    Share(usize),
    /// All pods together have theirs.
    #[error("pods hold {MAX_CONNECTIONS} connections to the API server")]
    All,
}

/// Whose `address` is, where pods have addresses of the range `pods`, or of one that is not known.
pub(super) fn origin(address: IpAddr, pods: Option<PodCidr>, is_own: impl FnOnce() -> bool) -> Origin {
    match (address.to_canonical(), pods) {
        (IpAddr::V4(v4), Some(range)) if range.overlaps(&PodCidr::around(v4, 32)) => Origin::Pod,
        _ if is_own() => Origin::Device,
        (IpAddr::V4(_), Some(_)) => Origin::Stranger,
        // The range is one of IPv4, and says nothing of this one.
        (IpAddr::V6(_), Some(_)) | (_, None) => Origin::Pod,
    }
}

/// Whether one more is carried while `of_address` are open of its address and `all` of all.
pub(super) const fn judge(origin: Origin, of_address: usize, all: usize) -> Result<(), NotAdmitted> {
    let share = match origin {
        Origin::Stranger => return Err(NotAdmitted::Stranger),
        Origin::Device => MAX_OF_DEVICE,
        Origin::Pod => MAX_OF_POD,
    };
    if of_address >= share {
        return Err(NotAdmitted::Share(share));
    }
    if all >= MAX_CONNECTIONS {
        return Err(NotAdmitted::All);
    }
    Ok(())
}

/// Who holds how many.
#[derive(Debug, Default)]
pub(super) struct Room {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Room {
    /// A place for a connection from there.
    pub(super) fn admit(&self, from: IpAddr, origin: Origin) -> Result<Place, NotAdmitted> {
        let mut open = self.open.lock();
        let of_address = open.get(&from).copied().unwrap_or_default();
        judge(origin, of_address, open.values().sum())?;
        open.insert(from, of_address + 1);
        drop(open);
        Ok(Place {
            open: Arc::clone(&self.open),
            from,
        })
    }
}

/// A connection's place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        let left = open.get(&self.from).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            open.remove(&self.from);
        } else {
            open.insert(self.from, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn pods_and_the_device_itself_are_meant_and_no_neighbour_where_the_range_is_known() {
        let range = "10.86.0.0/16".parse().ok();
        let own = |address: &'static str| move || ["10.96.0.1", "192.168.1.5", "fd00::5"].contains(&address);
        for (address, known, unknown) in [
            ("10.86.3.4", Origin::Pod, Origin::Pod),
            ("::ffff:10.86.3.4", Origin::Pod, Origin::Pod),
            ("10.96.0.1", Origin::Device, Origin::Device),
            ("192.168.1.5", Origin::Device, Origin::Device),
            ("fd00::5", Origin::Device, Origin::Device),
            ("192.168.1.6", Origin::Stranger, Origin::Pod),
            ("10.87.0.1", Origin::Stranger, Origin::Pod),
            ("fd00::6", Origin::Pod, Origin::Pod),
        ] {
            assert_eq!(origin(ip(address), range, own(address)), known, "{address}");
            assert_eq!(
                origin(ip(address), None, own(address)),
                unknown,
                "{address}, foreign network"
            );
        }
    }

    #[test]
    fn a_share_is_an_address_s_and_the_sum_is_everybody_s() {
        assert_eq!(judge(Origin::Stranger, 0, 0), Err(NotAdmitted::Stranger));
        for (origin, share) in [(Origin::Pod, MAX_OF_POD), (Origin::Device, MAX_OF_DEVICE)] {
            assert_eq!(judge(origin, share - 1, share - 1), Ok(()));
            assert_eq!(judge(origin, share, share), Err(NotAdmitted::Share(share)));
            assert_eq!(judge(origin, 0, MAX_CONNECTIONS - 1), Ok(()));
            assert_eq!(judge(origin, 0, MAX_CONNECTIONS), Err(NotAdmitted::All));
        }
    }

    #[test]
    fn a_place_is_free_again_and_nobody_is_remembered() {
        let room = Room::default();
        let (pod, other) = (ip("10.86.0.2"), ip("10.86.0.3"));
        let mut places: Vec<_> = (0..MAX_OF_POD)
            .map(|_| room.admit(pod, Origin::Pod).unwrap())
            .collect();
        assert_eq!(
            room.admit(pod, Origin::Pod).unwrap_err(),
            NotAdmitted::Share(MAX_OF_POD)
        );
        let _others = room.admit(other, Origin::Pod).unwrap();
        places.pop();
        places.push(room.admit(pod, Origin::Pod).unwrap());
        drop(places);
        assert_eq!(room.open.lock().len(), 1);
    }
}
