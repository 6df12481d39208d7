//! The end of a comparison, in as many frames as the keys take that are left out of it.
//!
//! **Invariant:** no frame is larger than one may be, whatever the edge has refused.

use crate::wire::{MAX_FRAME, ObjectName, Synced};

/// Bytes of keys in one frame; the rest of it is what a comparison's end says besides.
const KEYS: usize = MAX_FRAME - (4 << 10);
/// What a key takes beside its text: three tags and three lengths.
const AROUND: usize = 9;

/// The frames that say `end` and leave these keys out.
pub(super) fn frames(mut end: Synced, skipped: impl Iterator<Item = ObjectName>) -> Vec<Synced> {
    let (mut frames, mut bytes) = (Vec::new(), 0);
    for key in skipped {
        let size = AROUND + key.namespace.len() + key.name.len();
        if bytes + size > KEYS {
            let skipped = std::mem::take(&mut end.skipped);
            frames.push(Synced {
                skipped,
                more: true,
                ..end.clone()
            });
            bytes = 0;
        }
        bytes += size;
        end.skipped.push(key);
    }
    frames.push(end);
    frames
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::desired::frames::down;
    use crate::wire::desired_down::Kind;

    #[test]
    fn whatever_is_left_out_each_frame_fits_and_only_the_last_ends_the_comparison() {
        let long = |index| ObjectName {
            namespace: "n".repeat(253),
            name: format!("{index:0>253}"),
        };
        for count in [0, 1, 20_000] {
            let end = Synced {
                count: u64::MAX,
                digest: vec![7; 16].into(),
                view_revision: u64::MAX,
                consistent: true,
                ..Synced::default()
            };
            let said = frames(end, (0..count).map(long));
            let more: Vec<_> = said.iter().map(|frame| frame.more).collect();
            assert_eq!(more, [vec![true; said.len() - 1], vec![false]].concat());
            let names: Vec<_> = said.iter().flat_map(|frame| frame.skipped.clone()).collect();
            assert!(names.into_iter().eq((0..count).map(long)));
            for frame in said {
                assert_eq!((frame.count, frame.digest.len()), (u64::MAX, 16));
                let size = down(Kind::Synced(frame)).encoded_len();
                assert!(size <= MAX_FRAME, "{size}");
            }
        }
    }
}
