//! Requests of rtnetlink(7), laid out as the kernel reads them.

/// Acknowledge it.
const REQUEST: u16 = 0x01;
const ACKNOWLEDGE: u16 = 0x04;
/// The octets of `nlmsghdr`.
const HEADER: usize = 16;

/// One request: its header, the fixed part of its kind, and its attributes.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0_u32.to_ne_bytes()); // the length, set at the end
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | ACKNOWLEDGE | flags).to_ne_bytes());
        bytes.extend(1_u32.to_ne_bytes()); // sequence number
        bytes.extend(0_u32.to_ne_bytes()); // the kernel fills in the port
        bytes.extend(fixed);
        Self { bytes }
    }

    #[must_use]
    pub(super) fn attribute(mut self, kind: u16, octets: &[u8]) -> Self {
        self.bytes.extend(length16(4 + octets.len()).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(octets)
    }

    /// A name, with the NUL that ends it.
    #[must_use]
    pub(super) fn name(self, kind: u16, name: &str) -> Self {
        self.attribute(kind, &[name.as_bytes(), &[0]].concat())
    }

    /// An attribute that has attributes, behind a fixed part of its own.
    #[must_use]
    pub(super) fn nested(mut self, kind: u16, fixed: &[u8], inner: impl FnOnce(Self) -> Self) -> Self {
        let begin = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        let mut whole = inner(self.raw(fixed));
        let length = length16(whole.bytes.len() - begin);
        if let Some(place) = whole.bytes.get_mut(begin..begin + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        whole
    }

    fn raw(mut self, octets: &[u8]) -> Self {
        self.bytes.extend(octets);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        debug_assert!(self.bytes.len() >= HEADER);
        self.bytes
    }
}

fn length16(octets: usize) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_headers_and_what_is_nested_but_no_padding_at_their_end() {
        let message = Message::new(16, 0x400, &[7; 16])
            .name(3, "eth0")
            .nested(18, &[], |inner| inner.attribute(1, b"veth\0"))
            .finish();
        assert_eq!(message.len(), 16 + 16 + 12 + 4 + 12);
        assert_eq!(message[..4], 60_u32.to_ne_bytes());
        assert_eq!(message[4..8], [16, 0, 5, 4]);
        assert_eq!(message[32..36], [9, 0, 3, 0], "eth0 and its NUL");
        assert_eq!(message[44..48], [16, 0, 18, 0]);
        assert_eq!(message[48..52], [9, 0, 1, 0]);
    }
}
