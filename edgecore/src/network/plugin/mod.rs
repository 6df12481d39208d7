//! The network plugin of the default pod network (CNI 1.0): an address, a cable to the bridge, a default route.
//!
//! The runtime starts it for each pod that comes and goes, by the name [`NAME`] in its directory of plugins: a link to
//! this program. It does in one process, with some ten requests to the kernel, what bridge and host-local do in
//! two, and it is made for devices:
//!
//! - Addresses are handed out in memory (`/run`): a boot takes all pods, so it frees all addresses. They are not in the
//!   agent's own directory there, which a service manager may clear while pods run. host-local
//!   keeps them on the disk, where a power cut leaves some that nobody gives back, and wears flash.
//! - A pod's Ethernet address comes from its IP address: nobody has to forget an old neighbour.
//! - The bridge's is fixed too: it does not change with the ports, which is what cuts off pods for as long as they
//!   believe the old one.
//!
//! Published ports are portmap's, which is run where a pod has some. Masquerading is the agent's
//! ([`super::nat`]).
//!
//! **Invariant:** an ADD that fails leaves nothing of its own, and takes nothing from another of the same pod. A DEL can
//! be repeated. The runtime runs no two of them for one pod at once, but what an earlier runtime started may still run:
//! a cable that is made behind a DEL ends with the pod's namespace.
//!
//! `call` reads what is asked, `addresses` hands out addresses, `cable` asks the kernel, `published` runs
//! portmap, `answer` has the words.

mod addresses;
mod answer;
mod cable;
mod call;
mod published;

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;

use addresses::Addresses;
use answer::{PluginError, Pod};
use cable::Host;
use call::{Asked, Call, Command};

/// The plugin's name in the network configuration, and that of the link to this program.
pub const NAME: &str = "tombolo";
/// What the runtime sends is a few kilobytes.
const MOST_INPUT: u64 = 1 << 20;

/// Whether this process was started as the plugin.
pub fn is_called() -> bool {
    let program = std::env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name() == Some(OsStr::new(NAME)) && std::env::var_os("CNI_COMMAND").is_some()
}

/// Does what the environment and standard input ask for, and answers on standard output.
pub fn run() -> ExitCode {
    let (text, code) = match asked().and_then(|asked| serve(&asked)) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (error.answer(), ExitCode::FAILURE),
    };
    // Without a reader there is nobody left to tell.
    let _ = io::stdout().write_all(text.as_bytes());
    code
}

fn asked() -> Result<Asked, PluginError> {
    let mut input = Vec::new();
    let read = io::stdin().take(MOST_INPUT).read_to_end(&mut input);
    read.map_err(|error| PluginError::io("cannot read the network configuration", error))?;
    call::parse(&|name| std::env::var(name).ok(), &input)
}

fn serve(asked: &Asked) -> Result<String, PluginError> {
    match asked {
        Asked::Version => Ok(answer::versions()),
        Asked::Of(call) => match call.command {
            Command::Add => add(call),
            Command::Del => del(call).map(|()| String::new()),
            Command::Check => check(call).map(|()| String::new()),
        },
    }
}

fn add(call: &Call) -> Result<String, PluginError> {
    let addresses = Addresses::at(&call.network.addresses);
    let holder = call.holder();
    let address = addresses.take(call.network.range, &holder.owner, &cable::Kernel)?;
    let added = connect(call, &addresses, address);
    if added.is_err() {
        // The first trouble is the one to tell. The runtime forgets this sandbox and tries with another: an
        // address that is kept for it would never come back.
        let _ = addresses.give_back_one(&holder.names(), address);
    }
    added
}

fn connect(call: &Call, addresses: &Addresses, address: Ipv4Addr) -> Result<String, PluginError> {
    let network = &call.network;
    let pod = Pod {
        address,
        prefix: network.range.prefix(),
        gateway: network.range.first(),
        mac: cable::mac(address),
        bridge: network.bridge.clone(),
        host: call.host_end(),
        device: call.device.clone(),
        namespace: call.namespace()?.to_owned(),
    };
    let host = Host::open()?;
    let plugged = host.plug(&pod)?;
    let result = answer::result(&pod);
    let kept = addresses.keep(&call.holder(), address, &cable::Kernel);
    let connected = kept.and_then(|()| plugged.set_up(&pod)).and_then(|()| {
        if call.publishes() {
            published::add(call, &result)?;
        }
        Ok(result.to_string())
    });
    if connected.is_err() {
        let _ = disconnect(call);
    }
    connected
}

/// The address goes last: nobody gets it while something still leads to it.
fn del(call: &Call) -> Result<(), PluginError> {
    disconnect(call)?;
    Addresses::at(&call.network.addresses).give_back(&call.holder())
}

fn disconnect(call: &Call) -> Result<(), PluginError> {
    let hidden = if call.publishes() {
        published::del(call)
    } else {
        Ok(())
    };
    Host::open()?.disconnect(&call.host_end())?;
    hidden
}

fn check(call: &Call) -> Result<(), PluginError> {
    let addresses = Addresses::at(&call.network.addresses);
    let has_address = addresses.of(&call.holder())?.is_some();
    if has_address && Host::has(&call.host_end()) {
        return Ok(());
    }
    Err(PluginError::NotConnected(call.owner()))
}

#[cfg(test)]
mod tests;
