//! Amounts as Kubernetes writes them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Bytes in the canonical binary form: the largest suffix that leaves a whole number.
pub fn bytes(amount: u64) -> Quantity {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let steps = (amount.trailing_zeros() / 10) as usize;
    let steps = if amount == 0 {
        0
    } else {
        steps.min(SUFFIXES.len() - 1)
    };
    Quantity(format!("{}{}", amount >> (10 * steps), SUFFIXES[steps]))
}

/// A plain count.
pub fn count(amount: u32) -> Quantity {
    Quantity(amount.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_the_api_server_would_write_them_back() {
        for (amount, text) in [
            (0, "0"),
            (1, "1"),
            (1024, "1Ki"),
            (16_384_256 * 1024, "16384256Ki"),
            (8 << 30, "8Gi"),
            (18_242_267_924, "18242267924"),
        ] {
            assert_eq!(bytes(amount).0, text);
        }
    }
}
