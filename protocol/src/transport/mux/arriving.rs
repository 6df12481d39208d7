//! What the peer says.

use super::{CloseCode, Mux, MuxFrame, Phase, Stream, Violation, Wake};
use crate::name::shown;

impl Mux {
    /// Takes one message of the peer. After a violation the connection is to be closed.
    pub fn handle_frame(&mut self, message: &[u8]) -> Result<(), Violation> {
        let frame = MuxFrame::decode(message)?;
        if !matches!(self.phase, Phase::Open) {
            return Ok(());
        }
        match frame {
            MuxFrame::Open { stream } => self.opened(stream),
            MuxFrame::Data { stream, bytes, last } => self.data(stream, bytes, last),
            MuxFrame::Reset { stream, code } => self.broken_off(stream, code),
            MuxFrame::Stop { stream, code } => self.stopped(stream, code),
            MuxFrame::Credit { stream, more } => self.credited(stream, more),
            MuxFrame::Streams { more } => {
                self.ours.limit = self.ours.limit.saturating_add(more);
                self.wakes.push_back(Wake::Open);
                Ok(())
            }
            MuxFrame::Close { code, reason } => {
                let reason = shown(&String::from_utf8_lossy(reason));
                let code = CloseCode::from(u64::from(code));
                self.closed_by_peer.get_or_insert((code, reason));
                self.phase = Phase::Closed;
                Ok(())
            }
        }
    }

    fn opened(&mut self, id: u32) -> Result<(), Violation> {
        if id != self.theirs.next {
            return Err(Violation::OutOfTurn(id));
        }
        self.theirs.open().ok_or(Violation::TooManyStreams)?;
        let mut stream = Stream::theirs();
        stream.has_base = self.receive.base();
        let has_base = stream.has_base;
        self.streams.insert(id, stream);
        if has_base {
            self.arrivals.push_back(id);
            self.wakes.push_back(Wake::Accept);
        } else {
            self.refuse(id, CloseCode::Busy as u32);
        }
        Ok(())
    }

    /// Breaks off both ways; what still comes is thrown away.
    fn refuse(&mut self, id: u32, code: u32) {
        self.reset(id, code);
        self.release_reader(id, code);
        self.release_writer(id);
    }

    fn data(&mut self, id: u32, bytes: &[u8], last: bool) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.forgotten(id).and(Err(Violation::AfterEnd(id)));
        };
        if stream.recv.data(id, bytes, last)? {
            self.wakes.push_back(Wake::Read(id));
        }
        if last {
            self.granted(id);
            self.retire(id);
        }
        Ok(())
    }

    fn broken_off(&mut self, id: u32, code: u32) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.forgotten(id).and(Err(Violation::AfterEnd(id)));
        };
        if stream.recv.reset(id, code)? {
            self.wakes.push_back(Wake::Read(id));
        }
        self.granted(id);
        self.retire(id);
        Ok(())
    }

    fn stopped(&mut self, id: u32, code: u32) -> Result<(), Violation> {
        if self.streams.contains_key(&id) {
            self.reset(id, code);
            Ok(())
        } else {
            self.forgotten(id)
        }
    }

    fn credited(&mut self, id: u32, more: u32) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.forgotten(id);
        };
        stream.send.credit(more);
        self.queue(id);
        Ok(())
    }

    /// A stream that is no more may still be spoken of; one that never was may not.
    fn forgotten(&self, id: u32) -> Result<(), Violation> {
        let opener = if id % 2 == self.ours.next % 2 {
            &self.ours
        } else {
            &self.theirs
        };
        if id < opener.next {
            Ok(())
        } else {
            Err(Violation::Unknown(id))
        }
    }
}
