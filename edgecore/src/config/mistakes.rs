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
