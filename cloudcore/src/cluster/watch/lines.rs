//! The lines of a watch's body, however the server frames them.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;

/// An object in etcd is at most 1.5 MiB; JSON escapes may double it and more.
const LINE_LIMIT: usize = 16 << 20;

/// The lines of a watch's body, bounded.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line; `None` when the watch is over, whatever the reason.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when dropped between frames.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.cut_line() {
                return Some(line);
            }
            if self.buffer.len() > LINE_LIMIT {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    fn cut_line(&mut self) -> Option<Bytes> {
        let fresh = &self.buffer[self.searched..];
        let Some(end) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end).freeze();
        self.buffer.advance(1);
        self.searched = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_wherever_the_frames_end() {
        let mut lines = Lines::new(Body::from(b"{\"a\":1}\n{\"b\"".to_vec()));
        assert_eq!(lines.next().await.as_deref(), Some(&b"{\"a\":1}"[..]));
        // A torn last line is not an event.
        assert_eq!(lines.next().await, None);
    }
}
