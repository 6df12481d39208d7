//! A hundred devices of ten properties on one node, which speak with its broker.
//!
//! The load, and the stub in edgecore's place, are this program again, on the device; see [`enter`].

mod client;
mod load;
mod payload;
mod shown;
mod site;
mod stub;

use std::{future::Future, process::exit, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{EdgeMachine, Testbed, mosquitto};
use tokio::time::{Instant, sleep};

use self::{
    load::{Outcome, Pace, Plan},
    payload::Value,
    site::Used,
};
use crate::{
    figures::{Figure, Unit},
    memory::{rest, service},
    show::{note, step},
    stolen::Stolen,
    wire::Reading,
};

/// The first argument of a load, and of a stub.
const LOAD: &str = "devices-load";
const STUB: &str = "devices-stub";

const DEVICES: u16 = 100;
const PROPERTIES: u64 = 10;
/// The size of an update.
const SIZE: usize = 200;
/// Updates of each device that have no result yet, when as many are sent as are taken.
const WINDOW: u64 = 16;
/// How long the load lasts that is measured.
const SPAN: Duration = Duration::from_secs(15);
/// More than a node takes, and for how long.
const FLOOD: f64 = 20_000.0;
const FLOODED: Duration = Duration::from_secs(40);
/// What comes before a steady load is steady.
const WARM: Duration = Duration::from_secs(10);

/// Turns this process into a load or a stub when it was started as one.
pub(crate) fn enter() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match *args {
        [LOAD, plan] => alone(async {
            let outcome = load::run(serde_json::from_str(plan)?).await?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }),
        [STUB] => alone(stub::run()),
        _ => return,
    };
    if let Err(error) = outcome {
        eprintln!("{error:#}");
        exit(1)
    }
    exit(0)
}

