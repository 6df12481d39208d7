//! The socket at which mappers report, and who may use it.
//!
//! Who can open it can say what every device of the node measured. It is root's and one group's; the file's
//! mode keeps others out, and the peer is asked besides, for a socket that was handed on.

use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use nix::unistd::Uid;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::warn;

use super::accounts::{self, Group, User};
use super::peer;
use super::wire::Lenient;

/// Connections at a time. Existing mappers open one for each report and close it; without a link a report
/// is answered after half a second at most, and a thousand a second may come.
const CONNECTIONS: usize = 1024;

/// Why the socket could not be opened.
#[derive(Debug, Error)]
#[error("mappers cannot report: {} cannot be opened", path.display())]
pub struct SocketError {
    path: PathBuf,
    source: io::Error,
}

/// The bound socket. Dropping it removes the file.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    group: Option<Group>,
}

impl Socket {
    /// Binds the socket, in place of one that a dead process left.
    pub(super) fn bind(path: &Path, group: &str) -> Result<Self, SocketError> {
        let group = find(group);
        match listen(path, group.as_ref()) {
            Ok(listener) => Ok(Self {
                listener,
                path: path.to_owned(),
                group,
            }),
            Err(source) => Err(SocketError {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Connections of those who may, for ever.
    pub(super) fn connections(&self) -> impl Stream<Item = io::Result<Lenient<UnixStream>>> + '_ {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        unfold(places, async move |places| {
            let connection = self.next(&places).await;
            Some((Ok(connection), places))
        })
    }

    async fn next(&self, places: &Arc<Semaphore>) -> Lenient<UnixStream> {
        loop {
            // Whoever comes later waits in the listener's queue.
            let Ok(place) = Arc::clone(places).acquire_owned().await else {
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, _)) if self.admits(&stream) => return Lenient::new(stream, place),
                Ok(_) => warn!("somebody who is no mapper opened the mappers' socket, and was turned away"),
                Err(error) => {
                    warn!(%error, "a mapper's connection was not accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        let Ok(peer) = stream.peer_cred() else {
            return false;
        };
        let user = || accounts::user(peer.uid());
        let groups = || peer::groups("/".as_ref(), peer.pid(), peer.uid());
        admits((peer.uid(), peer.gid()), self.group.as_ref(), user, groups)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Root, edgecore's own user, and whoever is of the group: by its own group, by the account, or because
/// whatever started it (a service's `SupplementaryGroups`) put it there.
fn admits(
    (uid, gid): (u32, u32),
    group: Option<&Group>,
    user: impl FnOnce() -> Option<User>,
    groups: impl FnOnce() -> Vec<u32>,
) -> bool {
    if uid == 0 || uid == Uid::effective().as_raw() {
        return true;
    }
    let Some(group) = group else { return false };
    let of_group = |user: User| user.gid == group.gid || group.members.contains(&user.name);
    gid == group.gid || user().is_some_and(of_group) || groups().contains(&group.gid)
}

fn find(group: &str) -> Option<Group> {
    let found = accounts::group(group);
    if found.is_none() {
        warn!(
            group,
            "there is no such group: only mappers that run as root may report. `groupadd --system` makes it; \
             edgecore must be started again then"
        );
    }
    found
}

fn listen(path: &Path, group: Option<&Group>) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let mode = match group {
        Some(group) => {
            chown(path, None, Some(group.gid))?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: &[&str]) -> Group {
        Group {
            gid: 70_000,
            members: members.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn user(name: &str, gid: u32) -> User {
        User {
            name: name.to_owned(),
            gid,
        }
    }

    #[test]
    fn root_and_the_group_may_report_and_nobody_else() {
        let (stranger, nobody) = (70_001, 65_534);
        let mappers = group(&["modbus"]);
        let of = |ids, group: Option<&Group>, user: Option<User>| admits(ids, group, || user, Vec::new);
        assert!(of((0, nobody), None, None));
        assert!(!of((stranger, nobody), None, Some(user("modbus", 1))));
        assert!(!of((stranger, nobody), Some(&mappers), None));
        assert!(!of((stranger, nobody), Some(&mappers), Some(user("other", 1))));
        assert!(of((stranger, mappers.gid), Some(&mappers), None));
        assert!(of((stranger, nobody), Some(&mappers), Some(user("modbus", 1))));
        assert!(of(
            (stranger, nobody),
            Some(&mappers),
            Some(user("other", 70_000))
        ));
    }

    #[test]
    fn a_group_that_a_service_gives_its_mapper_counts() {
        let mappers = group(&[]);
        let started_with = |groups: &[u32]| {
            let groups = groups.to_vec();
            admits((70_001, 65_534), Some(&mappers), || None, || groups)
        };
        assert!(started_with(&[5, 70_000]));
        assert!(!started_with(&[5]));
    }

    #[tokio::test]
    async fn without_the_group_the_socket_is_roots_alone() {
        let dir = std::env::temp_dir().join(format!("tombolo-dmi-{}", std::process::id()));
        let path = dir.join("deep/dmi.sock");
        let socket = Socket::bind(&path, "tombolo-no-such-group").unwrap();
        drop(Socket::bind(&dir.join("deep/other.sock"), "tombolo-no-such-group").unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
