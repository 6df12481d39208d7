//! The frame, around a protocol that answers at once.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::devices::Twins;
use crate::devices::drivers::driver::Unit;
use crate::devices::drivers::fake::FakeTwins;
use crate::devices::drivers::mqtt::testing::{lamp, served};
use crate::devices::drivers::writing::Manner;
use crate::devices::drivers::written::Written;

const CYCLE: Duration = Duration::from_millis(10);

struct Plug(BTreeMap<String, Power>);

#[derive(Clone, Copy)]
struct Power(Manner);

const POWER: Power = Power(Manner {
    confirm_timeout: Duration::from_secs(30),
    enforce: false,
});

impl Settable for Power {
    fn manner(&self) -> Option<Manner> {
        Some(self.0)
    }
}

impl Polled for Plug {
    type Property = Power;

    fn properties(&self) -> &BTreeMap<String, Power> {
        &self.0
    }
}

/// Reads every device in each cycle; half of the cycles are skipped.
#[derive(Default)]
struct Protocol {
    devices: Vec<DeviceName>,
    due: Option<Instant>,
    reads: u64,
}

impl Schedule for Protocol {
    fn next(&self) -> Option<Instant> {
        self.due
    }

    fn overruns(&self) -> u64 {
        self.reads
    }
}

impl Poller for Protocol {
    type Device = Plug;

    fn schedule(&self) -> &impl Schedule {
        self
    }

    fn tell_overruns(&self, _cycles: u64) {}

    fn replan(&mut self, units: &Units<Plug>, now: Instant) {
        self.devices = units.keys().cloned().collect();
        self.due = Some(now);
    }

    async fn read(&mut self, frame: &mut Frame<Plug>) {
        self.reads += 1;
        self.due = Some(Instant::now() + CYCLE);
        for device in &self.devices {
            let value = Observation::Value(self.reads.to_string());
            frame.good(device, "power", value, Clue::default());
            frame.say_state(device, true);
        }
    }

    async fn write(&mut self, frame: &mut Frame<Plug>, due: &Due) -> Outcome {
        let value = Observation::Value(due.value.clone());
        frame.good(&due.device, "power", value, Clue::default());
        Outcome::Sent
    }
}

fn name(device: &str) -> DeviceName {
    DeviceName::new("hall", device)
}

fn units(devices: &[&str]) -> Units<Plug> {
    let unit = Unit {
        settings: Arc::new(Plug(BTreeMap::from([("power".to_owned(), POWER)]))),
        written: Written::of(&served(lamp())),
        faulty: false,
    };
    let all = devices.iter().map(|device| (name(device), unit.clone()));
    Arc::new(all.collect())
}

async fn until(is: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never was so");
}

#[tokio::test]
async fn devices_come_and_go_and_skipped_cycles_stand_beside_their_values() {
    let (twins, stop, mut task) = (FakeTwins::new(), CancellationToken::new(), JoinSet::new());
    let hands = Hands {
        twins: Arc::clone(&twins) as Arc<dyn Twins>,
        stop: stop.clone(),
    };
    let (sender, receiver) = watch::channel(units(&["one"]));
    task.spawn(run(Protocol::default(), receiver, hands));
    until(|| twins.states(&name("one")).len() == 1).await;
    until(|| twins.is_noted("PollOverrun: ")).await;

    sender.send_replace(units(&["two"]));
    until(|| twins.states(&name("two")).len() == 1).await;
    tokio::time::sleep(10 * CYCLE).await;
    let seen = twins.observed(&name("one")).len();
    twins.wish(&name("two"), "power", "on", 1);
    let on = Observation::Value("on".to_owned());
    twins.until(&name("two"), "power", &on).await;
    assert_eq!(twins.observed(&name("one")).len(), seen, "it is served no more");

    // One that was forgotten is told anew how it is.
    sender.send_replace(units(&["one", "two"]));
    until(|| twins.states(&name("one")).len() == 2).await;
    stop.cancel();
    task.join_next().await.unwrap().unwrap();
}
