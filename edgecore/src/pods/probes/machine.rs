//! When a row of probe outcomes becomes a result. Pure; no clock.
//!
//! **Invariant:** a result changes only after its threshold of equal outcomes in a row.

use k8s_openapi::api::core::v1::Probe;

/// How one run of a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered well.
    Success,
    /// It answered well enough, with something to say.
    Warning(String),
    /// It did not.
    Failure(String),
    /// It could not be run; this says nothing of the container.
    Error(String),
}

/// The thresholds and the row so far.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    success_threshold: u32,
    failure_threshold: u32,
    row: Option<(bool, u32)>,
}

impl Machine {
    pub(super) fn new(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .unwrap_or(default)
                .max(1)
        };
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            row: None,
        }
    }

    /// Takes one outcome; says the result once the row is long enough.
    pub(super) fn observe(&mut self, outcome: &Outcome) -> Option<bool> {
        let success = match outcome {
            Outcome::Success | Outcome::Warning(_) => true,
            Outcome::Failure(_) => false,
            Outcome::Error(_) => return None,
        };
        let run = match self.row {
            Some((last, run)) if last == success => run.saturating_add(1),
            _ => 1,
        };
        self.row = Some((success, run));
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        (run >= threshold).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine(success: i32, failure: i32) -> Machine {
        let thresholds = (Some(success), Some(failure));
        Machine::new(&Probe {
            success_threshold: thresholds.0,
            failure_threshold: thresholds.1,
            ..Probe::default()
        })
    }

    fn outcome(letter: char) -> Outcome {
        match letter {
            'S' => Outcome::Success,
            'W' => Outcome::Warning(String::new()),
            'F' => Outcome::Failure(String::new()),
            _ => Outcome::Error(String::new()),
        }
    }

    fn results(machine: &mut Machine, row: &str) -> String {
        let letter = |result| match result {
            Some(true) => 'S',
            Some(false) => 'F',
            None => '.',
        };
        row.chars()
            .map(|c| letter(machine.observe(&outcome(c))))
            .collect()
    }

    #[test]
    fn a_result_needs_its_threshold_in_a_row() {
        assert_eq!(results(&mut machine(1, 3), "SFFSFFFF"), "S..S..FF");
        assert_eq!(results(&mut machine(2, 1), "SSFSWS"), ".SF.SS");
        assert_eq!(results(&mut machine(1, 2), "FEF"), "..F");
        assert_eq!(results(&mut Machine::new(&Probe::default()), "FFF"), "..F");
    }

    proptest! {
        #[test]
        fn fewer_failures_than_the_threshold_never_fail(row in "[SF]{0,40}", threshold in 1_i32..6) {
            let longest = row.split('S').map(str::len).max().unwrap_or(0);
            let failed = results(&mut machine(1, threshold), &row).contains('F');
            prop_assert_eq!(failed, longest >= usize::try_from(threshold).unwrap());
        }
    }
}
