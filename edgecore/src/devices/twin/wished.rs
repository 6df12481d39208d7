//! What becomes of a wish in a report: it is made, or given up.

use std::sync::Arc;

use super::report::{Draft, MAX_REASON, cut, reason_of};
use super::{Kept, Wished};
use crate::devices::seam::{Origin, Refused, Seen};

impl Draft<'_> {
    /// A wish that was written in vain is over. Of another one it says nothing, nor where the device has
    /// said it by now.
    pub(super) fn give_up(&self, kept: &mut Kept, seen: &Seen, (version, why): (u64, &str), origin: Origin) {
        let is_wanted = kept.wish.as_ref().is_some_and(|wish| wish.version == version);
        if !is_wanted || self.rules.is_confirmed(&seen.property, kept) {
            return;
        }
        kept.reported = Some(Arc::new(self.faulty(kept, why, origin)));
        if let Some(wish) = &mut kept.wish {
            let wish = Arc::make_mut(wish);
            wish.done = true;
            wish.given_up = reason_of(why);
        }
    }

    /// Somebody on the site wants it to be so.
    pub(super) fn wish(&self, kept: &mut Kept, name: &str, value: &str) -> Result<(), Refused> {
        self.rules
            .judge_wish(name, value)
            .map_err(|reason| Refused::BadWish {
                property: name.to_owned(),
                value: cut(value, MAX_REASON),
                reason,
            })?;
        let same = kept.wish.as_ref().is_some_and(|wish| *wish.value == *value);
        // Whoever says it again while the device does otherwise, or did not say lately, wants it written again.
        if same && self.rules.is_confirmed(name, kept) {
            return Ok(());
        }
        kept.wish = Some(Arc::new(Wished {
            value: value.into(),
            at: self.now.wall,
            version: self.now.version,
            local: true,
            expires: None,
            done: false,
            given_up: String::new(),
        }));
        Ok(())
    }
}
