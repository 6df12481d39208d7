//! How many files a replica may have open: as many as its pod allows.
//!
//! Each edge over TCP, each tunnel and each connection to the API server is a file. Container runtimes start programs
//! with a low soft limit (containerd 2: 1,024) and a high hard one, for those that still use `select`; whoever does
//! not is to raise it.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tracing::warn;

/// What 10,000 edges over TCP with a few tunnels each need.
const ENOUGH: rlim_t = 65_536;

/// Raises the soft limit to the hard one, and warns of what is little even so.
pub(crate) fn raise() {
    match raised() {
        Ok(most) if most < ENOUGH => warn!(
            most,
            "few files may be open: each edge over TCP and each tunnel takes one. \
             Raise the hard limit of open files to {ENOUGH} (LimitNOFILE of the node's container runtime)"
        ),
        Ok(_) => {}
        Err(error) => warn!(%error, "the limit of open files could not be raised"),
    }
}

/// The limit from now on.
fn raised() -> Result<rlim_t, Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
