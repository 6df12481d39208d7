//! Below how much that is left pods are evicted, as the kubelet's `evictionHard` says it.

use serde_json::Value;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::mistakes::unknown;
use crate::node::thresholds::{Signal, Threshold, Thresholds};
use crate::pods::resources;

/// What turns a signal off, besides nothing at all.
const OFF: &str = "disabled";

/// Reads the value of `eviction`: a mapping of signal to what must be left. What is not named keeps its default.
pub(super) fn read(value: &Value) -> Result<Thresholds, Vec<String>> {
    let signals = value
        .as_object()
        .ok_or_else(|| vec!["must be a mapping such as {memory.available: 100Mi}".to_owned()])?;
    let (mut thresholds, mut bad) = (Thresholds::default(), Vec::new());
    for (name, value) in signals {
        let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.name() == name) else {
            bad.push(unknown(name, &Signal::ALL.map(Signal::name)));
            continue;
        };
        match threshold(value) {
            Some(threshold) => thresholds.set(signal, threshold),
            None => bad.push(format!(
                "{name} must be an amount such as 100Mi, a part such as 10%, or {OFF}, not {value}"
            )),
        }
    }
    if bad.is_empty() { Ok(thresholds) } else { Err(bad) }
}

fn threshold(value: &Value) -> Option<Threshold> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
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
    match u64::try_from(resources::whole(&Quantity(text))?).ok()? {
        0 => Some(Threshold::Off),
        amount => Some(Threshold::Amount(amount)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Thresholds, Vec<String>> {
        read(&serde_json::from_str(json).unwrap())
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
        let told = |json: &str| of(json).unwrap_err().join("; ");
        assert!(told("5").contains("must be a mapping"));
        assert!(told(r#"{"memory.avaliable": "1Mi"}"#).contains("did you mean memory.available?"));
        for bad in ["\"100%\"", "\"-1Mi\"", "\"much\"", "\"1.5%\"", "null", "[]"] {
            let told = told(&format!(r#"{{"nodefs.available": {bad}}}"#));
            assert!(
                told.starts_with("nodefs.available must be an amount such as 100Mi"),
                "{told}"
            );
        }
    }
}
