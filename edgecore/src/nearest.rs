//! What somebody who mistyped a word may have meant. Pure.

/// The known word nearest to `word`, when it is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
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
