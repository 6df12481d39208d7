//! The envelope around each stored value.
//!
//! A database file with a flipped bit opens fine more often than not, so every value carries a digest of
//! its own, over its key too: a value that turned up under another key is not believed either.
//!
//! ```text
//! byte 0      format version (1)
//! byte 1      0 = the value follows, 1 = a reference to a content file follows
//! bytes 2-5   length of the value, little endian
//! bytes 6-21  first 16 bytes of blake3(table, 0, key, 0, bytes 0-5, what follows)
//! bytes 22-   the value, or the 32-byte blake3 that names its file
//! ```

use super::{StoreError, Table};
use bytes::Bytes;

const VERSION: u8 = 1;
const HEADER: usize = 22;

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

/// Wraps the content of a key.
pub(super) fn seal(table: Table, key: &str, content: &Content) -> Vec<u8> {
    let (tag, len, tail): (u8, usize, &[u8]) = match content {
        Content::Inline(value) => (0, value.len(), value),
        Content::File { hash, len } => (1, *len, hash.as_bytes()),
    };
    let mut sealed = Vec::with_capacity(HEADER + tail.len());
    sealed.extend([VERSION, tag]);
    // Lengths are checked against MAX_VALUE before; 8 MiB fit.
    sealed.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    let digest = digest(table, key, &sealed, tail);
    sealed.extend(digest);
    sealed.extend(tail);
    sealed
}

/// Unwraps the content of a key, or says why it is not believed.
pub(super) fn unseal(table: Table, key: &str, sealed: &[u8]) -> Result<Content, StoreError> {
    let damaged = |why| StoreError::Damaged {
        table,
        key: key.to_owned(),
        why,
    };
    let (header, tail) = sealed
        .split_at_checked(HEADER)
        .ok_or_else(|| damaged("too short"))?;
    let (fields, written) = header
        .split_first_chunk::<6>()
        .ok_or_else(|| damaged("too short"))?;
    let [version, tag, l0, l1, l2, l3] = *fields;
    if version != VERSION {
        return Err(damaged("written by an unknown version"));
    }
    if written != digest(table, key, fields, tail) {
        return Err(damaged("digest mismatch"));
    }
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    match tag {
        0 if tail.len() == len => Ok(Content::Inline(Bytes::copy_from_slice(tail))),
        1 => {
            let hash = <[u8; 32]>::try_from(tail).map_err(|_| damaged("bad reference"))?;
            Ok(Content::File {
                hash: hash.into(),
                len,
            })
        }
        _ => Err(damaged("length mismatch")),
    }
}

/// The digest in an envelope as a number; 0 where there is none.
pub(super) fn fingerprint(sealed: &[u8]) -> u128 {
    let digest = sealed.get(6..HEADER).and_then(|digest| digest.try_into().ok());
    digest.map_or(0, u128::from_le_bytes)
}

fn digest(table: Table, key: &str, fields: &[u8], tail: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(table.as_str().as_bytes())
        .update(&[0])
        .update(key.as_bytes())
        .update(&[0]);
    hasher.update(fields).update(tail);
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_under_another_key_is_not_believed() {
        let sealed = seal(Table::Meta, "a", &Content::Inline(Bytes::from_static(b"x")));
        assert!(unseal(Table::Meta, "a", &sealed).is_ok());
        assert!(unseal(Table::Meta, "b", &sealed).is_err());
        assert!(unseal(Table::Token, "a", &sealed).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn any_flipped_bit_is_seen(value in proptest::collection::vec(any::<u8>(), 0..64), at: usize, bit in 0..8u8) {
            let mut sealed = seal(Table::Meta, "k", &Content::Inline(value.into()));
            let at = at % sealed.len();
            sealed[at] ^= 1 << bit;
            prop_assert!(unseal(Table::Meta, "k", &sealed).is_err());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(garbage in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(unseal(Table::Meta, "k", &garbage).is_err());
        }
    }
}
