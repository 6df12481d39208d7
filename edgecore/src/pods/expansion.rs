//! `$(VAR)` in environment values, commands and arguments, as the kubelet reads it.
//!
//! `$(NAME)` is the variable's value, or stays as written when there is none; `$$` is one `$`; any other `$`
//! is itself. Pure. **Invariants:** what a value expands to is never expanded again; a container's texts are
//! never longer together than its [`Room`], not even on the way.

use thiserror::Error;

/// What a container's environment, command and arguments may have together. Under the usual limit of 8 MiB for
/// its stack a process is not started with more than a quarter of that.
const MOST: usize = 2 << 20;

/// How much longer a container's texts may become.
#[derive(Debug)]
pub struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(MOST)
    }
}

/// A container's texts are longer than any process is started with.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{place} makes environment, command and arguments longer than {} MiB together",
    MOST >> 20
)]
pub struct TooLong {
    /// Where the limit was passed.
    place: String,
}

impl Room {
    /// Takes the room of `bytes` more.
    pub fn take(&mut self, bytes: usize, place: impl FnOnce() -> String) -> Result<(), TooLong> {
        let left = self.0.checked_sub(bytes);
        self.0 = left.ok_or_else(|| TooLong { place: place() })?;
        Ok(())
    }
}

/// Expands `text`, which stands at `place`; `value_of` answers for one name.
pub fn expand<'a>(
    text: &'a str,
    value_of: impl Fn(&str) -> Option<&'a str>,
    room: &mut Room,
    place: impl Fn() -> String,
) -> Result<String, TooLong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (plain, written) = rest.split_at(at);
        let (meaning, follows) = reference(written, &value_of);
        room.take(plain.len() + meaning.len(), || {
            let read = &written[..written.len() - follows.len()];
            format!("{read} in {}", place())
        })?;
        out.push_str(plain);
        out.push_str(meaning);
        rest = follows;
    }
    room.take(rest.len(), place)?;
    out.push_str(rest);
    Ok(out)
}

/// What the beginning of a text that begins with `$` means, and what follows.
fn reference<'m>(written: &'m str, value_of: &impl Fn(&str) -> Option<&'m str>) -> (&'m str, &'m str) {
    let (dollar, after) = written.split_at(1);
    if let Some(rest) = after.strip_prefix('$') {
        return (dollar, rest);
    }
    let Some(end) = after.find(')').filter(|_| after.starts_with('(')) else {
        return (dollar, after);
    };
    let (as_written, rest) = written.split_at(1 + end + 1);
    (value_of(&after[1..end]).unwrap_or(as_written), rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(text: &str, value_of: impl Fn(&str) -> Option<&'static str>) -> String {
        super::expand(text, |name| value_of(name), &mut Room::default(), String::new).unwrap()
    }

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

    #[test]
    fn what_a_container_expands_to_is_bounded_altogether_and_the_reference_is_named() {
        let value = "x".repeat(1000);
        let expand = |text: &str, room: &mut Room| {
            super::expand(text, |_| Some(value.as_str()), room, || "args".to_owned())
        };
        let mut room = Room(2000);
        assert_eq!(expand("$(A)", &mut room).unwrap().len(), 1000);
        assert_eq!(expand("abc", &mut room).unwrap().len(), 3);
        let told = expand("y$(B)", &mut room).unwrap_err().to_string();
        let limit = "makes environment, command and arguments longer than 2 MiB together";
        assert_eq!(told, format!("$(B) in args {limit}"));
        assert_eq!(expand(&"y".repeat(997), &mut room).unwrap().len(), 997);
        let told = expand("y", &mut room).unwrap_err().to_string();
        assert_eq!(told, format!("args {limit}"));
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
