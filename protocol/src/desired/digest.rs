//! The digest of a map: equal on both sides when the maps are, and cheap to keep.
//!
//! A digest is the wrapping 128-bit sum of blake3-128 over the length-prefixed entries, so the
//! order of entries does not matter. An entry's bucket is the first byte of its key's hash.

use crate::object::{Digest, ObjectKey};

/// Buckets of a map.
pub const BUCKETS: usize = 256;

/// How many entries, and the sum over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapDigest {
    /// Entries.
    pub count: u64,
    sum: u128,
}

impl MapDigest {
    /// Adds an entry with its uid and body digest.
    pub fn add(&mut self, key: &ObjectKey, uid: &str, digest: &Digest) {
        let mut hash = key_hasher(key);
        put(&mut hash, uid.as_bytes());
        put(&mut hash, &digest.0);
        self.add_hash(&hash.finalize());
    }

    /// Adds an entry with its uid alone: what `Synced` compares.
    pub fn add_identity(&mut self, key: &ObjectKey, uid: &str) {
        let mut hash = key_hasher(key);
        put(&mut hash, uid.as_bytes());
        self.add_hash(&hash.finalize());
    }

    /// The sum as it travels.
    pub fn digest(&self) -> Digest {
        Digest(self.sum.to_le_bytes())
    }

    fn add_hash(&mut self, hash: &blake3::Hash) {
        self.count += 1;
        self.sum = self
            .sum
            .wrapping_add(u128::from_le_bytes(Digest::of_hash(hash).0));
    }
}

/// The bucket of a key.
pub fn bucket(key: &ObjectKey) -> u8 {
    key_hasher(key).finalize().as_bytes()[0]
}

/// The digest of each bucket, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSums(Vec<MapDigest>);

impl Default for BucketSums {
    fn default() -> Self {
        Self(vec![MapDigest::default(); BUCKETS])
    }
}

impl BucketSums {
    /// Adds an entry to its bucket.
    pub fn add(&mut self, key: &ObjectKey, uid: &str, digest: &Digest) {
        self.0[usize::from(bucket(key))].add(key, uid, digest);
    }

    /// All digests, one after the other.
    pub fn to_wire(&self) -> Vec<u8> {
        self.0.iter().flat_map(|sum| sum.digest().0).collect()
    }

    /// The buckets whose digest is another one in `theirs`; nothing if that is malformed.
    pub fn differing(&self, theirs: &[u8]) -> Option<BucketSet> {
        if theirs.len() != BUCKETS * 16 {
            return None;
        }
        let mut differing = BucketSet::default();
        for (bucket, (ours, theirs)) in (0u8..=255).zip(self.0.iter().zip(theirs.chunks_exact(16))) {
            if ours.digest().0 != theirs {
                differing.insert(bucket);
            }
        }
        Some(differing)
    }
}

/// A set of buckets: 256 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketSet([u8; BUCKETS / 8]);

impl BucketSet {
    /// All of them.
    pub const ALL: Self = Self([0xff; BUCKETS / 8]);

    /// Adds a bucket.
    pub fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket / 8)] |= 1 << (bucket % 8);
    }

    /// Whether the key's bucket is among them.
    pub fn has(&self, key: &ObjectKey) -> bool {
        let bucket = bucket(key);
        self.0[usize::from(bucket / 8)] & (1 << (bucket % 8)) != 0
    }

    /// The set as it travels.
    pub fn to_wire(self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// The set as it came, if it has the right length.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

fn key_hasher(key: &ObjectKey) -> blake3::Hasher {
    let mut hash = blake3::Hasher::new();
    put(&mut hash, &key.kind.wire().to_le_bytes());
    put(&mut hash, key.namespace.as_bytes());
    put(&mut hash, key.name.as_bytes());
    hash
}

/// Length-prefixed, so that no two entries give the same bytes.
fn put(hash: &mut blake3::Hasher, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn key(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Pod, namespace, name)
    }

    #[test]
    fn the_order_of_entries_does_not_matter_and_their_borders_do() {
        let digest = Digest::of(b"x");
        let sum = |keys: &[ObjectKey]| {
            let mut sum = MapDigest::default();
            for key in keys {
                sum.add(key, "u", &digest);
            }
            sum
        };
        assert_eq!(
            sum(&[key("a", "b"), key("c", "d")]),
            sum(&[key("c", "d"), key("a", "b")])
        );
        assert_ne!(sum(&[key("a", "bc")]), sum(&[key("ab", "c")]));
    }

    #[test]
    fn only_the_bucket_of_a_changed_entry_differs() {
        let (mut ours, mut theirs) = (BucketSums::default(), BucketSums::default());
        ours.add(&key("a", "same"), "u", &Digest::of(b"1"));
        theirs.add(&key("a", "same"), "u", &Digest::of(b"1"));
        ours.add(&key("a", "changed"), "u", &Digest::of(b"1"));
        theirs.add(&key("a", "changed"), "u", &Digest::of(b"2"));
        let differing = ours.differing(&theirs.to_wire()).unwrap();
        assert!(differing.has(&key("a", "changed")));
        assert_eq!(
            differing
                .to_wire()
                .iter()
                .map(|byte| byte.count_ones())
                .sum::<u32>(),
            1
        );
        assert_eq!(ours.differing(b"short"), None);
    }
}
