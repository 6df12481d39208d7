//! All devices of one driver: which tasks there are, and what each serves.
//!
//! **Invariant:** a task that fails or panics takes no other one with it, and is started again.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use protocol::devices::{DeviceName, DeviceState};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use super::driver::{Driver, Hands, Mistake, Reading, Unit, Units};
use super::outgoing::Outgoing;
use super::written::Written;
use crate::devices::{Clue, Observation, Served, Twins};

/// How long to leave a task alone that ended by itself.
const AGAIN: Duration = Duration::from_secs(5);
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// Serves every device of a driver until it is told to stop.
pub(crate) async fn run<D: Driver>(driver: Arc<D>, twins: Arc<dyn Twins>, stop: CancellationToken) {
    let mut changed = twins.changed();
    let mut fleet = Fleet {
        outgoing: Outgoing::new(Arc::clone(&twins)),
        hands: Hands {
            twins,
            stop: stop.child_token(),
        },
        driver,
        known: BTreeMap::new(),
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
        names: BTreeMap::new(),
        resting: BTreeMap::new(),
    };
    loop {
        changed.mark_unchanged();
        fleet.refresh();
        let again = fleet.resting.values().min().copied();
        tokio::select! {
            () = stop.cancelled() => break,
            alive = changed.changed() => if alive.is_err() { break },
            id = ended(&mut fleet.tasks) => fleet.over(id),
            _ = fleet.outgoing.settled() => {}
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
    }
    fleet.stop().await;
}

struct Fleet<D: Driver> {
    driver: Arc<D>,
    hands: Hands,
    outgoing: Outgoing,
    known: BTreeMap<DeviceName, Known<D>>,
    running: BTreeMap<D::Endpoint, Running<D>>,
    tasks: JoinSet<()>,
    names: BTreeMap<Id, D::Endpoint>,
    /// Endpoints whose task ended by itself, and until when they are left alone.
    resting: BTreeMap<D::Endpoint, Instant>,
}

struct Known<D: Driver> {
    served: Arc<Served>,
    place: Option<(D::Endpoint, Unit<D::Device>)>,
    mistakes: Vec<Mistake>,
}

struct Running<D: Driver> {
    units: watch::Sender<Units<D::Device>>,
    stop: CancellationToken,
}

impl<D: Driver> Fleet<D> {
    /// Makes what runs equal to what is served.
    fn refresh(&mut self) {
        let devices = self.hands.twins.devices();
        let mine: BTreeMap<_, _> = devices
            .iter()
            .filter(|(_, served)| self.driver.serves(&served.protocol))
            .collect();
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|name| !mine.contains_key(name))
            .cloned()
            .collect();
        for name in gone {
            self.known.remove(&name);
            self.outgoing.forget(&name);
        }
        for (name, served) in mine {
            self.read(name, served);
        }
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
        let mut wanted: BTreeMap<D::Endpoint, BTreeMap<DeviceName, Unit<D::Device>>> = BTreeMap::new();
        for (name, known) in &self.known {
            if let Some((endpoint, unit)) = &known.place {
                let units = wanted.entry(endpoint.clone()).or_default();
                units.insert(name.clone(), unit.clone());
            }
        }
        self.running.retain(|endpoint, running| {
            let stays = wanted.contains_key(endpoint);
            if !stays {
                running.stop.cancel();
            }
            stays
        });
        for (endpoint, units) in wanted
            .into_iter()
            .filter(|(endpoint, _)| !self.resting.contains_key(endpoint))
            .collect::<Vec<_>>()
        {
            self.serve(endpoint, Arc::new(units));
        }
    }

    fn serve(&mut self, endpoint: D::Endpoint, units: Units<D::Device>) {
        if let Some(running) = self.running.get(&endpoint) {
            running.units.send_if_modified(|before| {
                let differs = *before != units;
                if differs {
                    *before = units;
                }
                differs
            });
            return;
        }
        let stop = self.hands.stop.child_token();
        let (sender, receiver) = watch::channel(units);
        let hands = Hands {
            twins: Arc::clone(&self.hands.twins),
            stop: stop.clone(),
        };
        let span = info_span!("driver", protocol = self.driver.protocol(), ?endpoint);
        let work = Arc::clone(&self.driver).serve(endpoint.clone(), receiver, hands);
        let task = self.tasks.spawn(work.instrument(span));
        self.names.insert(task.id(), endpoint.clone());
        let units = sender;
        self.running.insert(endpoint, Running { units, stop });
    }

    /// Reads a manifest that changed, and says what is wrong with it.
    fn read(&mut self, name: &DeviceName, served: &Arc<Served>) {
        let before = self.known.get(name);
        if before.is_some_and(|known| Arc::ptr_eq(&known.served, served)) {
            return;
        }
        let Reading { good, mistakes } = self.driver.read(served);
        let place = good.map(|(endpoint, settings)| {
            let unit = Unit {
                settings: Arc::new(settings),
                written: Written::of(served),
                faulty: !mistakes.is_empty(),
            };
            (endpoint, unit)
        });
        if before.is_none_or(|known| known.mistakes != mistakes) {
            self.tell(served, &mistakes);
        }
        let served = Arc::clone(served);
        self.known.insert(
            name.clone(),
            Known {
                served,
                place,
                mistakes,
            },
        );
    }

    fn tell(&mut self, served: &Served, mistakes: &[Mistake]) {
        let name = served.name();
        if !mistakes.is_empty() {
            self.outgoing.forget(&name);
            self.outgoing.state(&name, DeviceState::Unhealthy);
        }
        for property in &served.properties {
            let of_it: Vec<_> = mistakes
                .iter()
                .filter(|mistake| {
                    mistake
                        .property
                        .as_ref()
                        .is_none_or(|name| *name == property.name)
                })
                .map(|mistake| mistake.text.as_str())
                .collect();
            if !of_it.is_empty() {
                let text = format!("device {name}, property {}: {}", property.name, of_it.join("; "));
                warn!("{text}");
                self.outgoing
                    .seen(&name, &property.name, Observation::Fault(text), Clue::default());
            }
        }
    }

    /// A task ended.
    fn over(&mut self, id: Id) {
        let Some(endpoint) = self.names.remove(&id) else {
            return;
        };
        // One that was told to stop may have a successor already.
        let succeeded = self.names.values().any(|other| *other == endpoint);
        if !succeeded && self.running.remove(&endpoint).is_some() {
            self.resting.insert(endpoint, Instant::now() + AGAIN);
        }
    }

    async fn stop(&mut self) {
        self.hands.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            warn!(protocol = self.driver.protocol(), "a driver did not end in time");
        }
    }
}

