//! Counters over any order of cuts, kills and power cuts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// The next number of a counter.
    Count(&'static str),
    Pass(u16),
    Cut,
    Connect,
    Kill,
    PowerCut,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Count("count")),
        4 => Just(Step::Count("alarm")),
        3 => (0..40_000u16).prop_map(Step::Pass),
        1 => Just(Step::Cut),
        1 => Just(Step::Connect),
        2 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Stop),
    ]
}

/// What must still be there.
#[derive(Default)]
struct Promised {
    /// The last number that was accepted, by counter.
    accepted: BTreeMap<&'static str, u32>,
    /// The last that must outlive the power.
    on_flash: BTreeMap<&'static str, u32>,
}

impl Promised {
    /// The power is gone: of what was only in memory nothing need be there.
    fn lose_memory(&mut self) {
        self.accepted.clone_from(&self.on_flash);
    }
}

fn number(run: &Run, property: &str) -> Option<u32> {
    run.actual(property).map(|(value, _)| value.parse().unwrap())
}

fn check(run: &Run, promised: &Promised, sent: u32) -> Result<(), TestCaseError> {
    for (property, accepted) in &promised.accepted {
        let held = number(run, property);
        prop_assert!(
            held >= Some(*accepted),
            "{property} is {held:?}, accepted was {accepted}"
        );
        prop_assert!(held <= Some(sent));
    }
    Ok(())
}

/// What the cluster has heard of each counter never falls.
fn check_heard(node: &Node) -> Result<(), TestCaseError> {
    let mut highest: BTreeMap<String, u32> = BTreeMap::new();
    for status in node.cloud.told.lock().iter() {
        for twin in &status.twins {
            let Some(reported) = &twin.reported else { continue };
            let number: u32 = reported.value.parse().unwrap();
            let before = highest.insert(twin.property_name.clone(), number);
            prop_assert!(before <= Some(number), "{} fell to {number}", twin.property_name);
        }
    }
    Ok(())
}

async fn carry_out(
    node: &Node,
    run: Run,
    step: &Step,
    promised: &mut Promised,
    sent: &mut u32,
) -> Result<Run, TestCaseError> {
    match step {
        Step::Count(property) => {
            *sent += 1;
            let away = node.cloud.away.load(Ordering::Relaxed);
            prop_assert!(run.says(property, &sent.to_string()).await.is_ok());
            promised.accepted.insert(property, *sent);
            if away || *property == "alarm" {
                promised.on_flash.insert(property, *sent);
            }
            if away {
                // Whatever was accepted before is on flash as well by now.
                promised.on_flash.clone_from(&promised.accepted);
            }
        }
        Step::Pass(ms) => pass(f64::from(*ms) / 1_000.0).await,
        Step::Cut => node.cut(),
        Step::Connect => node.cloud.away.store(false, Ordering::Relaxed),
        Step::Kill => {
            run.kill();
            return Ok(node.start().await);
        }
        Step::PowerCut => {
            run.kill();
            promised.lose_memory();
            node.dir.boot(&format!("boot-{sent}-{}", promised.accepted.len()));
            std::fs::remove_dir_all(node.dir.path().join("journal")).unwrap();
            return Ok(node.start().await);
        }
        Step::Stop => {
            run.stop().await;
            promised.on_flash.clone_from(&promised.accepted);
            return Ok(node.start().await);
        }
    }
    Ok(run)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_accepted_is_lost_and_nothing_moves_backwards(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let node = Node::new();
            let (mut run, mut promised, mut sent) = (node.start().await, Promised::default(), 0);
            for step in &steps {
                run = carry_out(&node, run, step, &mut promised, &mut sent).await?;
                check(&run, &promised, sent)?;
            }
            node.cloud.away.store(false, Ordering::Relaxed);
            for property in ["count", "alarm"] {
                sent += 1;
                prop_assert!(run.says(property, &sent.to_string()).await.is_ok());
            }
            pass(1.0).await;
            prop_assert_eq!(node.heard("alarm"), Some(sent.to_string()));
            prop_assert_eq!(node.heard("count"), Some((sent - 1).to_string()));
            check_heard(&node)
        })?;
    }
}
