//! A hundred devices that count: what was accepted is shown, whatever breaks meanwhile.
//!
//! At any time, for every device: what is shown was said, and never falls; once the link stands, what
//! was accepted is shown, or something newer; and when all is quiet, shown, accepted and said are equal.

mod shown;

use std::{collections::BTreeMap, env, fmt, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed,
    machine::Cable,
    mosquitto,
    mqtt_load::{Counters, Load, PROPERTY},
    wait::{Look, until},
};
use tokio::time::{Instant, sleep};

use self::shown::Shown;
use crate::{
    devices::site,
    world::{PATIENCE, World, apply, delete},
};

crate::tests![
    a_hundred_counters_lose_nothing_to_two_hundred_kills_and_cuts,
    what_counters_were_told_is_on_flash_outlives_power_cuts,
];

const DEVICES: usize = 100;
const BLOWS: usize = 204;
/// After so many blows the link is mended, and what was accepted must arrive.
const ROUND: usize = 51;
/// Each device says a number so often.
const PACE: Duration = Duration::from_secs(1);
/// The seed of a run that is to be repeated.
const SEED: &str = "E2E_SEED";

/// Which devices' values are on flash before they are accepted, link or not.
const fn is_durable(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// A model, and devices of it on a node whose names begin so.
fn manifests(stem: &str, names: &[String], node: &str) -> Value {
    let model = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": { "name": stem, "namespace": "default" },
        "spec": { "properties": [{ "name": PROPERTY, "type": "INT", "accessMode": "ReadOnly" }] },
    });
    let device = |(number, name): (usize, &String)| {
        let name = name.trim_start_matches("default/");
        json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": { "name": name, "namespace": "default", "labels": { "stem": stem } },
            "spec": { "deviceModelRef": { "name": stem }, "nodeName": node,
                      "properties": [{ "name": PROPERTY, "durable": is_durable(number) }] },
        })
    };
    let devices = names.iter().enumerate().map(device);
    let items: Vec<Value> = std::iter::once(model).chain(devices).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

async fn forget(testbed: &Testbed, stem: &str) -> Result<()> {
    delete(testbed, &["device", "--selector", &format!("stem={stem}")]).await?;
    delete(testbed, &["devicemodel", stem]).await
}

/// Devices on a node of the test's own, all of which have been heard.
struct Scene {
    site: EdgeMachine,
    counters: Arc<Counters>,
    /// None while the machine is off.
    load: Option<Load>,
    shown: Shown,
}

impl Scene {
    async fn set(world: &World, stem: &str, count: usize) -> Result<Self> {
        let names: Vec<String> = (0..count)
            .map(|number| format!("default/{stem}-{number}"))
            .collect();
        let users: Vec<&str> = names.iter().map(String::as_str).collect();
        let site = site(world, &users).await?;
        let testbed = world.testbed().await?;
        apply(testbed, &manifests(stem, &names, site.machine.name())).await?;
        let counters = Counters::new(names);
        let shown = Shown::follow(testbed.client(), &counters);
        let mut scene = Self {
            site,
            counters,
            load: None,
            shown,
        };
        scene.count().await?;
        // Until the node knew them it did not take them.
        scene.counters.take_refusals();
        Ok(scene)
    }

    /// Begins to count, and returns once every device has been heard.
    async fn count(&mut self) -> Result<()> {
        self.load = Some(Load::start(&self.site.machine, &self.counters, PACE)?);
        self.counters.heard(PATIENCE).await
    }

    /// Everything arrives, and nothing was refused.
    async fn end(mut self, world: &World, stem: &str) -> Result<()> {
        self.load
            .as_ref()
            .context("nobody counts")?
            .rest(PATIENCE)
            .await?;
        self.shown.complete(PATIENCE).await?;
        let refusals = self.counters.take_refusals();
        ensure!(refusals.is_empty(), "refused:\n{}", refusals.join("\n"));
        println!(
            "{} values said, {} versions shown",
            self.counters.total(),
            self.shown.versions()
        );
        drop(self.load.take());
        forget(world.testbed().await?, stem).await?;
        world.retire(self.site).await
    }
}

/// What happens to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// `kill -9` of edgecore.
    Kill,
    /// The link is cut.
    Cut,
    /// The link is mended.
    Restore,
    /// The broker is restarted.
    Broker,
}

/// Blows at random: one seed, one sequence.
struct Storm {
    dice: StdRng,
    is_cut: bool,
    dealt: BTreeMap<Blow, usize>,
}

/// A new one, which is told, or the one that is asked for.
fn dice() -> Result<StdRng> {
    let seed = match env::var(SEED) {
        Ok(seed) => seed.parse().context(SEED)?,
        Err(_) => rand::random(),
    };
    println!("{SEED}={seed}");
    Ok(StdRng::seed_from_u64(seed))
}

