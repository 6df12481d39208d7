//! Where in a YAML file a key stands. Pure.
//!
//! The parser tells no places; so this looks for the key as people write it: first on its line, below the key that
//! it belongs to. One in braces is found at the line of those.

/// The line of a key, which is found by way of the keys that it stands below; of the last one that is found.
pub(super) fn line_of(text: &str, keys: &[&str]) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut from, mut to, mut found) = (0, lines.len(), None);
    for key in keys {
        let mut said = (from..to).filter(|at| says_something(lines[*at]));
        let depth = said.next().map(|first| depth(lines[first]));
        let is_it = |at: &usize| Some(self::depth(lines[*at])) == depth && names(lines[*at], key);
        let Some(at) = (from..to).find(is_it) else { break };
        found = Some(at + 1);
        from = at + 1;
        let ends = |at: &usize| says_something(lines[*at]) && Some(self::depth(lines[*at])) <= depth;
        to = (from..to).find(ends).unwrap_or(to);
    }
    found
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn says_something(line: &str) -> bool {
    !line.trim_start().is_empty() && !line.trim_start().starts_with('#')
}

fn names(line: &str, key: &str) -> bool {
    let quotes = ['"', '\''];
    let rest = line.trim_start().trim_start_matches(quotes).strip_prefix(key);
    rest.is_some_and(|rest| rest.trim_start_matches(quotes).trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# The address: of a broker.
address: [x]

mqtt:
  # address: commented out
  \"address\" : y

  credentials: z
budgets:
    bulk: {day: 1Mi}
    interactive:
        day: 2Mi
";

    #[test]
    fn a_key_is_found_below_the_keys_that_it_belongs_to() {
        let line = |keys: &[&str]| line_of(FILE, keys);
        assert_eq!(line(&["address"]), Some(2));
        assert_eq!(line(&["mqtt", "address"]), Some(6));
        assert_eq!(line(&["mqtt", "credentials"]), Some(8));
        assert_eq!(line(&["budgets", "interactive", "day"]), Some(12));
        assert_eq!(
            line(&["budgets", "bulk", "day"]),
            Some(10),
            "the line of the braces"
        );
        assert_eq!(line(&["credentials"]), None, "it is not one of these");
        assert_eq!(line(&["mqtt", "bulk"]), Some(4), "nor of those");
    }
}