fn alone(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// All figures of devices, on a node of their own.
pub(crate) async fn measure(testbed: &Testbed, settle: Duration) -> Result<Vec<Figure>> {
    let edge = step("an edge node with a broker", site::join(testbed)).await?;
    step("100 devices of 10 properties", site::devices(testbed, &edge)).await?;
    rest("with 100 devices", settle).await?;
    let rss = service(&edge.machine, "edgecore").await?;
    let online = flash(&edge, settle, "online").await?;
    edge.machine.cut()?;
    let offline = flash(&edge, settle, "offline").await;
    edge.machine.restore().await?;
    note(&format!(
        "flash offline, as bytes a day: {:.1} MB",
        offline? / 1e6
    ));
    step(
        "the link back",
        tests::testbed::node_back(&testbed.client(), edge.machine.name(), crate::stage::PATIENCE),
    )
    .await?;
    let shown = step(
        "10 devices once a second, until DeviceStatus shows it",
        shown::measure(testbed, &edge),
    )
    .await?;
    step_aside(testbed, true)?;
    let ours = both(&edge, "edgecore").await?;
    edge.machine.stop("edgecore")?;
    let stub = site::stub(&edge).await?;
    let floor = both(&edge, "a stub that keeps nothing").await?;
    drop(stub);
    step_aside(testbed, false)?;
    edge.machine.start("edgecore")?;
    step("all devices again", site::devices(testbed, &edge)).await?;
    flood(&edge).await?;
    let pair = |name, unit, of: fn(&Both) -> f64| Figure {
        floor: Some(of(&floor)),
        ..Figure::ours(name, unit, of(&ours))
    };
    Ok(vec![
        pair("twin_updates_per_s", Unit::PerSecond, |both| both.rate),
        pair("twin_latency_1000.p99", Unit::Milliseconds, |both| both.latency),
        Figure::ours("twin_report_to_cr.p50", Unit::Milliseconds, shown),
        Figure::ours("edgecore_rss.devices100", Unit::Bytes, rss),
        Figure::ours("flash_bytes_day.devices100", Unit::Bytes, online),
    ])
}

/// What a device shares no processor with: the control plane, and the cluster's node with cloudcore.
fn step_aside(testbed: &Testbed, aside: bool) -> Result<()> {
    testbed.plane.step_aside(aside)?;
    testbed.node.machine.step_aside(aside)
}

/// The two figures that have a floor.
struct Both {
    rate: f64,
    latency: f64,
}

async fn both(edge: &EdgeMachine, who: &str) -> Result<Both> {
    let calm = Plan {
        devices: DEVICES,
        properties: PROPERTIES,
        value: Value::Filling(SIZE),
        pace: Pace::Rate(1000.0),
        span: SPAN,
        documents: true,
    };
    let slow = observed(edge, calm, &format!("1000 updates a second, {who}")).await?;
    ensure!(
        slow.documents.count == slow.sent,
        "{} documents of {} updates",
        slow.documents.count,
        slow.sent
    );
    let full = Plan {
        pace: Pace::Window(WINDOW),
        documents: false,
        ..calm
    };
    let fast = observed(edge, full, &format!("as many updates as are taken, {who}")).await?;
    Ok(Both {
        rate: per_second(fast.accepted, SPAN),
        latency: milliseconds(slow.documents.p99),
    })
}

/// Load, with what everybody used meanwhile.
async fn observed(edge: &EdgeMachine, plan: Plan, what: &str) -> Result<Outcome> {
    let machine = &edge.machine;
    let services = ["mosquitto", "edgecore"];
    let mut before = Vec::new();
    for service in services {
        before.push(Used::by(machine, service).await.ok());
    }
    let stolen = Stolen::now()?;
    let outcome = step(what, site::load(edge, plan)).await?;
    let stolen = Stolen::now()?.since(stolen);
    let mut used = vec![format!("load {:.2}", outcome.cpu)];
    for (service, before) in services.into_iter().zip(before) {
        if let Some(before) = before {
            let since = Used::by(machine, service).await?.since(&before);
            used.push(format!("{service} {since:.2}"));
        }
    }
    let used = used.join(", ");
    let spread = |spread: load::Spread| {
        format!(
            "p50 {:.1} ms, p99 {:.1} ms",
            milliseconds(spread.p50),
            milliseconds(spread.p99)
        )
    };
    note(&format!(
        "{what}: {:.0}/s accepted, {} sent, {} late, {} refused\n  results {}; documents {}\n  of one core: {used}; {stolen}",
        per_second(outcome.accepted, plan.span),
        outcome.sent,
        outcome.late,
        outcome.refused,
        spread(outcome.results),
        spread(outcome.documents),
    ));
    ensure!(
        outcome.refused == 0 && outcome.accepted + outcome.late == outcome.sent,
        "not every update was accepted"
    );
    Ok(outcome)
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "some seconds at most")]
fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// What 100 counters at 1/s have the node write, as bytes a day.
async fn flash(edge: &EdgeMachine, settle: Duration, how: &str) -> Result<f64> {
    let counters = Plan {
        devices: DEVICES,
        properties: 1,
        value: Value::Count,
        pace: Pace::Rate(f64::from(DEVICES)),
        span: settle + 2 * WARM,
        documents: false,
    };
    let read = async {
        sleep(WARM).await;
        let before = Reading::of_flash(&edge.machine, "edgecore").await?;
        sleep(settle).await;
        let after = Reading::of_flash(&edge.machine, "edgecore").await?;
        Ok(after.a_day_since(&before))
    };
    let both = async { tokio::try_join!(read, site::load(edge, counters)) };
    let (a_day, outcome) = step(&format!("100 counters at 1/s, {how}"), both).await?;
    ensure!(
        outcome.refused == 0 && outcome.accepted + outcome.late == outcome.sent,
        "of {} counts {} were accepted",
        outcome.sent,
        outcome.accepted + outcome.late
    );
    Ok(a_day)
}

/// Memory under more than the node takes: read all along, the most in each half.
async fn flood(edge: &EdgeMachine) -> Result<()> {
    let plan = Plan {
        devices: DEVICES,
        properties: PROPERTIES,
        value: Value::Filling(SIZE),
        pace: Pace::Rate(FLOOD),
        span: FLOODED,
        documents: false,
    };
    let machine = &edge.machine;
    let held = async {
        let (began, mut most) = (Instant::now(), [[0_f64; 2]; 2]);
        while began.elapsed() < FLOODED {
            let half = usize::from(began.elapsed() > FLOODED / 2);
            for (service_of, name) in ["mosquitto", "edgecore"].into_iter().enumerate() {
                let now = service(machine, name).await?;
                most[service_of][half] = most[service_of][half].max(now);
            }
            sleep(Duration::from_secs(1)).await;
        }
        anyhow::Ok(most)
    };
    let what = format!("{FLOOD} updates a second, more than are taken");
    let both = async { tokio::try_join!(held, async { Ok(site::load(edge, plan).await) }) };
    let (most, outcome) = step(&what, both).await?;
    let outcome = outcome.map_or_else(|error| format!("{error:#}"), |outcome| format!("{outcome:?}"));
    let of = |service: usize| {
        most[service]
            .map(|bytes| format!("{:.1} MB", bytes / 1e6))
            .join(", then ")
    };
    note(&format!(
        "{what}: {outcome}\n  mosquitto {}; edgecore {}",
        of(0),
        of(1)
    ));
    mosquitto::publish(edge, "default/bench-0", ("probe", "probe"))
        .await
        .context("the broker after the flood")
}
