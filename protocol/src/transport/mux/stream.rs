//! One stream: its halves, its class, and what is to be told about it.

use super::{credit::Pools, frame::MuxFrame, recv::Recv, send::Send};
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
    pub(super) fn new(class: Class, to_open: bool) -> Self {
        Self {
            class,
            recv: Recv::new(class),
            send: Send::new(),
            has_base: true,
            to_open,
        }
    }

    /// Moves what the stream holds to the pools of its class.
    pub(super) fn reclassify(&mut self, class: Class, receive: &mut Pools, send: &mut Pools) {
        self.recv.moved(self.class, class, receive);
        self.send.moved(self.class, class, send);
        self.class = class;
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
