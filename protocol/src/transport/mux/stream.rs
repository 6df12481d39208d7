//! One stream: its halves, its class, and what is to be told about it.

use super::{frame::MuxFrame, recv::Recv, send::Send};
use crate::class::Class;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) class: Class,
    pub(super) recv: Recv,
    pub(super) send: Send,
    /// There is room for what the peer may send on it without asking.
    pub(super) has_base: bool,
    /// The peer does not know of it yet.
    to_open: bool,
}

impl Stream {
    /// One that this end opens.
    pub(super) fn ours(class: Class) -> Self {
        Self::new(Some(class), true)
    }

    /// One that the peer opened. Until it says what it is it counts as the least urgent, and may have on
    /// its way what every stream may.
    pub(super) fn theirs() -> Self {
        Self::new(None, false)
    }

    fn new(class: Option<Class>, to_open: bool) -> Self {
        Self {
            class: class.unwrap_or(Class::Bulk),
            recv: Recv::new(class),
            send: Send::new(),
            has_base: true,
            to_open,
        }
    }

    /// The next frame about the stream itself.
    pub(super) fn tell(&mut self, stream: u32) -> Option<MuxFrame<'static>> {
        if std::mem::take(&mut self.to_open) {
            return Some(MuxFrame::Open { stream });
        }
        if let Some(code) = self.send.take_reset() {
            return Some(MuxFrame::Reset { stream, code });
        }
        if let Some(code) = self.recv.take_stop() {
            return Some(MuxFrame::Stop { stream, code });
        }
        let more = self.recv.take_credit()?;
        Some(MuxFrame::Credit { stream, more })
    }

    /// Nobody has anything more to do with it.
    pub(super) fn is_over(&self) -> bool {
        self.recv.is_over() && self.send.is_over()
    }
}
