//! Lets mappers in that name the socket's path as `:authority`. Pure.
//!
//! grpc-go and others send the path, percent-encoded, where HTTP/2 wants a host; h2 refuses such a request
//! before any handler sees it, and has no setting against that. On a unix socket the field says nothing
//! anyway. So the bytes of a client pass through a [`Rewriter`], which puts one letter in its place.
//!
//! Header blocks are neither decoded nor encoded anew: HPACK fields are delimited by lengths, so a
//! field is found and its value replaced while the rest is copied. Both ends' tables stay in step because
//! the new value is never longer than the old one: the server evicts an entry at the same time as the
//! client or later, and entries are counted from the newest.
//!
//! ```text
//! preface │ frame │ HEADERS, CONTINUATION ... │ frame          as the client sends them
//!    │        │          └► collected, one field changed ► HEADERS
//!    └────────┴─────────────────────────────────────────► as they are, never held back
//! ```
//!
//! **Invariant:** what cannot be read as a header block goes on as it came: h2 judges it, not this file.

use bytes::{BufMut as _, BytesMut};
use thiserror::Error;

/// What stands at the beginning of every connection: `PRI * HTTP/2.0` and what belongs to it.
const PREFACE: usize = 24;
/// A frame's length, type, flags and stream.
const HEAD: usize = 9;
/// The largest frame that h2 takes unless it says otherwise, which here it does not.
const MAX_FRAME: usize = 16_384;
/// The largest header block; a mapper's has some hundred bytes.
const MAX_BLOCK: usize = MAX_FRAME - PRIORITY_BYTES;
const PRIORITY_BYTES: usize = 5;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY: &[u8] = b":authority";
/// The same in HPACK's Huffman code.
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// A string of one byte, not in Huffman code.
const INSTEAD: [u8; 2] = [1, b'd'];

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Unreadable {
    /// More header bytes than any mapper sends.
    #[error("a header block is larger than {MAX_BLOCK} bytes")]
    TooLarge,
    /// Frames in an order that HTTP/2 forbids, or padding longer than its frame.
    #[error("the frames of a header block do not fit together")]
    Torn,
}

/// Replaces `:authority` in one client's bytes.
pub(super) struct Rewriter {
    place: Place,
    /// The header block whose last frame has not come yet.
    open: Option<Block>,
}

/// Where in the stream of bytes the client is.
enum Place {
    /// So many bytes go on as they are.
    Through(usize),
    /// In the head of a frame.
    Head(Vec<u8>),
    /// In the payload of a frame that belongs to a header block.
    Payload { head: Head, bytes: Vec<u8> },
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

struct Block {
    flags: u8,
    stream: [u8; 4],
    priority: Vec<u8>,
    fields: Vec<u8>,
}

impl Rewriter {
    /// At the beginning of a connection.
    pub(super) const fn new() -> Self {
        Self {
            place: Place::Through(PREFACE),
            open: None,
        }
    }

