//! The kernel's part: the bridge, the cable, and what is set up at its end in the pod.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sched::{CloneFlags, setns};

use super::addresses::Cables;
use super::answer::{PluginError, Pod};
use super::call;
use crate::network::netlink::{Cable, Mac, Netlink};

/// Locally administered, as Kubernetes' networks have it.
const VENDOR: [u8; 2] = [0x0a, 0x58];
/// The same for the cables' ends at the bridge: they say which address is at the other end, wherever else that is lost.
const HOST_VENDOR: [u8; 2] = [0x0a, 0x59];
/// How often the kernel is asked whether a cable is up: for 2.5 s, as the bridge plugin asks.
const LOOKS: usize = 55;
const MOST_PAUSE: Duration = Duration::from_millis(50);
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The Ethernet address that belongs to an IP address.
pub(super) fn mac(address: Ipv4Addr) -> Mac {
    of_vendor(VENDOR, address)
}

fn of_vendor(vendor: [u8; 2], address: Ipv4Addr) -> Mac {
    let mut mac = [0; 6];
    mac[..2].copy_from_slice(&vendor);
    mac[2..].copy_from_slice(&address.octets());
    mac
}

/// What the kernel says of cables. Those of before their ends said the address are not known.
#[derive(Debug)]
pub(super) struct Kernel;

impl Cables for Kernel {
    fn living(&self) -> io::Result<Vec<(Ipv4Addr, String)>> {
        Ok(getifaddrs()?.filter_map(known).collect())
    }

    fn is_gone(&self, cable: &str) -> bool {
        if_nametoindex(cable) == Err(Errno::ENODEV)
    }
}

/// The address at the other end. What somebody put on a cable's end, as a VLAN, has its Ethernet address too, and is
/// no cable.
fn known(end: InterfaceAddress) -> Option<(Ipv4Addr, String)> {
    let mac = end.address?.as_link_addr()?.addr()?;
    let octets: [u8; 4] = mac.strip_prefix(&HOST_VENDOR)?.try_into().ok()?;
    call::is_cable(&end.interface_name).then(|| (octets.into(), end.interface_name))
}

/// The device's own network namespace, in which this process was started.
#[derive(Debug)]
pub(super) struct Host {
    netlink: Netlink,
    namespace: File,
}

impl Host {
    pub(super) fn open() -> Result<Self, PluginError> {
        let opened = || {
            Ok(Self {
                netlink: Netlink::open()?,
                namespace: File::open("/proc/self/ns/net")?,
            })
        };
        opened().map_err(|error: io::Error| PluginError::io("cannot ask the kernel", error))
    }

    /// Gives the pod its cable to the bridge: all of it or, on an error, nothing.
    pub(super) fn plug(&self, pod: &Pod) -> Result<Plugged<'_>, PluginError> {
        let bridge = self.bridge(pod)?;
        let path = &pod.namespace;
        let namespace = File::open(path).map_err(|error| PluginError::Namespace {
            path: path.clone(),
            error,
        })?;
        let cable = Cable {
            host: &pod.host,
            host_mac: of_vendor(HOST_VENDOR, pod.address),
            bridge,
            peer: &pod.device,
            mac: pod.mac,
            namespace: namespace.as_fd(),
        };
        let made = self.netlink.add_cable(&cable);
        made.map_err(|error| {
            // The other thing that may be there is the pod's device.
            if error.kind() == io::ErrorKind::AlreadyExists && Self::has(&pod.host) {
                PluginError::Twice(pod.host.clone())
            } else {
                PluginError::io("cannot connect the pod to the bridge", error)
            }
        })?;
        Ok(Plugged {
            host: self,
            namespace,
        })
    }

    /// The bridge, as it has to be, whatever somebody did to it since the last pod.
    fn bridge(&self, pod: &Pod) -> Result<u32, PluginError> {
        let made = || {
            if if_nametoindex(pod.bridge.as_str()).is_err() {
                self.netlink.add_bridge(&pod.bridge, mac(pod.gateway))?;
                // It is the gateway: pods may not tell it another. A kernel without IPv6 has no such file.
                let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_ra", pod.bridge), "0");
            }
            let bridge = index(&pod.bridge)?;
            self.netlink.add_address(bridge, pod.gateway, pod.prefix)?;
            self.netlink.set_up(bridge)?;
            Ok(bridge)
        };
        let bridge = made().map_err(|error: io::Error| PluginError::Bridge(pod.bridge.clone(), error))?;
        forward()
            .map_err(|error| PluginError::io("cannot let the kernel forward (net.ipv4.ip_forward)", error))?;
        Ok(bridge)
    }

    /// Does something in the pod's namespace, and comes back.
    fn inside(&self, namespace: &File, what: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let done = what();
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
        done
    }

    /// Removes the cable, by its end at the bridge; fine when there is none.
    pub(super) fn disconnect(&self, host_end: &str) -> Result<(), PluginError> {
        let removed = self.netlink.remove(host_end);
        removed.map_err(|error| PluginError::io("cannot disconnect the pod from the bridge", error))
    }

    /// Whether the cable is there.
    pub(super) fn has(host_end: &str) -> bool {
        if_nametoindex(host_end).is_ok()
    }
}

/// A pod with a cable.
#[derive(Debug)]
pub(super) struct Plugged<'a> {
    host: &'a Host,
    namespace: File,
}

impl Plugged<'_> {
    /// Gives the pod its address and its way out.
    pub(super) fn set_up(&self, pod: &Pod) -> Result<(), PluginError> {
        let hairpin = index(&pod.host).and_then(|port| self.host.netlink.set_hairpin(port));
        hairpin.map_err(|error| PluginError::io("cannot let the bridge send back to the pod", error))?;
        self.host
            .inside(&self.namespace, || addressed(pod))
            .map_err(|error| PluginError::io("cannot set up the pod's end of the cable", error))?;
        until_up(&pod.host)
    }
}

/// In the pod's namespace.
fn addressed(pod: &Pod) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let device = index(&pod.device)?;
    netlink.add_address(device, pod.address, pod.prefix)?;
    netlink.set_up(device)?;
    netlink.add_default_route(device, pod.gateway)
}

/// Waits until the bridge forwards what the pod sends: it learns a moment later that the cable is up, and what a pod
/// sends first would be lost.
fn until_up(host_end: &str) -> Result<(), PluginError> {
    let mut pause = Duration::from_millis(1);
    for _ in 0..LOOKS {
        let found = is_up(host_end);
        if found.map_err(|error| PluginError::io("cannot look at the cable", error))? {
            return Ok(());
        }
        sleep(pause);
        pause = MOST_PAUSE.min(2 * pause);
    }
    Err(PluginError::NotUp(host_end.to_owned()))
}

/// `IFF_RUNNING`: the kernel has told the bridge.
fn is_up(device: &str) -> io::Result<bool> {
    let mut found = getifaddrs()?;
    let runs = |found: InterfaceAddress| found.flags.contains(InterfaceFlags::IFF_RUNNING);
    Ok(found.any(|found| found.interface_name == device && runs(found)))
}

fn index(device: &str) -> io::Result<u32> {
    Ok(if_nametoindex(device)?)
}

/// Written only where it is needed: some devices have `/proc/sys` read-only, and well set up.
fn forward() -> io::Result<()> {
    if fs::read_to_string(FORWARD)?.trim() == "0" {
        fs::write(FORWARD, "1")?;
    }
    Ok(())
}
