//! Kubernetes quantities as numbers, rounded up as the kubelet rounds them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// A quantity in whole units, rounded up as the kubelet does; `None` when it does not parse.
pub fn whole(quantity: &Quantity) -> Option<i64> {
    rounded_up(parse_nano(&quantity.0)?, NANO)
}

/// A quantity in thousandths, rounded up; `None` when it does not parse.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    rounded_up(parse_nano(&quantity.0)?, NANO / 1000)
}

/// A quantity in billionths; `None` when it does not parse.
pub fn nano(quantity: &Quantity) -> Option<i128> {
    parse_nano(&quantity.0)
}

/// Thousandths as a quantity, in its shortest form.
pub fn milli_text(milli: i64) -> Quantity {
    Quantity(if milli % 1000 == 0 {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    })
}

/// Bytes as a quantity, in its shortest form.
pub fn bytes_text(bytes: i64) -> Quantity {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let steps = if bytes == 0 {
        0
    } else {
        bytes.trailing_zeros() / 10
    };
    let steps = usize::try_from(steps).map_or(0, |steps| steps.min(UNITS.len() - 1));
    Quantity(format!("{}{}", bytes >> (10 * steps), UNITS[steps]))
}

fn rounded_up(nano: i128, unit: i128) -> Option<i64> {
    let up = nano.div_euclid(unit) + i128::from(nano.rem_euclid(unit) != 0);
    i64::try_from(up).ok()
}

/// Parses a Kubernetes quantity into billionths.
fn parse_nano(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (mantissa, digits) = decimal(number)?;
    let (numerator, denominator) = scale(suffix)?;
    let nano = mantissa.checked_mul(NANO)?.checked_mul(numerator)?;
    let divisor = denominator.checked_mul(10_i128.checked_pow(digits)?)?;
    Some(nano.div_euclid(divisor) + i128::from(nano.rem_euclid(divisor) != 0))
}

/// `-1.25` as (-125, 2 digits after the point).
fn decimal(text: &str) -> Option<(i128, u32)> {
    let (int, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 18
        || !(int.len() + fraction.len() > 0 && fraction.bytes().all(|b| b.is_ascii_digit()))
    {
        return None;
    }
    let mantissa = format!("{int}{fraction}").parse().ok()?;
    Some((mantissa, u32::try_from(fraction.len()).ok()?))
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 1));
    let ten = |power: u32| 10_i128.checked_pow(power);
    match suffix {
        "n" => Some((1, ten(9)?)),
        "u" => Some((1, ten(6)?)),
        "m" => Some((1, ten(3)?)),
        "" => Some((1, 1)),
        "k" => Some((ten(3)?, 1)),
        "M" => Some((ten(6)?, 1)),
        "G" => Some((ten(9)?, 1)),
        "T" => Some((ten(12)?, 1)),
        "P" => Some((ten(15)?, 1)),
        "E" => Some((ten(18)?, 1)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => match exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()? {
            power @ 0..=18 => Some((ten(power.unsigned_abs())?, 1)),
            power @ -18..0 => Some((1, ten(power.unsigned_abs())?)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_in_their_shortest_form() {
        let milli = [0, 100, 1000, 1500].map(|milli| milli_text(milli).0);
        assert_eq!(milli, ["0", "100m", "1", "1500m"]);
        let bytes = [0, 1000, 1 << 10, 256 << 20, 3 << 29].map(|bytes| bytes_text(bytes).0);
        assert_eq!(bytes, ["0", "1000", "1Ki", "256Mi", "1536Mi"]);
    }

    #[test]
    fn quantities_round_up_as_the_kubelet_rounds_them() {
        let q = |text: &str| Quantity(text.to_owned());
        for (text, units) in [
            ("128Mi", 134_217_728),
            ("1k", 1000),
            ("1.5Gi", 1_610_612_736),
            ("1e3", 1000),
            ("100m", 1),
            ("0", 0),
            ("12E0", 12),
            ("1E", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(whole(&q(text)), Some(units), "{text}");
        }
        assert_eq!(milli(&q("0.1")), Some(100));
        assert_eq!(milli(&q("1u")), Some(1));
        assert_eq!(milli(&q("250m")), Some(250));
        for bad in ["", "x", "1.2.3", "1Q", "--1", "1e99", "9999999999999999999999Ei"] {
            assert_eq!(whole(&q(bad)), None, "{bad}");
        }
    }
}
