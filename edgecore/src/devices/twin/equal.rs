//! Whether two written values mean the same.

use protocol::devices::PropertyType;
use protocol::devices::check::boolean;
use serde_json::Value;

/// Whether a reported value is the wanted one: by type, within the tolerance, JSON whatever its order.
pub(super) fn equal(type_: Option<PropertyType>, tolerance: Option<f64>, wanted: &str, said: &str) -> bool {
    if wanted == said {
        return true;
    }
    match type_ {
        Some(PropertyType::Int | PropertyType::Double) => numbers(tolerance, wanted, said),
        Some(PropertyType::Float) => numbers(tolerance, wanted, said) || floats(wanted, said),
        Some(PropertyType::Boolean) => boolean(wanted).is_some_and(|wanted| boolean(said) == Some(wanted)),
        Some(PropertyType::String) => json(wanted, said),
        Some(PropertyType::Bytes | PropertyType::Stream) => false,
        None => numbers(tolerance, wanted, said) || json(wanted, said),
    }
}

fn numbers(tolerance: Option<f64>, wanted: &str, said: &str) -> bool {
    if tolerance.is_none()
        && let (Ok(wanted), Ok(said)) = (wanted.trim().parse::<i64>(), said.trim().parse::<i64>())
    {
        // Beyond 2^53 two whole numbers can be one as f64.
        return wanted == said;
    }
    let (Some(wanted), Some(said)) = (number(wanted), number(said)) else {
        return false;
    };
    (wanted - said).abs() <= tolerance.unwrap_or(0.0).max(0.0)
}

fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse::<f64>()
        .ok()
        .filter(|number| number.is_finite())
}

/// A device of 32 bits says 0.1 in its own way.
fn floats(wanted: &str, said: &str) -> bool {
    match (wanted.trim().parse::<f32>(), said.trim().parse::<f32>()) {
        (Ok(wanted), Ok(said)) => wanted.to_bits() == said.to_bits() && wanted.is_finite(),
        _ => false,
    }
}

fn json(wanted: &str, said: &str) -> bool {
    // Text that happens to be a number or a word is text.
    let structured = |text: &str| text.trim_start().starts_with(['{', '[']);
    if !structured(wanted) || !structured(said) {
        return false;
    }
    match (serde_json::from_str(wanted), serde_json::from_str(said)) {
        (Ok(wanted), Ok(said)) => same(&wanted, &said),
        _ => false,
    }
}

/// Equal as JSON, 30 and 30.0 being one number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_there =
                |(key, value): (&String, &Value)| other.get(key).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(is_there)
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_their_type() {
        let int = Some(PropertyType::Int);
        assert!(equal(int, None, "30", "30.0"));
        assert!(!equal(int, None, "30", "30.5"));
        assert!(!equal(int, None, "9007199254740993", "9007199254740992"));
        assert!(equal(
            Some(PropertyType::Float),
            None,
            "0.1",
            "0.10000000149011612"
        ));
        assert!(!equal(
            Some(PropertyType::Double),
            None,
            "0.1",
            "0.10000000149011612"
        ));
        assert!(equal(Some(PropertyType::Boolean), None, "true", "1"));
        assert!(!equal(Some(PropertyType::Boolean), None, "on", "off"));
        assert!(!equal(Some(PropertyType::String), None, "30", "30.0"));
        assert!(!equal(int, None, "nan", "NaN"));
        assert!(equal(None, None, "1e1", "10"));
    }

    #[test]
    fn a_number_within_its_tolerance_is_the_wanted_one() {
        let double = Some(PropertyType::Double);
        assert!(equal(double, Some(0.5), "21", "21.5"));
        assert!(!equal(double, Some(0.5), "21", "21.6"));
        assert!(!equal(double, Some(-1.0), "21", "21.5"));
    }

    #[test]
    fn json_is_compared_as_json() {
        let text = Some(PropertyType::String);
        assert!(equal(
            text,
            None,
            r#"{"a": 30, "b": [1, 2]}"#,
            r#"{"b":[1,2.0],"a":30.0}"#
        ));
        assert!(!equal(text, None, r#"{"a":1}"#, r#"{"a":1,"b":2}"#));
        assert!(!equal(text, None, "[1,2]", "[2,1]"));
    }
}