    /// Takes what the client sent; adds what the server is to see.
    pub(super) fn feed(&mut self, mut input: &[u8], out: &mut BytesMut) -> Result<(), Unreadable> {
        while !input.is_empty() {
            match &mut self.place {
                Place::Through(left) => {
                    let taken = take(&mut input, *left);
                    out.put_slice(taken);
                    *left -= taken.len();
                    if *left == 0 {
                        self.place = Place::Head(Vec::with_capacity(HEAD));
                    }
                }
                Place::Head(bytes) => {
                    let wanted = HEAD - bytes.len();
                    bytes.extend_from_slice(take(&mut input, wanted));
                    if let Ok(whole) = <[u8; HEAD]>::try_from(bytes.as_slice()) {
                        self.begin(whole, out)?;
                    }
                }
                Place::Payload { head, bytes } => {
                    let wanted = head.length - bytes.len();
                    bytes.extend_from_slice(take(&mut input, wanted));
                    if bytes.len() == head.length {
                        let (head, bytes) = (*head, std::mem::take(bytes));
                        self.end(head, &bytes, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, whole: [u8; HEAD], out: &mut BytesMut) -> Result<(), Unreadable> {
        let head = Head::read(whole);
        match (head.kind, &self.open) {
            (HEADERS, None) | (CONTINUATION, Some(_)) => {
                if head.length > MAX_FRAME {
                    return Err(Unreadable::TooLarge);
                }
                self.place = Place::Payload {
                    head,
                    bytes: Vec::with_capacity(head.length),
                };
                if head.length == 0 {
                    return self.end(head, &[], out);
                }
            }
            (_, Some(_)) => return Err(Unreadable::Torn),
            (_, None) => {
                out.put_slice(&whole);
                self.place = match head.length {
                    0 => Place::Head(Vec::with_capacity(HEAD)),
                    length => Place::Through(length),
                };
            }
        }
        Ok(())
    }

    /// One frame of a header block is complete; perhaps the block is.
    fn end(&mut self, head: Head, bytes: &[u8], out: &mut BytesMut) -> Result<(), Unreadable> {
        self.place = Place::Head(Vec::with_capacity(HEAD));
        let block = match self.open.take() {
            Some(mut block) => {
                block.fields.extend_from_slice(bytes);
                block
            }
            None => Block::first(head, bytes)?,
        };
        if block.fields.len() > MAX_BLOCK {
            return Err(Unreadable::TooLarge);
        }
        if head.flags & END_HEADERS == 0 {
            self.open = Some(block);
        } else {
            block.write(out);
        }
        Ok(())
    }
}

impl Head {
    fn read([a, b, c, kind, flags, stream @ ..]: [u8; HEAD]) -> Self {
        Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream,
        }
    }
}

impl Block {
    fn first(head: Head, mut bytes: &[u8]) -> Result<Self, Unreadable> {
        if head.flags & PADDED != 0 {
            let (padding, rest) = bytes.split_first().ok_or(Unreadable::Torn)?;
            let kept = rest.len().checked_sub(usize::from(*padding));
            bytes = &rest[..kept.ok_or(Unreadable::Torn)?];
        }
        let priority = if head.flags & PRIORITY == 0 {
            &[]
        } else {
            let (priority, rest) = bytes.split_at_checked(PRIORITY_BYTES).ok_or(Unreadable::Torn)?;
            bytes = rest;
            priority
        };
        Ok(Self {
            flags: head.flags & (END_STREAM | PRIORITY),
            stream: head.stream,
            priority: priority.to_vec(),
            fields: bytes.to_vec(),
        })
    }

    fn write(self, out: &mut BytesMut) {
        let fields = replace(&self.fields).unwrap_or(self.fields);
        let length = self.priority.len() + fields.len();
        // Below MAX_FRAME, so that three bytes hold it.
        out.put_uint(length as u64, 3);
        out.put_slice(&[HEADERS, self.flags | END_HEADERS]);
        out.put_slice(&self.stream);
        out.put_slice(&self.priority);
        out.put_slice(&fields);
    }
}

/// The same fields with another authority; none if they cannot be told apart.
fn replace(fields: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(fields.len());
    let mut rest = fields;
    while let Some(first) = rest.first() {
        let whole = rest;
        let authority = match first {
            0x80.. => {
                integer(&mut rest, 7)?;
                false
            }
            0x20..=0x3f => {
                integer(&mut rest, 5)?;
                false
            }
            _ => match integer(&mut rest, if *first >= 0x40 { 6 } else { 4 })? {
                0 => is_authority(string(&mut rest)?),
                index => index == AUTHORITY_INDEX,
            },
        };
        out.extend_from_slice(&whole[..whole.len() - rest.len()]);
        if !(0x20..=0x3f).contains(first) && *first < 0x80 {
            let before_value = rest;
            let (_, value) = string(&mut rest)?;
            if authority && !value.is_empty() {
                out.extend_from_slice(&INSTEAD);
            } else {
                out.extend_from_slice(&before_value[..before_value.len() - rest.len()]);
            }
        }
    }
    Some(out)
}

fn is_authority((huffman, name): (bool, &[u8])) -> bool {
    name == if huffman { AUTHORITY_HUFFMAN } else { AUTHORITY }
}

/// A string, and whether it is in Huffman code.
fn string<'a>(rest: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let huffman = rest.first()? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (string, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some((huffman, string))
}

/// A number that begins in the low `prefix` bits of the first byte; none above what could be a length.
fn integer(rest: &mut &[u8], prefix: u32) -> Option<usize> {
    let full = (1_usize << prefix) - 1;
    let (first, mut behind) = rest.split_first()?;
    let mut number = usize::from(*first) & full;
    if number == full {
        let mut shift = 0;
        loop {
            let (byte, next) = behind.split_first()?;
            behind = next;
            number += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return None;
            }
        }
    }
    *rest = behind;
    Some(number)
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests;
