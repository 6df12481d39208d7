//! Devices by the hundred in one process, each with its own connection.
//!
//! An update is accepted when its result has come. Some load waits for results, with so many updates of
//! each device under way (throughput); other load comes at its own pace (latency, overload).

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use tokio::{
    task::{JoinSet, LocalSet},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    client::{Client, Output},
    payload::{self, Value},
};

/// The user that hears every document.
pub(super) const WATCHER: &str = "watcher";
/// So many updates of a device go out with one write, also when it is behind.
const AT_ONCE: usize = 64;
/// How long answers are waited for after the last update.
const GRACE: Duration = Duration::from_secs(30);
/// How long a listener waits for more documents.
const CALM: Duration = Duration::from_secs(1);

/// When the next update is due.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Pace {
    /// As soon as fewer than so many of its device have no result yet.
    Window(u64),
    /// So many a second, of all devices together.
    Rate(f64),
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) devices: u16,
    pub(super) properties: u64,
    pub(super) value: Value,
    pub(super) pace: Pace,
    pub(super) span: Duration,
    /// Whether somebody listens to the documents.
    pub(super) documents: bool,
}

/// How long something took, often; in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) count: u64,
    pub(super) p50: u64,
    pub(super) p99: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) sent: u64,
    /// Within the span.
    pub(super) accepted: u64,
    /// After it.
    pub(super) late: u64,
    pub(super) refused: u64,
    /// From each update to its result.
    pub(super) results: Spread,
    /// From each update to its document.
    pub(super) documents: Spread,
    /// What the load itself took, of one core, for each second of the span.
    pub(super) cpu: f64,
}

/// All that is noted meanwhile.
#[derive(Default)]
struct Notes {
    outcome: Outcome,
    results: Vec<u64>,
    documents: Vec<u64>,
}

impl Spread {
    fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |rank: usize| {
            let position = (samples.len() * rank).div_ceil(100).max(1);
            samples.get(position - 1).copied().unwrap_or_default()
        };
        Self {
            count: samples.len() as u64,
            p50: at(50),
            p99: at(99),
        }
    }
}

/// A device's name.
pub(super) fn device(index: u16) -> String {
    format!("bench-{index}")
}

/// Sends what the plan says, and counts.
pub(super) async fn run(plan: Plan) -> Result<Outcome> {
    LocalSet::new().run_until(all(plan)).await
}

async fn all(plan: Plan) -> Result<Outcome> {
    let notes = Rc::new(RefCell::new(Notes::default()));
    let mut clients = Vec::new();
    for index in 0..plan.devices {
        let name = device(index);
        let mut client = Client::connect(&format!("default/{name}")).await?;
        let topic = format!("$hw/events/device/default/{name}/twin/update");
        client.subscribe(&format!("{topic}/result")).await?;
        clients.push((client, topic));
    }
    let mut tasks = JoinSet::new();
    if plan.documents {
        let mut client = Client::connect(WATCHER).await?;
        client
            .subscribe("$hw/events/device/+/+/twin/update/document")
            .await?;
        let until = Instant::now() + plan.span;
        tasks.spawn_local(listen(client, until, Rc::clone(&notes)));
    }
    let (began, used) = (Instant::now(), cpu()?);
    for (index, (client, topic)) in (0_u32..).zip(clients) {
        let device = Device {
            client,
            topic,
            plan,
            began: began + phase(plan, index),
            end: began + plan.span,
            sent: 0,
            answered: 0,
            text: String::new(),
            notes: Rc::clone(&notes),
        };
        tasks.spawn_local(device.run());
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let cpu = cpu()?.saturating_sub(used).as_secs_f64() / began.elapsed().as_secs_f64();
    let Notes {
        outcome,
        results,
        documents,
    } = notes.take();
    Ok(Outcome {
        results: Spread::of(results),
        documents: Spread::of(documents),
        cpu,
        ..outcome
    })
}

/// Devices take turns, rather than all at once.
fn phase(plan: Plan, index: u32) -> Duration {
    match plan.pace {
        Pace::Window(_) => Duration::ZERO,
        Pace::Rate(rate) => Duration::from_secs_f64(f64::from(index) / rate),
    }
}

/// Hears documents until there are no more.
async fn listen(mut client: Client, until: Instant, notes: Rc<RefCell<Notes>>) -> Result<()> {
    let mut until = until + CALM;
    while let Ok(read) = timeout_at(until, client.read()).await {
        read?;
        until = until.max(Instant::now() + CALM);
        let now = now();
        client.take(|_, _, payload| {
            let written = payload::written(payload::mark(std::str::from_utf8(payload)?)?)?;
            notes.borrow_mut().documents.push(now.saturating_sub(written));
            Ok(())
        })?;
        client.flush().await?;
    }
    Ok(())
}

struct Device {
    client: Client,
    topic: String,
    plan: Plan,
    began: Instant,
    end: Instant,
    sent: u64,
    answered: u64,
    text: String,
    notes: Rc<RefCell<Notes>>,
}

impl Device {
    async fn run(mut self) -> Result<()> {
        while Instant::now() < self.end {
            for _ in 0..AT_ONCE {
                if self.is_due() {
                    self.send();
                }
            }
            self.client.flush().await?;
            let next = self.next_due();
            tokio::select! {
                read = self.client.read() => read?,
                () = sleep_until(next) => continue,
            }
            self.take()?;
        }
        self.notes.borrow_mut().outcome.sent += self.sent;
        let last = Instant::now() + GRACE;
        while self.answered < self.sent {
            let Ok(read) = timeout_at(last, self.client.read()).await else {
                break;
            };
            read?;
            self.take()?;
            self.client.flush().await?;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        match self.plan.pace {
            Pace::Window(most) => self.sent - self.answered < most,
            Pace::Rate(_) => self.next_due() < self.end && self.next_due() <= Instant::now(),
        }
    }

    fn next_due(&self) -> Instant {
        match self.plan.pace {
            Pace::Window(_) => self.end,
            Pace::Rate(rate) => {
                let each = f64::from(self.plan.devices) / rate;
                #[expect(clippy::cast_precision_loss, reason = "some thousands")]
                let offset = self.sent as f64 * each;
                self.end.min(self.began + Duration::from_secs_f64(offset))
            }
        }
    }

    fn send(&mut self) {
        let property = self.sent % self.plan.properties;
        self.sent += 1;
        payload::update(&mut self.text, (self.sent, now()), property, self.plan.value);
        self.client.output.publish(&self.topic, self.text.as_bytes());
    }

    fn take(&mut self) -> Result<()> {
        let (now, in_time) = (now(), Instant::now() < self.end);
        let (answered, notes) = (&mut self.answered, &self.notes);
        self.client.take(|_: &mut Output, _, payload| {
            let payload = std::str::from_utf8(payload)?;
            let mut notes = notes.borrow_mut();
            *answered += 1;
            if !payload.contains(r#""twin":"#) {
                notes.outcome.refused += 1;
                return Ok(());
            }
            let written = payload::written(payload::mark(payload)?)?;
            notes.results.push(now.saturating_sub(written));
            if in_time {
                notes.outcome.accepted += 1;
            } else {
                notes.outcome.late += 1;
            }
            Ok(())
        })
    }
}

/// Microseconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

/// What this process has used.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let spent = [usage.user_time(), usage.system_time()];
    let micros = spent.map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    let micros: i64 = micros.iter().sum();
    ensure!(micros >= 0, "the clock of this process runs backwards");
    Ok(Duration::from_micros(micros.unsigned_abs()))
}
