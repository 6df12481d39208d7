//! The envelope around each stored value.
//!
//! A database file with a flipped bit opens fine more often than not, so every value carries a digest of
//! its own, over its key too: a value that turned up under another key is not believed either.
//!
//! ```text
//! byte 0      version (1)
//! byte 1      0 = the value follows, else a reference to a content file follows (1)
//! bytes 2-5   length of the value, little endian
//! bytes 6-21  first 16 bytes of blake3(table, 0, key, 0, bytes 0-5, what follows)
//! bytes 22-   the value, or the 32-byte blake3 that names its file
//! ```
//!
//! **Invariant:** in every version of this [format](super::format) the digest stands there and covers that,
//! and what follows begins with the name of a content file unless byte 1 is 0. So a program can tell a row
//! of a later version from a damaged one, and keep it with its file.

use super::Table;
use bytes::Bytes;

const VERSION: u8 = 1;
const HEADER: usize = 22;
/// Byte 1.
const INLINE: u8 = 0;
const REFERENCE: u8 = 1;

/// The name of a content file: the blake3 of what it holds.
pub(super) type ContentHash = blake3::Hash;

/// What an envelope holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The value itself.
    Inline(Bytes),
    /// The value lies in a content file.
    File { hash: ContentHash, len: usize },
}

/// An envelope that is as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// Of this version.
    Known(Content),
    /// Of a later one, with the content file that it names.
    Later(Option<ContentHash>),
}

impl Whole {
    /// The content file that it names.
    pub(super) const fn names(&self) -> Option<ContentHash> {
        match self {
            Self::Known(Content::Inline(_)) => None,
            Self::Known(Content::File { hash, .. }) => Some(*hash),
            Self::Later(named) => *named,
        }
    }
}

/// The key of a row on disk.
pub(super) fn raw_key(table: Table, key: &str) -> Vec<u8> {
    [table.as_str().as_bytes(), &[0], key.as_bytes()].concat()
}

/// The table and the key in it, where the table is known here.
pub(super) fn parse_key(raw: &[u8]) -> Option<(Table, &str)> {
    let (table, key) = std::str::from_utf8(raw).ok()?.split_once('\0')?;
    Some((Table::named(table)?, key))
}

/// Wraps the content of a row.
pub(super) fn seal(raw: &[u8], content: &Content) -> Vec<u8> {
    let (tag, len, tail): (u8, usize, &[u8]) = match content {
        Content::Inline(value) => (INLINE, value.len(), value),
        Content::File { hash, len } => (REFERENCE, *len, hash.as_bytes()),
    };
    let [l0, l1, l2, l3] = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    // Lengths are checked against MAX_VALUE before; 8 MiB fit.
    wrap(raw, [VERSION, tag, l0, l1, l2, l3], tail)
}

/// What every version has in common.
pub(super) fn wrap(raw: &[u8], fields: [u8; 6], tail: &[u8]) -> Vec<u8> {
    [&fields[..], &digest(raw, &fields, tail), tail].concat()
}

/// Unwraps the content of a row, or says why it is not believed.
pub(super) fn unseal(raw: &[u8], sealed: &[u8]) -> Result<Whole, &'static str> {
    let (header, tail) = sealed.split_at_checked(HEADER).ok_or("too short")?;
    let (fields, written) = header.split_first_chunk::<6>().ok_or("too short")?;
    if written != digest(raw, fields, tail) {
        return Err("digest mismatch");
    }
    let [version, tag, l0, l1, l2, l3] = *fields;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    match (version, tag) {
        (VERSION, INLINE) if tail.len() == len => {
            Ok(Whole::Known(Content::Inline(Bytes::copy_from_slice(tail))))
        }
        (VERSION, INLINE) => Err("length mismatch"),
        (VERSION, REFERENCE) => {
            let hash = <[u8; 32]>::try_from(tail).map_err(|_| "bad reference")?.into();
            Ok(Whole::Known(Content::File { hash, len }))
        }
        (_, INLINE) => Ok(Whole::Later(None)),
        _ => Ok(Whole::Later(
            tail.first_chunk::<32>().map(|hash| ContentHash::from(*hash)),
        )),
    }
}

/// The digest in an envelope as a number; 0 where there is none.
pub(super) fn fingerprint(sealed: &[u8]) -> u128 {
    let digest = sealed.get(6..HEADER).and_then(|digest| digest.try_into().ok());
    digest.map_or(0, u128::from_le_bytes)
}

fn digest(raw: &[u8], fields: &[u8], tail: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(raw).update(&[0]).update(fields).update(tail);
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RAW: &[u8] = b"meta\0k";

    #[test]
    fn a_value_under_another_key_is_not_believed() {
        let sealed = seal(
            &raw_key(Table::Meta, "a"),
            &Content::Inline(Bytes::from_static(b"x")),
        );
        assert!(unseal(&raw_key(Table::Meta, "a"), &sealed).is_ok());
        assert!(unseal(&raw_key(Table::Meta, "b"), &sealed).is_err());
        assert!(unseal(&raw_key(Table::Token, "a"), &sealed).is_err());
    }

    #[test]
    fn what_is_on_disk_does_not_change() {
        let digest = blake3::hash(b"meta\0k\0\x01\x00\x01\0\0\0x");
        let written = [b"\x01\x00\x01\0\0\0", &digest.as_bytes()[..16], b"x"].concat();
        assert_eq!(seal(RAW, &Content::Inline(Bytes::from_static(b"x"))), written);
    }

    #[test]
    fn a_row_of_a_later_version_is_told_from_a_damaged_one_and_keeps_its_file() {
        let hash = blake3::hash(b"large");
        let tail = [hash.as_bytes(), &b"and more"[..]].concat();
        for (fields, named) in [
            ([2, INLINE, 1, 0, 0, 0], None),
            ([2, REFERENCE, 1, 0, 0, 0], Some(hash)),
            ([VERSION, 7, 1, 0, 0, 0], Some(hash)),
        ] {
            let mut sealed = wrap(RAW, fields, &tail);
            assert_eq!(unseal(RAW, &sealed), Ok(Whole::Later(named)));
            sealed[30] ^= 1;
            assert!(unseal(RAW, &sealed).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn any_flipped_bit_is_seen(value in proptest::collection::vec(any::<u8>(), 0..64), at: usize, bit in 0..8u8) {
            let mut sealed = seal(RAW, &Content::Inline(value.into()));
            let at = at % sealed.len();
            sealed[at] ^= 1 << bit;
            prop_assert!(unseal(RAW, &sealed).is_err());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(garbage in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(unseal(RAW, &garbage).is_err());
        }
    }
}
