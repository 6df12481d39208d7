//! A case: a manifest of `tests/oracle/`, and what its head says of it.
//!
//! ```yaml
//! # What it shows, in a line or more.
//! # until: ended            when to look; see [`Until`]
//! # seconds: 3              how much longer the pod is left alone then; 2 if left out
//! # documented: status.*.user = why this is no bug
//! # racy: states = why this may differ and need not
//! ```
//!
//! The string `@report` in a manifest stands for a script that prints what a container sees.

use std::{fs, path::Path, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::programs::workspace;

use crate::documented::Rule;

/// Where the cases are, below the workspace.
const DIR: &str = "tests/oracle";
/// Stands for [`REPORT`].
const PLACEHOLDER: &str = "@report";
/// Prints what a container sees of itself and of the files below its arguments.
const REPORT: &str = include_str!("report.sh");

/// When a pod has got where its case wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// `ended`: Succeeded or Failed, and the sandbox stopped.
    Ended,
    /// `running`: phase Running.
    Running,
    /// `ready`: condition Ready.
    Ready,
    /// `waiting R`: a container waits with reason R.
    Waiting(String),
    /// `restarts N`: a container has been restarted N times and runs or has ended.
    Restarts(i32),
    /// `event R`: there is an event with reason R.
    Event(String),
}

impl FromStr for Until {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.split_once(' ').unwrap_or((text, "")) {
            ("ended", "") => Self::Ended,
            ("running", "") => Self::Running,
            ("ready", "") => Self::Ready,
            ("waiting", reason) => Self::Waiting(reason.to_owned()),
            ("restarts", count) => Self::Restarts(count.parse()?),
            ("event", reason) => Self::Event(reason.to_owned()),
            _ => bail!("no such thing to wait for: {text}"),
        })
    }
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The file's name without its ending.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) shows: String,
    /// When to look.
    pub(crate) until: Until,
    /// How long the pod is left alone after that.
    pub(crate) rest: Duration,
    /// The differences that are no bugs.
    pub(crate) documented: Vec<Rule>,
    /// Those that come and go with the timing.
    pub(crate) racy: Vec<Rule>,
    /// What the pod needs.
    pub(crate) objects: Vec<Value>,
    /// The pod.
    pub(crate) pod: Value,
}

impl Case {
    /// Name and meaning in a line.
    pub(crate) fn title(&self) -> String {
        format!("{:<28}{}", self.name, self.shows)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut case = Self {
            name: name.to_owned(),
            shows: String::new(),
            until: Until::Ended,
            rest: Duration::from_secs(2),
            documented: Vec::new(),
            racy: Vec::new(),
            objects: Vec::new(),
            pod: Value::Null,
        };
        for line in text.lines().map_while(|line| line.strip_prefix('#')) {
            case.read_head(line.trim())?;
        }
        for document in text.split("\n---\n") {
            let mut object: Value = serde_saphyr::from_str(document)?;
            fill(&mut object);
            if object["kind"] == "Pod" {
                ensure!(case.pod.is_null(), "more than one pod");
                case.pod = object;
            } else {
                case.objects.push(object);
            }
        }
        ensure!(!case.pod.is_null(), "no pod");
        ensure!(!case.shows.is_empty(), "the head does not say what it shows");
        Ok(case)
    }

    fn read_head(&mut self, line: &str) -> Result<()> {
        match line.split_once(": ") {
            Some(("until", what)) => self.until = what.parse()?,
            Some(("seconds", count)) => self.rest = Duration::from_secs(count.parse()?),
            Some(("documented", rule)) => self.documented.push(rule.parse()?),
            Some(("racy", rule)) => self.racy.push(rule.parse()?),
            _ => {
                let gap = if self.shows.is_empty() { "" } else { " " };
                self.shows = format!("{}{gap}{line}", self.shows);
            }
        }
        Ok(())
    }

    /// The pod, bound to a node.
    pub(crate) fn pod_on(&self, node: &str) -> Value {
        let mut pod = self.pod.clone();
        let spec = &mut pod["spec"];
        spec["nodeName"] = json!(node);
        spec["tolerations"] = json!([{ "key": "node-role.kubernetes.io/edge", "operator": "Exists" }]);
        pod
    }
}

/// The cases whose name contains `part`.
pub(crate) fn load(part: &str) -> Result<Vec<Case>> {
    let dir = workspace().join(DIR);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = name_of(&path);
        if path.extension().is_some_and(|end| end == "yaml") && name.contains(part) {
            let text = fs::read_to_string(&path)?;
            cases.push(Case::parse(&name, &text).with_context(|| format!("{} is no case", path.display()))?);
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn name_of(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Puts the report in where a manifest names it.
fn fill(value: &mut Value) {
    match value {
        Value::String(text) if text == PLACEHOLDER => REPORT.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(fill),
        Value::Object(fields) => fields.values_mut().for_each(fill),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    const TEXT: &str = "# A pod that ends\n# well.\n# until: restarts 2\n# seconds: 3\n\
        # documented: status.x = for a reason\n\
        apiVersion: v1\nkind: ConfigMap\n---\nkind: Pod\nspec:\n  containers:\n  - name: a\n    args: [\"@report\"]\n";

    #[test]
    fn a_head_says_what_is_shown_and_when_to_look() {
        let case = Case::parse("x", TEXT).unwrap();
        assert_eq!(case.shows, "A pod that ends well.");
        assert_eq!((case.until, case.rest.as_secs()), (Until::Restarts(2), 3));
        assert_eq!((case.documented.len(), case.objects.len()), (1, 1));
    }

    #[test]
    fn the_report_is_put_in_and_the_pod_is_bound() {
        let pod = Case::parse("x", TEXT).unwrap().pod_on("e1");
        assert_eq!(pod["spec"]["containers"][0]["args"][0], REPORT);
        assert_eq!(pod["spec"]["nodeName"], "e1");
    }

    #[test]
    fn every_case_of_the_tree_can_be_read_and_there_are_enough() {
        assert!(load("").unwrap().len() >= 40);
    }

    #[test]
    fn a_head_that_is_wrong_is_refused() {
        assert!(Case::parse("x", &TEXT.replace("restarts 2", "doomsday")).is_err());
    }
}
