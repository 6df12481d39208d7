//! The addresses that the device has now.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// Whether a network device has this address. Binding to it would not tell: a kernel may be told to let anybody bind
/// to any (`ip_nonlocal_bind`).
pub fn has(address: IpAddr) -> io::Result<bool> {
    let mut all = getifaddrs()?.filter_map(|interface| interface.address);
    Ok(all.any(|found| ip(&found) == Some(address)))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_its_address_and_nobody_has_one_of_documentation() {
        assert!(has("127.0.0.1".parse().unwrap()).unwrap());
        assert!(!has("192.0.2.1".parse().unwrap()).unwrap());
    }
}
