//! A twin as others see it: local clients, and the cluster.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::devices::{DeviceStatusStatus, TwinValue};

use super::{Kept, Quality, Reported, Rules, Twin, Wished};
use crate::devices::seam::TwinView;

impl Quality {
    /// Its name in metadata.
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale => "stale",
            Self::Error => "error",
        }
    }
}

impl Twin {
    /// The whole twin, as local clients see it.
    pub(crate) fn views(&self, rules: &Rules) -> BTreeMap<String, TwinView> {
        let view = |(name, kept): (&std::sync::Arc<str>, &Kept)| {
            Some((name.to_string(), view(rules, name, Some(kept))?))
        };
        self.kept().filter_map(view).collect()
    }

    /// What the cluster hears: what was released, of what the model has.
    ///
    /// A property that is not in it has no value. A value from before a boot is among those that are
    /// left: the cluster may have a newer one, and only it can tell.
    pub(crate) fn status(&self, rules: &Rules) -> DeviceStatusStatus {
        let served = rules.served.properties.iter();
        let mut left = BTreeMap::new();
        let twins = served.filter_map(|property| {
            let slot = self.slots.get(property.name.as_str())?;
            let type_ = type_of(rules, &property.name, &slot.kept);
            let is_told = rules.is_for_the_cluster(&property.name);
            let released = slot.released.as_ref().filter(|_| is_told);
            let wish = rules.allowed_wish(&property.name, &slot.kept);
            let wish = wish.filter(|_| property.declared);
            if released.is_none() && wish.is_none() {
                return None;
            }
            let mut reported = released.map(|reported| actual(reported, &type_));
            if let Some(version) = released.and_then(|reported| reported.recalled)
                && let Some(mut before) = reported.take()
            {
                before.metadata.insert("version".to_owned(), version.to_string());
                left.insert(property.name.clone(), before);
            }
            Some(protocol::devices::Twin {
                property_name: property.name.clone(),
                reported,
                observed_desired: wish.map(|wish| expected(wish, &type_)),
            })
        });
        let twins = twins.collect();
        let stood = self.stood();
        let state = self.stood_told.map_or(stood.state, |(state, _)| state);
        let told = rules.served.state_report.report_to_cloud != Some(false);
        DeviceStatusStatus {
            twins,
            state: told.then(|| state.name().to_owned()),
            last_online_time: stood.last_online.filter(|_| told).and_then(rfc3339),
            extensions: None,
            left,
        }
    }
}

/// One property, as local clients see it; none if nobody said or wants anything.
pub(super) fn view(rules: &Rules, name: &str, kept: Option<&Kept>) -> Option<TwinView> {
    let kept = kept?;
    let wish = rules.allowed_wish(name, kept);
    if kept.reported.is_none() && wish.is_none() {
        return None;
    }
    let type_ = type_of(rules, name, kept);
    Some(TwinView {
        expected: wish.map(|wish| expected(wish, &type_)),
        actual: kept.reported.as_ref().map(|reported| actual(reported, &type_)),
        type_,
    })
}

fn type_of(rules: &Rules, name: &str, kept: &Kept) -> String {
    let of_model = rules.property(name).and_then(|property| property.type_);
    if let Some(type_) = of_model {
        return type_.name().to_owned();
    }
    let sent = kept
        .reported
        .as_ref()
        .and_then(|reported| reported.type_.as_ref());
    sent.map(|sent| sent.to_ascii_lowercase()).unwrap_or_default()
}

fn actual(reported: &Reported, type_: &str) -> TwinValue {
    let value = reported.value.as_deref().unwrap_or_default();
    let mut metadata = metadata(reported.at, reported.version, type_);
    metadata.insert("quality".to_owned(), reported.quality.name().to_owned());
    if !reported.reason.is_empty() {
        metadata.insert("reason".to_owned(), reported.reason.clone());
    }
    if let Some(told) = &reported.device_timestamp {
        metadata.insert("deviceTimestamp".to_owned(), told.clone());
    }
    TwinValue {
        value: value.to_owned(),
        metadata,
    }
}

fn expected(wish: &Wished, type_: &str) -> TwinValue {
    let mut metadata = metadata(wish.at, wish.version, type_);
    if wish.local {
        metadata.insert("source".to_owned(), "local".to_owned());
    }
    TwinValue {
        value: wish.value.to_string(),
        metadata,
    }
}

fn metadata(at: i64, version: u64, type_: &str) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([
        ("timestamp".to_owned(), at.to_string()),
        ("version".to_owned(), version.to_string()),
    ]);
    if !type_.is_empty() {
        metadata.insert("type".to_owned(), type_.to_owned());
    }
    metadata
}

fn rfc3339(ms: i64) -> Option<String> {
    let time = Timestamp::from_millisecond(ms).ok()?;
    Some(Timestamp::from_second(time.as_second()).ok()?.to_string())
}
