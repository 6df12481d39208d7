//! What the merge asks of a device and its model, looked up by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::devices::check::{check_desired, check_value};
use protocol::devices::{AccessMode, ModelProperty};

use super::equal::equal;
use super::report::reason_of;
use super::{Kept, Quality, Reported, Wished};
use crate::devices::served::{Access, Served, ServedProperty};

/// A value is stale after so many cycles without a report.
const STALE_CYCLES: i64 = 3;
/// A value is never stale sooner, however often it is read.
const STALE_AT_LEAST: i64 = 10_000;
/// A value that is read once a day is stale after this all the same.
const STALE_AT_MOST: i64 = 3_600_000;

/// A device as the merge sees it.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The device with its model folded in.
    pub(crate) served: Arc<Served>,
    by_name: BTreeMap<String, (usize, ModelProperty)>,
}

impl Rules {
    /// The rules of a device.
    pub(crate) fn of(served: Arc<Served>) -> Self {
        let entry = |(index, property): (usize, &ServedProperty)| {
            (property.name.clone(), (index, model_of(property)))
        };
        let by_name = served.properties.iter().enumerate().map(entry).collect();
        Self { served, by_name }
    }

    /// Whether the device names a model that is not here, so that much of it cannot be told.
    pub(crate) fn lacks_model(&self) -> bool {
        !self.served.has_model && !self.served.model.is_empty()
    }

    /// A property by name.
    pub(crate) fn property(&self, name: &str) -> Option<&ServedProperty> {
        let (index, _) = self.by_name.get(name)?;
        self.served.properties.get(*index)
    }

    /// Whether the model has it.
    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.property(name).is_some_and(|property| property.declared)
    }

    /// Whether its values go to the cluster.
    pub(crate) fn is_for_the_cluster(&self, name: &str) -> bool {
        self.property(name)
            .is_some_and(|property| property.declared && property.report_to_cloud != Some(false))
    }

    /// Whether the value fits; the reason if not.
    pub(crate) fn judge(&self, name: &str, value: &str) -> Result<(), String> {
        match self.by_name.get(name) {
            Some((_, model)) => check_value(model, value),
            None => Ok(()),
        }
    }

    /// Whether somebody may wish for the value; the reason if not.
    pub(crate) fn judge_wish(&self, name: &str, value: &str) -> Result<(), String> {
        match self.by_name.get(name) {
            Some((_, model)) => check_desired(model, value),
            None => Ok(()),
        }
    }

    /// What a property should be, as far as the model allows. One from the cluster is kept while the
    /// model forbids it, and delivered when the model is corrected.
    pub(crate) fn allowed_wish<'k>(&self, name: &str, kept: &'k Kept) -> Option<&'k Arc<Wished>> {
        let wish = kept.wish.as_ref()?;
        self.judge_wish(name, &wish.value).is_ok().then_some(wish)
    }

    /// Whether what the device said last is what it should be, however long ago it said so.
    pub(crate) fn is_met(&self, name: &str, kept: &Kept) -> bool {
        let wanted = kept.wish.as_ref().map(|wish| &wish.value);
        let said = kept
            .reported
            .as_ref()
            .and_then(|reported| reported.value.as_ref());
        let (Some(wanted), Some(said)) = (wanted, said) else {
            return false;
        };
        let property = self.property(name);
        let type_ = property.and_then(|property| property.type_);
        let tolerance = property.and_then(|property| property.tolerance);
        equal(type_, tolerance, wanted, said)
    }

    /// Whether the device says now what it should be. One that said so before it went away, before a boot
    /// or before it could not be read any more may have been changed since.
    pub(crate) fn is_confirmed(&self, name: &str, kept: &Kept) -> bool {
        let reported = kept.reported.as_deref();
        self.is_met(name, kept) && reported.is_some_and(|reported| self.is_fresh(name, reported))
    }

    /// Whether the value is as it was said last. One that does not fit is an error from the beginning, and
    /// was said all the same.
    fn is_fresh(&self, name: &str, reported: &Reported) -> bool {
        let unfit = || {
            let value = reported.value.as_deref().unwrap_or_default();
            let judged = self.judge(name, value);
            judged.is_err_and(|reason| reason_of(&reason) == reported.reason)
        };
        let said = match reported.own_quality() {
            Quality::Good => true,
            Quality::Stale => false,
            Quality::Error => unfit(),
        };
        said && reported.recalled.is_none()
    }

    /// After how many ms without a report a good value is stale; none if only the device's state
    /// tells.
    pub(crate) fn stale_after(&self, name: &str) -> Option<i64> {
        let cycle = self.property(name)?.collect_cycle?;
        let cycle = i64::try_from(cycle.as_millis()).unwrap_or(STALE_AT_MOST);
        Some(
            cycle
                .saturating_mul(STALE_CYCLES)
                .clamp(STALE_AT_LEAST, STALE_AT_MOST),
        )
    }

    /// How long the cluster is not told of another value, in ms.
    pub(crate) fn report_cycle(&self, name: &str) -> i64 {
        let cycle = self.property(name).and_then(|property| property.report_cycle);
        cycle.map_or(0, |cycle| i64::try_from(cycle.as_millis()).unwrap_or(i64::MAX))
    }

    /// How long the cluster is not told of another state, in ms.
    pub(crate) fn state_cycle(&self) -> i64 {
        self.served.state_report.report_cycle.unwrap_or_default().max(0)
    }

    /// Whether an accepted value must be on flash whatever the link does.
    pub(crate) fn is_durable(&self, name: &str) -> bool {
        self.property(name).is_some_and(|property| property.durable)
    }

    /// The quality of a value that was just said, and why it is not good.
    pub(super) fn quality(&self, name: &str, value: &str) -> (Quality, String) {
        match self.judge(name, value) {
            Ok(()) => (Quality::Good, String::new()),
            Err(reason) => (Quality::Error, reason),
        }
    }
}

/// The model's side of a property, for the check that cloudcore makes as well.
fn model_of(property: &ServedProperty) -> ModelProperty {
    ModelProperty {
        name: property.name.clone(),
        type_: property.type_,
        access_mode: Some(match property.access {
            Access::ReadOnly => AccessMode::ReadOnly,
            Access::ReadWrite => AccessMode::ReadWrite,
        }),
        minimum: property.minimum.clone(),
        maximum: property.maximum.clone(),
        ..ModelProperty::default()
    }
}