/// Waits for a task to end, for ever if there is none.
async fn ended(tasks: &mut JoinSet<()>) -> Id {
    match tasks.join_next_with_id().await {
        None => pending().await,
        Some(Ok((id, ()))) => id,
        Some(Err(error)) => {
            warn!(%error, "a driver's task failed; the others go on");
            error.id()
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use serde_json::json;

    use super::super::fake::FakeTwins;
    use super::*;

    /// Serves devices at the address in their settings; one at `panics` panics.
    struct Toy;

    impl Driver for Toy {
        type Endpoint = String;
        type Device = String;

        fn protocol(&self) -> &'static str {
            "toy"
        }

        fn read(&self, served: &Served) -> Reading<String, String> {
            let text = |key: &str| {
                served
                    .config
                    .get(key)
                    .and_then(|value| value.as_str())
                    .map(str::to_owned)
            };
            let at = text("at");
            let wrong = at
                .is_none()
                .then(|| vec!["protocol.configData.at is missing".to_owned()]);
            Reading {
                good: at.map(|at| (at, text("says").unwrap_or_default())),
                mistakes: Mistake::of_device(wrong.unwrap_or_default()).collect(),
            }
        }

        fn serve(
            self: Arc<Self>,
            endpoint: String,
            mut units: watch::Receiver<Units<String>>,
            hands: Hands,
        ) -> BoxFuture<'static, ()> {
            async move {
                assert_ne!(endpoint, "panics");
                let mut outgoing = Outgoing::new(Arc::clone(&hands.twins));
                loop {
                    let now = Arc::clone(&units.borrow_and_update());
                    for (name, unit) in now.iter() {
                        let value = Observation::Value(unit.settings.as_str().to_owned());
                        outgoing.seen(name, "p", value, Clue::default());
                    }
                    outgoing.drain(Duration::from_secs(1)).await;
                    tokio::select! {
                        () = hands.stop.cancelled() => return,
                        alive = units.changed() => if alive.is_err() { return },
                    }
                }
            }
            .boxed()
        }
    }

    fn manifest(name: &str, config: &serde_json::Value) -> serde_json::Value {
        json!({
            "metadata": {"name": name, "namespace": "hall"},
            "spec": {"protocol": {"protocolName": "toy", "configData": config}, "properties": [{"name": "p"}]}
        })
    }

    fn value(text: &str) -> Observation {
        Observation::Value(text.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_hurts_no_other_and_a_mistake_is_said() {
        let (twins, stop) = (FakeTwins::new(), CancellationToken::new());
        let name = |name: &str| DeviceName::new("hall", name);
        twins.serve([
            manifest("a", &json!({"at": "x", "says": "1"})),
            manifest("b", &json!({"at": "panics"})),
            manifest("c", &json!({})),
        ]);
        let mut set = JoinSet::new();
        set.spawn(run(
            Arc::new(Toy),
            Arc::clone(&twins) as Arc<dyn Twins>,
            stop.clone(),
        ));
        twins.until(&name("a"), "p", &value("1")).await;
        let fault = "device hall/c, property p: protocol.configData.at is missing";
        twins
            .until(&name("c"), "p", &Observation::Fault(fault.into()))
            .await;
        assert_eq!(twins.states(&name("c")), [DeviceState::Unhealthy]);
        twins.serve([
            manifest("a", &json!({"at": "x", "says": "2"})),
            manifest("b", &json!({"at": "y", "says": "3"})),
        ]);
        twins.until(&name("a"), "p", &value("2")).await;
        twins.until(&name("b"), "p", &value("3")).await;
        stop.cancel();
        set.join_next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_settings_that_matter_reach_a_task() {
        let (twins, stop) = (FakeTwins::new(), CancellationToken::new());
        let mut with_wish = manifest("a", &json!({"at": "x", "says": "1"}));
        twins.serve([with_wish.clone()]);
        let mut set = JoinSet::new();
        set.spawn(run(
            Arc::new(Toy),
            Arc::clone(&twins) as Arc<dyn Twins>,
            stop.clone(),
        ));
        let name = DeviceName::new("hall", "a");
        twins.until(&name, "p", &value("1")).await;
        with_wish["spec"]["properties"][0]["desired"] = json!({"value": "7"});
        twins.serve([with_wish]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(twins.observed(&name).len(), 1);
        stop.cancel();
        set.join_next().await.unwrap().unwrap();
    }
}
