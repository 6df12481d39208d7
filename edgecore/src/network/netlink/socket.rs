//! The socket on which the kernel is asked, one request at a time.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::message::Message;

const ERROR: u16 = 2;
/// The kernel answers at once; the time limit is for a kernel that does not.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

/// Asks the kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens one in the namespace of this thread.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        Ok(Self { socket })
    }

    /// Sends one request and reads its acknowledgement.
    pub(super) fn ask(&self, message: Message) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        sendto(fd, &message.finish(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0_u8; 1024];
        let received = recv(fd, &mut answer, MsgFlags::empty())?;
        acknowledged(answer.get(..received).unwrap_or_default())
    }
}

/// An acknowledgement is an error message with the code 0.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is not an acknowledgement",
        )
    };
    let kind = answer
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    let code = answer
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_code_zero_is_a_yes_and_any_other_an_error() {
        let answer = |code: i32| {
            let mut bytes = vec![0_u8; 36];
            bytes[4..6].copy_from_slice(&ERROR.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(0)).is_ok());
        assert_eq!(
            acknowledged(&answer(-1)).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert!(acknowledged(&[]).is_err());
    }
}
