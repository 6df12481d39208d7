//! How findings are shown to people. Pure.

use std::fmt::Write as _;

use super::{Finding, Level, Report};

/// A line for each check, and below it what mends it.
pub(super) fn table(report: &Report<'_>) -> String {
    let mut out = String::new();
    let width = report.checks.iter().map(|finding| finding.check.len()).max();
    let width = width.unwrap_or(0);
    for Finding {
        check,
        level,
        seen,
        remedy,
    } in report.checks
    {
        let _ = writeln!(out, "{:<8} {check:<width$}  {seen}", mark(*level));
        if !remedy.is_empty() {
            let _ = writeln!(out, "{:8} {:<width$}  -> {remedy}", "", "");
        }
    }
    let ok = report.checks.len() - report.failed - report.warnings - report.unknown;
    let _ = writeln!(
        out,
        "\n{ok} ok, {} warning{}, {} failed, {} unknown",
        report.warnings,
        if report.warnings == 1 { "" } else { "s" },
        report.failed,
        report.unknown
    );
    out
}

const fn mark(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Failed => "FAILED",
        Level::Unknown => "unknown",
    }
}
