//! What is wrong with a configuration, all of it.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line of the file, where it is known.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub text: String,
}

/// Everything that is wrong, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { line, text }) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            match line {
                Some(line) => write!(f, "  line {line}: {text}{end}")?,
                None => write!(f, "  {text}{end}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The known word nearest to `word`, when it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let limit = (word.chars().count() / 3).max(1);
    let scored = known
        .iter()
        .map(|candidate| (score(&word, candidate), *candidate));
    scored
        .filter(|(score, _)| *score <= limit)
        .min_by_key(|(score, _)| *score)
        .map(|(_, near)| near)
}

/// What is said of a key that is none of these.
pub(super) fn unknown(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(near) => format!("{key} is not known; did you mean {near}?"),
        None => format!("{key} is not known; the keys are {}", known.join(", ")),
    }
}

/// Edit distance; a key written in one word counts as the same with underscores.
fn score(word: &str, candidate: &str) -> usize {
    if word == candidate.replace('_', "") {
        return 0;
    }
    distance(word, candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let swap = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = swap.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_word_is_offered_and_nothing_far_fetched() {
        let known = ["node_name", "addresses", "cluster_dns", "zone"];
        assert_eq!(nearest("node_nam", &known), Some("node_name"));
        assert_eq!(nearest("nodeName", &known), Some("node_name"));
        assert_eq!(nearest("node-name", &known), Some("node_name"));
        assert_eq!(nearest("adresses", &known), Some("addresses"));
        assert_eq!(nearest("clusterDNS", &known), Some("cluster_dns"));
        assert_eq!(nearest("colour", &known), None);
    }
}
