//! `$(VAR)` in environment values, commands and arguments, as the kubelet reads it.
//!
//! `$(NAME)` is the variable's value, or stays as written when there is none; `$$` is one `$`; any other `$`
//! is itself. Pure. **Invariant:** what a value expands to is never expanded again.

/// Expands `text`; `value_of` answers for one name.
pub fn expand<'a>(text: &str, value_of: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = reference(&rest[at + 1..], &mut out, &value_of);
    }
    out.push_str(rest);
    out
}

/// Reads what stands after a `$`, writes what it means, and returns what follows.
fn reference<'t, 'a>(
    after: &'t str,
    out: &mut String,
    value_of: &impl Fn(&str) -> Option<&'a str>,
) -> &'t str {
    if let Some(rest) = after.strip_prefix('$') {
        out.push('$');
        return rest;
    }
    let closed = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
    let Some((name, rest)) = closed else {
        out.push('$');
        return after;
    };
    if let Some(value) = value_of(name) {
        out.push_str(value);
    } else {
        out.push_str("$(");
        out.push_str(name);
        out.push(')');
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(name: &str) -> Option<&'static str> {
        match name {
            "A" => Some("one"),
            "B" => Some("$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        }
    }

    #[test]
    fn references_read_as_the_kubelet_reads_them() {
        for (text, meaning) in [
            ("$(A)", "one"),
            ("x-$(A)-$(A)y", "x-one-oney"),
            ("$(B)", "$(A)"),
            ("$(EMPTY)", ""),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$one"),
            ("$$$$(A)", "$$(A)"),
            ("$(A", "$(A"),
            ("$(A$(A)", "$(A$(A)"),
            ("$A", "$A"),
            ("cost: 5$", "cost: 5$"),
            ("$((A))", "$((A))"),
            ("$()", "$()"),
            ("", ""),
        ] {
            assert_eq!(expand(text, value), meaning, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_is_itself(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, value), text);
        }

        #[test]
        fn doubling_every_dollar_escapes_anything(text in ".{0,40}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), value), text);
        }

        #[test]
        fn text_is_never_lost_where_nothing_is_known(text in "[$()AB ]{0,24}") {
            let back = expand(&text, |_| None);
            prop_assert_eq!(back.replace('$', "").len(), text.replace('$', "").len());
        }
    }
}
