//! What a peer can make this end hold.

use std::io::{Error, ErrorKind, Read, Result, Write};

use tokio_tungstenite::tungstenite::{
    Error as WsError, Message,
    protocol::{Role, WebSocket},
};

use super::*;

const PINGS: usize = 100_000;
/// The largest ping that there is, as a client sends it: two bytes of header, the mask, and the rest.
const PING: [u8; 131] = {
    let mut ping = [0; 131];
    ping[0] = 0x89;
    ping[1] = 0x80 | 0x7d;
    ping
};

/// A socket whose peer sends pings and reads nothing, until it does.
struct Deaf {
    /// Of all pings, in bytes.
    left: usize,
    reads: bool,
    written: usize,
}

impl Read for Deaf {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let bytes = out.len().min(self.left);
        if bytes == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let from = (PINGS * PING.len() - self.left) % PING.len();
        let endless = PING.iter().cycle().skip(from);
        out.iter_mut().zip(endless).for_each(|(out, byte)| *out = *byte);
        self.left -= bytes;
        Ok(bytes)
    }
}

impl Write for Deaf {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if !self.reads {
            return Err(Error::from(ErrorKind::WouldBlock));
        }
        self.written += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_peer_that_pings_and_does_not_read_fills_no_memory() {
    let deaf = Deaf {
        left: PINGS * PING.len(),
        reads: false,
        written: 0,
    };
    let mut socket = WebSocket::from_raw_socket(deaf, Role::Server, Some(config()));
    for _ in 0..PINGS {
        assert!(matches!(socket.read(), Ok(Message::Ping(_))));
    }
    assert!(matches!(socket.read(), Err(WsError::Io(error)) if error.kind() == ErrorKind::WouldBlock));
    socket.get_mut().reads = true;
    socket.flush().unwrap();
    socket.flush().unwrap();
    let held = socket.get_ref().written;
    // The last answer waits beside the rest.
    assert!(
        held > WRITE_BUFFER && held <= UNSENT + PING.len(),
        "{held} bytes waited"
    );
}
