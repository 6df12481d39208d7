//! Tables for people: columns as wide as they must be.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Lines up rows under their headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let mut text = line(&headings.map(str::to_owned), width);
    for row in rows {
        text += &line(row, width);
    }
    text
}

fn line<const N: usize>(cells: &[String; N], width: impl Fn(usize) -> usize) -> String {
    let mut text = String::new();
    for (column, cell) in cells.iter().enumerate() {
        let width = if column + 1 == N { 0 } else { width(column) + 3 };
        // Writing to a String cannot fail.
        let _ = write!(text, "{cell:width$}");
    }
    text + "\n"
}

/// A span of time in its largest two units, as kubectl shows ages.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long ago, or how long until.
pub(super) fn between(from: SystemTime, to: SystemTime) -> String {
    to.duration_since(from)
        .map_or_else(|early| format!("-{}", span(early.duration())), span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["longer".to_owned(), "2".to_owned()],
        ];
        assert_eq!(
            table(["NAME", "N"], &rows),
            "NAME     N\na        1\nlonger   2\n"
        );
    }

    #[test]
    fn spans_read_as_kubectl_writes_them() {
        let shown = [59, 119, 120, 7_200, 90_061, 172_800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(shown, ["59s", "119s", "2m", "2h0m", "25h1m", "2d0h"]);
    }
}
