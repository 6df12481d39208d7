//! What may not stand in one block (`{{ … }}` or `{% … %}`) of a template. Pure.
//!
//! Lists that are written out, `*` and `~`: each of them alone makes no more than the template and the
//! value are long; two of them can make one out of the other, over and over.

/// Words before which a bracket begins a list.
const WORDS: [&str; 9] = ["in", "not", "and", "or", "if", "elif", "else", "is", "for"];

/// Says what is wrong with a template.
pub(super) fn check(text: &str) -> Result<(), String> {
    // What stands in one is skipped by the language, and would have to be skipped here just so.
    if text.contains("{#") {
        return Err("has a comment ({# ... #}): write it beside the template".to_owned());
    }
    let mut rest = text;
    while let Some(start) = ["{{", "{%"].iter().filter_map(|mark| rest.find(mark)).min() {
        let block = Block::read(&rest[start + 2..]);
        let found: Vec<_> = [("a list", block.list), ("*", block.star), ("~", block.tilde)]
            .into_iter()
            .filter_map(|(name, is)| is.then_some(name))
            .collect();
        if found.len() > 1 {
            return Err(format!(
                "has {} in one block: only one of them may be in it; put text beside the block instead of adding it with ~",
                found.join(" and ")
            ));
        }
        rest = &rest[start + 2 + block.length..];
    }
    Ok(())
}

/// What is in one block.
#[derive(Default)]
struct Block {
    list: bool,
    star: bool,
    tilde: bool,
    length: usize,
}

impl Block {
    /// Reads to the end of the block, whatever comes after it.
    fn read(text: &str) -> Self {
        let mut block = Self::default();
        // Whether each open bracket is a group, in which a comma makes a tuple.
        let (mut open, mut before) = (vec![true], Before::Nothing);
        let mut letters = text.char_indices().peekable();
        while let Some((at, letter)) = letters.next() {
            block.length = at + letter.len_utf8();
            match letter {
                '\'' | '"' => {
                    while let Some((at, next)) = letters.next() {
                        block.length = at + next.len_utf8();
                        match next {
                            '\\' => drop(letters.next()),
                            next if next == letter => break,
                            _ => {}
                        }
                    }
                    before = Before::Value;
                    continue;
                }
                '[' if before != Before::Value => block.list = true,
                ',' if open.last() == Some(&true) => block.list = true,
                '*' => block.star = true,
                '~' => block.tilde = true,
                '}' | '%' if open.len() == 1 && letters.peek().is_some_and(|(_, next)| *next == '}') => break,
                _ => {}
            }
            if letter.is_alphanumeric() || letter == '_' {
                let from = at;
                while letters
                    .peek()
                    .is_some_and(|(_, next)| next.is_alphanumeric() || *next == '_')
                {
                    block.length = letters
                        .next()
                        .map_or(block.length, |(at, next)| at + next.len_utf8());
                }
                before = Before::of_word(&text[from..block.length]);
                continue;
            }
            match letter {
                '(' => open.push(before != Before::Value),
                '[' | '{' => open.push(false),
                ')' | ']' | '}' if open.len() > 1 => drop(open.pop()),
                _ => {}
            }
            if !letter.is_whitespace() {
                let closes = matches!(letter, ')' | ']' | '}');
                before = if closes { Before::Value } else { Before::Nothing };
            }
        }
        block
    }
}

/// What stands before a bracket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Something that can be indexed or called.
    Value,
    /// A mark or a word of the language.
    Nothing,
}

impl Before {
    fn of_word(word: &str) -> Self {
        if WORDS.contains(&word) {
            Self::Nothing
        } else {
            Self::Value
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_operators_write_is_let_through() {
        for template in [
            "{{ (value | float * 1.8 + 32) | round(1) }}",
            "{{ json[0] * 10 }} and [1] * 2 outside, {{ 'a' ~ value }}",
            "{{ (value | split(','))[1] | float * 10 }}",
            "{{ value | replace('*', '~') }}",
            r#"{"a": {{ value | replace('\'', "[") | int * 2 }}}"#,
            "{% if json.on in ['a', 'b'] %}{{ json.x * 2 }}{% endif %}",
            "{{ {'a': json, 'b': 1} | tojson }}",
        ] {
            assert_eq!(check(template), Ok(()), "{template}");
        }
    }

    #[test]
    fn lists_that_are_repeated_or_written_out_as_text_are_not() {
        for template in [
            "{{ [1] * 9 }}",
            "{{ 9 * ([1]) }}",
            "{{ 1 in [1] * 9 }}",
            "{% if 1 in[1]*9 %}{% endif %}",
            "{{ json * 9 ~ 'x' }}",
            "{{ [json, json] ~ 'x' }}",
            "{{ (1, 2) * 9 }}",
            "{{ (value, value) ~ 1 }}",
            "{{ value | default([1]) * 9 }}",
            "x {{ 'a' }} {{ '}}' }} {{ [1] * 9 }}",
            "{{ {'a': [1]}.a * 9 }}",
            "{# {{ ' #}{{ ([1] * 9 ~ 'x') | length }}",
        ] {
            assert!(check(template).is_err(), "{template}");
        }
    }
}
