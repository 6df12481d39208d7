//! What becomes of a wish in a report: it is made, given up, or followed by another.

use std::sync::Arc;

use super::report::{Draft, MAX_REASON, cut, reason_of};
use super::{Kept, Quality, Reported, Wished};
use crate::devices::seam::{Origin, Refused, Seen};

impl Draft<'_> {
    /// Whoever carries wishes out may have begun with one that is followed by another now, or by none. What the
    /// device says from then on is newer; it ends the doubt where it is what is wished by now.
    pub(super) fn doubt(&self, kept: &mut Kept, name: &str, heard: bool) {
        let before = self.current(name).wish.filter(|wish| wish.is_open());
        let version = kept.wish.as_ref().map(|wish| wish.version);
        kept.doubt |= before.is_some_and(|before| Some(before.version) != version);
        let reported = kept.reported.as_ref();
        let has_value = reported.is_some_and(|reported| reported.value.is_some());
        kept.doubt &= has_value && !(heard && self.rules.is_confirmed(name, kept));
    }

    /// A good value that was just said and is not what the device was set to in vain is an error until somebody
    /// wishes for something else: who set it must see.
    pub(super) fn blame(&self, kept: &mut Kept, name: &str) {
        let is_met = self.rules.is_met(name, kept);
        if let (Some(reported), Some(wish)) = (&mut kept.reported, &kept.wish)
            && reported.quality == Quality::Good
            && !wish.given_up.is_empty()
            && !is_met
        {
            let reported = Arc::make_mut(reported);
            reported.otherwise = Some(reported.quality);
            reported.quality = Quality::Error;
            reported.reason.clone_from(&wish.given_up);
        }
    }

    /// What the device was set to in vain is nobody's wish any more: the value is what it is without that.
    pub(super) fn forgive(&self, kept: &mut Kept) {
        let blamed = kept.wish.as_ref().is_some_and(|wish| !wish.given_up.is_empty());
        if let Some(reported) = &mut kept.reported
            && let Some(quality) = reported.otherwise
            && !blamed
        {
            let reported = Arc::make_mut(reported);
            reported.otherwise = None;
            reported.quality = quality;
            reported.reason.clear();
            reported.version = self.now.version;
        }
    }

    /// A wish that was written in vain is over. Of another one it says nothing, nor where the device has
    /// said it by now.
    pub(super) fn give_up(&self, kept: &mut Kept, seen: &Seen, (version, why): (u64, &str), origin: Origin) {
        let is_wanted = kept.wish.as_ref().is_some_and(|wish| wish.version == version);
        if !is_wanted || self.rules.is_confirmed(&seen.property, kept) {
            return;
        }
        let has_value = |reported: &&Reported| reported.value.is_some();
        let before = kept.reported.as_deref().filter(has_value);
        // Why it could not be read is forgotten over this.
        let otherwise = before
            .map(Reported::own_quality)
            .filter(|quality| *quality != Quality::Error);
        kept.reported = Some(Arc::new(Reported {
            otherwise,
            ..self.faulty(kept, why, origin)
        }));
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