impl Storm {
    fn new() -> Result<Self> {
        Ok(Self {
            dice: dice()?,
            is_cut: false,
            dealt: BTreeMap::new(),
        })
    }

    async fn deal(&mut self, site: &EdgeMachine) -> Result<()> {
        let blow = match self.dice.random_range(0..100) {
            0..55 => Blow::Kill,
            55..97 if self.is_cut => Blow::Restore,
            55..97 => Blow::Cut,
            _ => Blow::Broker,
        };
        match blow {
            Blow::Kill => kill(site).await?,
            Blow::Cut => {
                site.machine.cut()?;
                self.is_cut = true;
            }
            Blow::Restore => self.mend(site).await?,
            Blow::Broker => {
                mosquitto::stop(site)?;
                mosquitto::resume(site).await?;
            }
        }
        *self.dealt.entry(blow).or_default() += 1;
        // Mostly in the middle of whatever the last one has set going, at times after it.
        let most = if self.dice.random_ratio(1, 6) { 3_000 } else { 700 };
        sleep(Duration::from_millis(self.dice.random_range(50..most))).await;
        Ok(())
    }

    async fn mend(&mut self, site: &EdgeMachine) -> Result<()> {
        self.is_cut = false;
        site.machine.restore().await
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dealt: Vec<_> = self
            .dealt
            .iter()
            .map(|(blow, times)| format!("{blow:?} {times}"))
            .collect();
        out.write_str(&dealt.join(", "))
    }
}

/// One that is down just now is killed once it is up again.
async fn kill(site: &EdgeMachine) -> Result<()> {
    until("edgecore is up", Duration::from_secs(20), || async {
        site.machine.kill("edgecore").map(Look::Done)
    })
    .await
}

async fn a_hundred_counters_lose_nothing_to_two_hundred_kills_and_cuts(world: &World) -> Result<()> {
    let scene = Scene::set(world, "counter", DEVICES).await?;
    let mut storm = Storm::new()?;
    let began = Instant::now();
    for blow in 1..=BLOWS {
        storm
            .deal(&scene.site)
            .await
            .with_context(|| format!("blow {blow}, so far {storm}"))?;
        scene
            .shown
            .check()
            .with_context(|| format!("blow {blow}, so far {storm}"))?;
        if blow % ROUND == 0 {
            storm.mend(&scene.site).await?;
            scene
                .shown
                .caught_up(PATIENCE)
                .await
                .with_context(|| format!("blow {blow}, so far {storm}"))?;
        }
    }
    println!("{storm} in {:?}", began.elapsed());
    scene.end(world, "counter").await
}

/// Even numbers are durable; the others are while the node is offline, which it is in every other round.
async fn what_counters_were_told_is_on_flash_outlives_power_cuts(world: &World) -> Result<()> {
    const ROUNDS: usize = 4;
    /// A cut that the device is not told of: what waits for two seconds makes it offline.
    const OFFLINE: Duration = Duration::from_secs(4);
    let mut scene = Scene::set(world, "powerless", 20).await?;
    let mut dice = dice()?;
    for round in 0..ROUNDS {
        let is_offline = round % 2 == 1;
        if is_offline {
            scene.site.machine.cut()?;
            sleep(OFFLINE).await;
        }
        sleep(Duration::from_millis(dice.random_range(1_000..3_000))).await;
        // As every half minute: what the broker knows after the power cut.
        scene.site.machine.shell("kill -USR1 $(pidof mosquitto)").await?;
        sleep(Duration::from_millis(dice.random_range(100..3_000))).await;
        scene.site.machine.power_off()?;
        drop(scene.load.take());
        let promised: Vec<u64> = scene
            .counters
            .all()
            .iter()
            .enumerate()
            .map(|(number, counter)| {
                if is_offline || is_durable(number) {
                    counter.accepted()
                } else {
                    0
                }
            })
            .collect();
        scene.site.machine.boot(Cable::Unplugged).await?;
        // Another cable than the one that was cut.
        scene.site.machine.plug().await?;
        // Nobody says anything new: what is shown now is what flash held.
        let shown = scene.shown.reached(&promised, PATIENCE).await;
        shown.with_context(|| format!("round {round}"))?;
        sleep(Duration::from_secs(2)).await;
        scene.shown.check().with_context(|| format!("round {round}"))?;
        scene.count().await?;
        scene
            .shown
            .caught_up(PATIENCE)
            .await
            .with_context(|| format!("round {round}"))?;
    }
    scene.end(world, "powerless").await
}
