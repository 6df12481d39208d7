//! Below how much that is left pods are evicted, as the kubelet's `evictionHard` says it.

use serde_json::Value;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::fields::{Fields, Read};
use crate::node::thresholds::{Signal, Threshold, Thresholds};
use crate::pods::resources;

/// What turns a signal off, besides nothing at all.
const OFF: &str = "disabled";

/// Reads `eviction`: a mapping of signal to what must be left. What is not named keeps its default.
pub(super) fn read(fields: &mut Fields<'_>) -> Thresholds {
    let mut thresholds = Thresholds::default();
    for signal in Signal::ALL {
        if let Some(threshold) = fields.optional(signal.name(), threshold) {
            thresholds.set(signal, threshold);
        }
    }
    thresholds
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

#[cfg(test)]
mod tests {
    use super::super::fields::told;
    use super::*;

    fn of(json: &str) -> Result<Thresholds, Vec<String>> {
        told(&serde_json::from_str(json).unwrap(), read)
    }

    #[test]
    fn what_is_named_counts_and_the_rest_stays_as_it_was() {
        let read = of(r#"{"memory.available": "200Mi", "nodefs.available": "7%"}"#).unwrap();
        assert_eq!(read.memory, Threshold::Amount(200 << 20));
        assert_eq!(read.disk, Threshold::Percent(7));
        assert_eq!(read.inodes, Thresholds::default().inodes);
        assert_eq!(of("{}").unwrap(), Thresholds::default());
    }

    #[test]
    fn nothing_and_the_word_for_it_turn_a_signal_off() {
        for off in ["0", "\"0\"", "\"0%\"", "\"0Mi\"", "\"disabled\""] {
            let read = of(&format!(r#"{{"memory.available": {off}}}"#)).unwrap();
            assert_eq!(read.memory, Threshold::Off, "{off}");
        }
    }

    #[test]
    fn what_cannot_be_a_threshold_is_named() {
        let wrong = |json: &str| of(json).unwrap_err().join("; ");
        assert!(wrong(r#"{"memory.avaliable": "1Mi"}"#).contains("did you mean memory.available?"));
        for bad in ["\"100%\"", "\"-1Mi\"", "\"much\"", "\"1.5%\"", "[]"] {
            let wrong = wrong(&format!(r#"{{"nodefs.available": {bad}}}"#));
            assert!(
                wrong.contains("nodefs.available: must be an amount such as 100Mi"),
                "{wrong}"
            );
        }
    }
}
