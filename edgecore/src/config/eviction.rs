//! When pods are evicted: the kubelet's `evictionHard`, `evictionSoft` and what belongs to them.
//!
//! A signal that stands in `eviction` itself is a hard threshold; the others have a mapping of their own each.

use std::fmt::Display;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::fields::{Fields, Read};
use super::set;
use crate::node::shortage::{Policy, Soft};
use crate::node::thresholds::{PerSignal, Signal, Threshold};
use crate::pods::resources;

/// What turns a signal off, besides nothing at all.
const OFF: &str = "disabled";
/// The mappings and values beside the hard thresholds.
const SOFT: &str = "soft";
const SOFT_GRACE: &str = "soft_grace_period";
const POD_GRACE: &str = "max_pod_grace_period";
const RECLAIM: &str = "minimum_reclaim";
const TRANSITION: &str = "pressure_transition_period";
/// The longest that a pod may be given, in seconds: a day.
const MOST_GRACE: i64 = 24 * 60 * 60;

/// Reads `eviction`. What is not named keeps its default.
pub(super) fn read(fields: &mut Fields<'_>) -> Policy {
    let mut policy = Policy::default();
    over(&mut policy.hard, &thresholds(fields));
    soft(fields, &mut policy);
    if let Some(reclaim) = fields.below(RECLAIM, thresholds) {
        over(&mut policy.reclaim, &reclaim);
    }
    set(&mut policy.pod_grace_seconds, fields.optional(POD_GRACE, seconds));
    set(&mut policy.transition, fields.optional(TRANSITION, period));
    policy
}

/// What is said of a signal, if anything, and the value if it is one.
type Said<T> = PerSignal<Option<Option<T>>>;

fn thresholds(fields: &mut Fields<'_>) -> Said<Threshold> {
    said(fields, threshold)
}

fn periods(fields: &mut Fields<'_>) -> Said<Duration> {
    said(fields, period)
}

fn said<T: Copy>(fields: &mut Fields<'_>, read: fn(&Value) -> Read<T>) -> Said<T> {
    let mut said = PerSignal::all(None);
    for signal in Signal::ALL {
        let is_said = fields.has(signal.name());
        let value = fields.optional(signal.name(), read);
        said.set(signal, is_said.then_some(value));
    }
    said
}

fn over(thresholds: &mut PerSignal<Threshold>, said: &Said<Threshold>) {
    for signal in Signal::ALL {
        if let Some(Some(threshold)) = said.get(signal) {
            thresholds.set(signal, threshold);
        }
    }
}

/// A soft threshold and its grace period are one thing.
fn soft(fields: &mut Fields<'_>, policy: &mut Policy) {
    let soft = fields.below(SOFT, thresholds).unwrap_or(PerSignal::all(None));
    let grace = fields.below(SOFT_GRACE, periods).unwrap_or(PerSignal::all(None));
    for signal in Signal::ALL {
        let name = signal.name();
        match (soft.get(signal), grace.get(signal)) {
            (Some(Some(threshold)), Some(Some(grace))) if threshold != Threshold::Off => {
                policy.soft.set(signal, Some(Soft { threshold, grace }));
            }
            (Some(said), None) if said != Some(Threshold::Off) => fields.blame(
                SOFT,
                &format!("{name} needs a time in {SOFT_GRACE}, such as 90s: how long it may last"),
            ),
            (None, Some(_)) => fields.blame(SOFT_GRACE, &format!("{name} has no threshold in {SOFT}")),
            // Nothing is said, it is off, or what is wrong with it was said.
            (Some(_), _) | (None, None) => {}
        }
    }
}

