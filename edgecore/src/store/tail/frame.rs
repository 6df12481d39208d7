//! A frame: its length, its number, its kind, a digest of all that, and the packed changes of a batch.

use std::io;

use bytes::Bytes;

use crate::store::{Batch, Op, envelope::parse_key};

/// What stands before the packed changes.
pub(super) const HEAD: usize = 4 + 8 + 1 + DIGEST;
const DIGEST: usize = 16;
/// How the packed changes of every frame begin.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A frame as it stands in the file.
pub(super) fn write(number: u64, kind: u8, packed: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(packed.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(HEAD + packed.len());
    frame.extend(len.to_le_bytes());
    frame.extend(number.to_le_bytes());
    frame.push(kind);
    frame.extend(digest(&frame, packed));
    frame.extend(packed);
    Ok(frame)
}

/// The first frame's number, kind and contents, if it is whole.
pub(super) fn first(bytes: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (fields, written) = head.split_last_chunk::<DIGEST>()?;
    let len = u32::from_le_bytes(fields[..4].try_into().ok()?);
    let packed = rest.get(..usize::try_from(len).ok()?)?;
    let number = u64::from_le_bytes(fields[4..12].try_into().ok()?);
    (*written == digest(fields, packed)).then_some((number, fields[12], packed))
}

/// Where the next frame begins whose number goes on: at once, or behind bytes that are not what was written.
///
/// So many bytes hold at least one frame, and no more than fit; a number that fits neither is of an earlier life
/// of the file. Behind a damaged first frame any number may follow.
pub(super) fn seek(bytes: &[u8], expected: Option<u64>) -> Option<usize> {
    (0..bytes.len()).find(|skipped| {
        let rest = &bytes[*skipped..];
        goes_on(rest, *skipped, expected) && first(rest).is_some()
    })
}

/// Whether a head behind so many skipped bytes may be that of the next frame. It spares most digests.
fn goes_on(rest: &[u8], skipped: usize, expected: Option<u64>) -> bool {
    let Some((head, packed)) = rest.split_at_checked(HEAD) else {
        return false;
    };
    let Some(expected) = expected else {
        return skipped == 0 || packed.starts_with(&ZSTD);
    };
    let number = head[4..12].try_into().map(u64::from_le_bytes);
    let missing = number.ok().and_then(|number| number.checked_sub(expected));
    missing.is_some_and(|missing| {
        let fit = (skipped / HEAD) as u64;
        missing <= fit && (missing > 0) == (skipped > 0)
    })
}

/// The changes of a batch as bytes.
pub(super) fn encode(batch: &Batch) -> Vec<u8> {
    let mut out = Vec::new();
    for (table, key, op) in batch.ops() {
        change(&mut out, table.as_str().as_bytes(), key.as_bytes(), op);
    }
    for (raw, op) in batch.foreign() {
        let table = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
        change(
            &mut out,
            &raw[..table],
            raw.get(table + 1..).unwrap_or_default(),
            op,
        );
    }
    out
}

fn change(out: &mut Vec<u8>, table: &[u8], key: &[u8], op: &Op) {
    part(out, table);
    part(out, key);
    out.push(u8::from(value_of(op).is_some()));
    if let Some(value) = value_of(op) {
        part(out, value);
    }
}

/// A length, then so many bytes; nothing that a batch holds is longer than four gigabytes.
fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(bytes);
}

/// The batch that [`encode`] wrote, here or in a newer program, which may have more tables.
pub(super) fn decode(mut raw: &[u8]) -> Option<Batch> {
    let mut batch = Batch::new();
    while !raw.is_empty() {
        let (table, key) = (next(&mut raw)?, next(&mut raw)?);
        let (is_put, rest) = raw.split_first()?;
        raw = rest;
        let op = match is_put {
            0 => Op::Delete,
            1 => Op::Put(Bytes::copy_from_slice(next(&mut raw)?)),
            _ => return None,
        };
        let place = [table, &[0], key].concat();
        match parse_key(&place) {
            Some((table, key)) => batch.push(table, key.to_owned(), op),
            None => batch.push_foreign(place, op),
        }
    }
    Some(batch)
}

fn next<'a>(raw: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = raw.split_first_chunk::<4>()?;
    let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    *raw = rest;
    Some(part)
}

/// What a change puts, if it does.
pub(super) const fn value_of(op: &Op) -> Option<&Bytes> {
    match op {
        Op::Put(value) => Some(value),
        Op::Delete => None,
    }
}

fn digest(head: &[u8], packed: &[u8]) -> [u8; DIGEST] {
    let mut hasher = blake3::Hasher::new();
    let mut out = [0; DIGEST];
    hasher.update(head).update(packed).finalize_xof().fill(&mut out);
    out
}
