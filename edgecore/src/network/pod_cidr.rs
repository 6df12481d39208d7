//! The range of the default pod network, and whether routes of the machine overlap it.
//!
//! IPv4 only: that is what the default bridge network hands out.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// An IPv4 network in canonical form: no bit is set behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PodCidr {
    base: Ipv4Addr,
    prefix: u8,
}

/// Text that is no pod range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{text}\" is not a pod range ({why}): write an IPv4 network such as 10.86.0.0/16")]
pub struct InvalidPodCidr {
    text: String,
    why: &'static str,
}

impl PodCidr {
    /// Outside the ranges that kubeadm, k3s, flannel, Docker and home routers use.
    pub const DEFAULT: Self = Self {
        base: Ipv4Addr::new(10, 86, 0, 0),
        prefix: 16,
    };

    /// A network of `prefix` bits around `addr`; bits behind the prefix are dropped.
    pub fn around(addr: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            base: Ipv4Addr::from(u32::from(addr) & mask(prefix)),
            prefix,
        }
    }

    /// The bits that its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The first address that something may have: the gateway's.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | 1)
    }

    /// The last address, to which broadcasts go.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | !mask(self.prefix))
    }

    /// Whether an address belongs to both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        u32::from(self.base) & shorter == u32::from(other.base) & shorter
    }

    /// Whether this is the default route, which overlaps everything and means nothing.
    pub fn is_everything(&self) -> bool {
        self.prefix == 0
    }
}

impl FromStr for PodCidr {
    type Err = InvalidPodCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|why| InvalidPodCidr {
            text: text.to_owned(),
            why,
        })
    }
}

impl fmt::Display for PodCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

fn parse(text: &str) -> Result<PodCidr, &'static str> {
    let (addr, prefix) = text.split_once('/').ok_or("the prefix length is missing")?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| "the address is not IPv4")?;
    let prefix: u8 = prefix.parse().map_err(|_| "the prefix length is not a number")?;
    if !(8..=28).contains(&prefix) {
        return Err("the prefix length must be from 8 to 28");
    }
    let cidr = PodCidr::around(addr, prefix);
    if cidr.base != addr {
        return Err("bits are set behind the prefix");
    }
    if addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() {
        return Err("the range is reserved");
    }
    Ok(cidr)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> PodCidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_overlap_when_one_contains_the_other() {
        assert!(cidr("10.86.0.0/16").overlaps(&cidr("10.86.4.0/24")));
        assert!(cidr("10.86.4.0/24").overlaps(&cidr("10.86.0.0/16")));
        assert!(cidr("10.0.0.0/8").overlaps(&PodCidr::DEFAULT));
        assert!(!cidr("10.87.0.0/16").overlaps(&PodCidr::DEFAULT));
    }

    #[test]
    fn the_default_range_reads_back_from_its_text() {
        assert_eq!(cidr(&PodCidr::DEFAULT.to_string()), PodCidr::DEFAULT);
    }

    #[test]
    fn what_is_wrong_with_a_range_is_named() {
        for (text, why) in [
            ("10.86.0.0", "the prefix length is missing"),
            ("10.86.0.1/16", "bits are set behind the prefix"),
            ("10.86.0.0/30", "the prefix length must be from 8 to 28"),
            ("fd00::/64", "the address is not IPv4"),
            ("127.0.0.0/8", "the range is reserved"),
        ] {
            assert_eq!(text.parse::<PodCidr>().unwrap_err().why, why, "{text}");
        }
    }
}