/// As it is written in the file: all of it, or only what is not the default.
pub(super) fn written(policy: &Policy, only_chosen: bool) -> String {
    let default = Policy::default();
    let differs = |is_default: bool| !only_chosen || !is_default;
    let mut keys = listed(|signal| {
        let (ours, usual) = (policy.hard.get(signal), default.hard.get(signal));
        differs(ours == usual).then_some(ours)
    });
    let period = |period: Duration| format!("{}s", period.as_secs());
    let reclaim = |signal| Some(policy.reclaim.get(signal)).filter(|more| *more != Threshold::Off);
    let mappings = [
        (SOFT, listed(|signal| Some(policy.soft.get(signal)?.threshold))),
        (
            SOFT_GRACE,
            listed(|signal| Some(period(policy.soft.get(signal)?.grace))),
        ),
        (RECLAIM, listed(reclaim)),
    ];
    let mappings = mappings.into_iter().filter(|(_, values)| !values.is_empty());
    keys.extend(mappings.map(|(key, values)| format!("{key}: {{{}}}", values.join(", "))));
    if differs(policy.pod_grace_seconds == default.pod_grace_seconds) {
        keys.push(format!("{POD_GRACE}: {}", policy.pod_grace_seconds));
    }
    if differs(policy.transition == default.transition) {
        keys.push(format!("{TRANSITION}: {}", period(policy.transition)));
    }
    format!("{{{}}}", keys.join(", "))
}

fn listed<T: Display>(value: impl Fn(Signal) -> Option<T>) -> Vec<String> {
    let pair = |signal: Signal| Some(format!("{}: {}", signal.name(), value(signal)?));
    Signal::ALL.into_iter().filter_map(pair).collect()
}

fn threshold(value: &Value) -> Read<Threshold> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let wrong = || {
        vec![format!(
            "must be an amount such as 100Mi, a part such as 10%, or {OFF}, not {value}"
        )]
    };
    parse(&text).ok_or_else(wrong)
}

fn parse(text: &str) -> Option<Threshold> {
    if text == OFF {
        return Some(Threshold::Off);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse::<u8>().ok().filter(|percent| *percent < 100)?;
        return Some(if percent == 0 {
            Threshold::Off
        } else {
            Threshold::Percent(percent)
        });
    }
    match u64::try_from(resources::whole(&Quantity(text.to_owned()))?).ok()? {
        0 => Some(Threshold::Off),
        amount => Some(Threshold::Amount(amount)),
    }
}

fn seconds(value: &Value) -> Read<i64> {
    let wrong = || {
        vec![format!(
            "must be a number of seconds from 0 to {MOST_GRACE}, not {value}"
        )]
    };
    let seconds = value
        .as_i64()
        .filter(|seconds| (0..=MOST_GRACE).contains(seconds));
    seconds.ok_or_else(wrong)
}

/// A time as the kubelet's configuration writes it: `90s`, `1m30s`.
fn period(value: &Value) -> Read<Duration> {
    let parsed = value
        .as_str()
        .and_then(|text| text.parse::<SignedDuration>().ok());
    let whole = parsed.filter(|period| period.is_positive() && period.subsec_nanos() == 0);
    let period = whole.and_then(|period| Duration::try_from(period).ok());
    period.ok_or_else(|| vec![format!("must be a time such as 90s or 5m, not {value}")])
}

#[cfg(test)]
mod tests {
    use super::super::fields::told;
    use super::*;

    fn of(json: &str) -> Result<Policy, Vec<String>> {
        told(&serde_json::from_str(json).unwrap(), read)
    }

    fn wrong(json: &str) -> String {
        of(json).unwrap_err().join("; ")
    }

