//! The verdicts, and how they are shown.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter, Write as _},
    fs,
};

use anyhow::Result;

use crate::{
    case::Case,
    compare::{self, Difference},
    documented::{self, Rule},
    evidence::Evidence,
    stage,
};

/// What a case came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    /// Every difference has a reason; these are the reasons.
    Documented(String),
    /// The edge node says what it lacks.
    NotSupported(String),
    /// A difference without a reason: the first, and how many there are.
    Bug(String, usize),
    /// The case could not be carried out.
    Broken(String),
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("same"),
            Self::Documented(why) => write!(f, "documented: {why}"),
            Self::NotSupported(words) => write!(f, "documented: not supported yet: {words}"),
            Self::Bug(first, count) => write!(f, "BUG ({count}): {first}"),
            Self::Broken(why) => write!(f, "BROKEN: {why}"),
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) case: String,
    verdict: Verdict,
    /// Reasons that explain nothing any more.
    stale: Vec<String>,
    /// What it was when it was carried out before.
    at_first: Option<Verdict>,
}

impl Line {
    /// Whether there is something to mend.
    pub(crate) const fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Bug(..) | Verdict::Broken(_))
    }

    /// As it is now, after it was something else at first.
    pub(crate) fn after(self, first: &Self) -> Self {
        Self {
            at_first: Some(first.verdict.clone()),
            ..self
        }
    }

    pub(crate) fn broken(case: &Case, why: &str) -> Self {
        Self {
            case: case.name.clone(),
            verdict: Verdict::Broken(why.to_owned()),
            stale: Vec::new(),
            at_first: None,
        }
    }
}

/// Compares, and writes the details down.
pub(crate) fn judge(case: &Case, kubelet: &Evidence, edge: &Evidence) -> Line {
    if kubelet.reached != "yes" {
        let why = format!("the stock kubelet did not get there: {}", kubelet.reached);
        let _ = save(case, kubelet, edge, &compare::compare(kubelet, edge));
        return Line::broken(case, &why);
    }
    let differences = compare::compare(kubelet, edge);
    let saved = save(case, kubelet, edge, &differences);
    if let Err(error) = saved {
        return Line::broken(case, &format!("{error:#}"));
    }
    let (verdict, stale) = match &edge.unsupported {
        Some(words) => (Verdict::NotSupported(words.clone()), Vec::new()),
        None => verdict(case, &differences),
    };
    Line {
        case: case.name.clone(),
        verdict,
        stale,
        at_first: None,
    }
}

fn verdict(case: &Case, differences: &[Difference]) -> (Verdict, Vec<String>) {
    let mut harmless = documented::everywhere();
    harmless.extend(case.racy.iter().cloned());
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bugs = Vec::new();
    for difference in differences {
        let covers = |rule: &&Rule| rule.covers(&difference.path);
        match case.documented.iter().find(covers) {
            Some(rule) => *reasons.entry(&rule.why).or_default() += 1,
            None if harmless.iter().any(|rule| rule.covers(&difference.path)) => {}
            None => bugs.push(difference),
        }
    }
    let unused = |rule: &&Rule| !differences.iter().any(|difference| rule.covers(&difference.path));
    let stale = case
        .documented
        .iter()
        .filter(unused)
        .map(|rule| rule.why.clone())
        .collect();
    let verdict = match bugs.first() {
        Some(first) => Verdict::Bug(shown(first, 160), bugs.len()),
        None if reasons.is_empty() => Verdict::Same,
        None => Verdict::Documented(reasons.into_keys().collect::<Vec<_>>().join("; ")),
    };
    (verdict, stale)
}

fn shown(difference: &Difference, width: usize) -> String {
    let cut = |text: &str| text.chars().take(width).collect::<String>();
    let Difference { path, kubelet, edge } = difference;
    format!("{}: kubelet {:?}, edge {:?}", cut(path), cut(kubelet), cut(edge))
}

fn save(case: &Case, kubelet: &Evidence, edge: &Evidence, differences: &[Difference]) -> Result<()> {
    let mut text = format!("{}\n\n{} differences\n", case.title(), differences.len());
    for difference in differences {
        let Difference { path, kubelet, edge } = difference;
        write!(text, "\n{path}\n  kubelet: {kubelet}\n  edge:    {edge}\n")?;
    }
    for (name, side) in [("kubelet", kubelet), ("edge", edge)] {
        write!(
            text,
            "\n==== {name}: phases {:?}, states {:?}\n",
            side.phases, side.states
        )?;
        writeln!(text, "{}", serde_json::to_string_pretty(&side.tree)?)?;
    }
    fs::write(stage::details()?.join(format!("{}.txt", case.name)), text)?;
    Ok(())
}

/// All lines.
pub(crate) struct Table(pub(crate) Vec<Line>);

impl Table {
    /// Whether there is nothing to mend.
    pub(crate) fn is_clean(&self) -> bool {
        !self.0.iter().any(Line::is_bad)
    }

    fn count(&self, of: impl Fn(&Verdict) -> bool) -> usize {
        self.0.iter().filter(|line| of(&line.verdict)).count()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(f, "{:<26}{}", line.case, line.verdict)?;
            if let Some(first) = &line.at_first {
                writeln!(f, "  {:<26}at first, and not again: {first}", "")?;
            }
            for why in &line.stale {
                writeln!(f, "  {:<26}explains nothing any more: {why}", "")?;
            }
        }
        let broken = self.count(|verdict| matches!(verdict, Verdict::Broken(_)));
        write!(
            f,
            "\n{} cases: {} same, {} documented, {} not supported yet, {} BUG, {broken} broken; details in target/oracle/",
            self.0.len(),
            self.count(|verdict| *verdict == Verdict::Same),
            self.count(|verdict| matches!(verdict, Verdict::Documented(_))),
            self.count(|verdict| matches!(verdict, Verdict::NotSupported(_))),
            self.count(|verdict| matches!(verdict, Verdict::Bug(..))),
        )?;
        // Once more where a long table ends: whoever sees the end alone must know which it was.
        for line in self.0.iter().filter(|line| line.is_bad()) {
            write!(f, "\n{:<26}{}", line.case, line.verdict)?;
        }
        Ok(())
    }
}