    #[test]
    fn what_is_named_counts_and_the_rest_stays_as_it_was() {
        let hard =
            of(r#"{"memory.available": "200Mi", "nodefs.available": "7%", "imagefs.available": "1Gi"}"#)
                .unwrap()
                .hard;
        assert_eq!(hard.get(Signal::Memory), Threshold::Amount(200 << 20));
        assert_eq!(hard.get(Signal::Disk), Threshold::Percent(7));
        assert_eq!(hard.get(Signal::Images), Threshold::Amount(1 << 30));
        let default = Policy::default().hard;
        assert_eq!(hard.get(Signal::Inodes), default.get(Signal::Inodes));
        assert_eq!(of("{}").unwrap(), Policy::default());
    }

    #[test]
    fn nothing_and_the_word_for_it_turn_a_signal_off() {
        for off in ["0", "\"0\"", "\"0%\"", "\"0Mi\"", "\"disabled\""] {
            let read = of(&format!(r#"{{"memory.available": {off}}}"#)).unwrap();
            assert_eq!(read.hard.get(Signal::Memory), Threshold::Off, "{off}");
        }
        let soft = of(r#"{"soft": {"memory.available": "disabled"}}"#).unwrap();
        assert_eq!(soft, Policy::default());
    }

    #[test]
    fn what_cannot_be_a_threshold_is_named() {
        assert!(wrong(r#"{"memory.avaliable": "1Mi"}"#).contains("did you mean memory.available?"));
        for bad in ["\"100%\"", "\"-1Mi\"", "\"much\"", "\"1.5%\"", "[]"] {
            let wrong = wrong(&format!(r#"{{"nodefs.available": {bad}}}"#));
            assert!(
                wrong.contains("nodefs.available: must be an amount such as 100Mi"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_soft_threshold_has_its_grace_period_and_what_else_there_is_counts_too() {
        let policy = of(r#"{"soft": {"memory.available": "200Mi"}, "soft_grace_period": {"memory.available": "1m30s"},
            "max_pod_grace_period": 20, "minimum_reclaim": {"nodefs.available": "500Mi", "pid.available": "2%"},
            "pressure_transition_period": "30s"}"#)
        .unwrap();
        let soft = Soft {
            threshold: Threshold::Amount(200 << 20),
            grace: Duration::from_secs(90),
        };
        assert_eq!(policy.soft.get(Signal::Memory), Some(soft));
        assert_eq!(policy.soft.get(Signal::Disk), None);
        assert_eq!(policy.reclaim.get(Signal::Disk), Threshold::Amount(500 << 20));
        assert_eq!(policy.reclaim.get(Signal::Pids), Threshold::Percent(2));
        assert_eq!((policy.pod_grace_seconds, policy.transition.as_secs()), (20, 30));
        assert_eq!(policy.hard, Policy::default().hard);
    }

    #[test]
    fn a_soft_threshold_without_a_time_and_a_time_without_one_are_named() {
        let alone = wrong(r#"{"soft": {"memory.available": "200Mi"}}"#);
        assert_eq!(
            alone,
            "soft: memory.available needs a time in soft_grace_period, such as 90s: how long it may last"
        );
        let idle = wrong(r#"{"soft_grace_period": {"nodefs.available": "1m"}}"#);
        assert_eq!(
            idle,
            "soft_grace_period: nodefs.available has no threshold in soft"
        );
        let bad =
            wrong(r#"{"soft": {"memory.available": "x"}, "soft_grace_period": {"memory.available": "1m"}}"#);
        assert!(
            bad.starts_with("soft.memory.available: must be an amount") && !bad.contains("; "),
            "{bad}"
        );
    }

    #[test]
    fn what_cannot_be_a_time_is_named() {
        for bad in ["90", "\"0s\"", "\"-5s\"", "\"1.5s\"", "\"soon\""] {
            let told = wrong(&format!(r#"{{"pressure_transition_period": {bad}}}"#));
            assert_eq!(
                told,
                format!("pressure_transition_period: must be a time such as 90s or 5m, not {bad}")
            );
        }
        for bad in ["-1", "86401", "\"30s\"", "1.5"] {
            let told = wrong(&format!(r#"{{"max_pod_grace_period": {bad}}}"#));
            assert!(
                told.contains("must be a number of seconds from 0 to 86400"),
                "{told}"
            );
        }
    }

    #[test]
    fn what_stands_in_a_new_file_as_a_comment_is_what_holds_without_it() {
        assert_eq!(
            written(&Policy::default(), false),
            "{memory.available: 100Mi, nodefs.available: 10%, nodefs.inodesFree: 5%, imagefs.available: 15%, \
             imagefs.inodesFree: 5%, pid.available: 0, max_pod_grace_period: 0, pressure_transition_period: 300s}"
        );
        assert_eq!(written(&Policy::default(), true), "{}");
    }
}
