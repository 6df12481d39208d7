//! The thin shell: connects, and carries between the broker, the bridge and the twins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use protocol::clock::Clock;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Setup;
use super::answers::{Done, fresh};
use super::bridge::Bridge;
use super::counters::{Counters, count};
use super::credentials::Access;
use super::dial::Dial;
use super::message::{Filter, Publish};
use super::outbox::Outgoing;
use super::payload::{self, Member};
use super::roll::{Change, Roll};
use super::topic::{Outbound, filters};
use super::version::{Lost, Session};
use super::wire::{Event, Wire};
use super::work::{carry_out, members, wishes, wishes_after};
use crate::devices::{Origin, Told, Twins};

/// How many devices are worked on at once.
const MOST_JOBS: usize = 1024;
/// How many events are taken before what follows from them is sent.
const MOST_EVENTS: usize = 64;
/// How many jobs end before more is read and written.
const MOST_AT_ONCE: usize = 256;
/// How much is heard then: more than jobs can have told, so that nothing large is held for being unheard.
const MOST_HEARD: usize = 4096;

/// Speaks with the site's broker until it is stopped; without a broker it tries on.
pub async fn run(setup: Setup, twins: Arc<dyn Twins>, clock: Clock, stop: CancellationToken) {
    let Setup {
        config,
        node,
        lost_power,
        counters,
    } = setup;
    let mut shell = Shell::new(node, &counters, twins, clock);
    if lost_power {
        shell.bridge.power_was_lost();
    }
    let (mut dial, mut news) = (Dial::default(), News::Nothing);
    while !stop.is_cancelled() {
        let lost = match Access::read(&config, shell.bridge.node()) {
            Ok(access) => {
                let mut wire = Wire::connect(dial.greeting, &access);
                tokio::select! {
                    () = stop.cancelled() => return wire.close().await,
                    lost = shell.session(&mut wire) => lost,
                }
            }
            Err(error) => Lost::Broken(error.to_string()),
        };
        let stood = shell.lost();
        if stood.is_some() {
            dial.greeting.connected();
        }
        news = news.tell(&config.address, &lost, stood.is_some());
        let pause = dial.lost(&lost, stood, rand::random());
        if stood.is_some() && dial.greeting.session == Session::Clean {
            count(&counters.sessions_dropped);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = shell.offline(pause) => {}
        }
    }
}

/// What the log says already of a broker that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Nothing,
    Absent,
}

impl News {
    fn tell(self, broker: &crate::devices::Broker, lost: &Lost, stood: bool) -> Self {
        match (self, stood) {
            (_, true) => {
                warn!(%broker, why = %lost, "lost the MQTT broker");
                Self::Nothing
            }
            (Self::Nothing, false) => {
                info!(%broker, why = %lost, "no MQTT broker answers; trying on");
                Self::Absent
            }
            (Self::Absent, false) => {
                debug!(%broker, why = %lost, "no MQTT broker answers");
                Self::Absent
            }
        }
    }
}

struct Shell {
    bridge: Bridge,
    counters: Arc<Counters>,
    twins: Arc<dyn Twins>,
    clock: Clock,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    told: broadcast::Receiver<Arc<Told>>,
    changed: watch::Receiver<u64>,
    roll: Roll,
    /// Since when there is a connection.
    since: Option<Instant>,
    /// Whether there ever was one.
    was_connected: bool,
    /// Whether this process knows that its subscriptions stand.
    subscribed: bool,
}

impl Shell {
    fn new(node: String, counters: &Arc<Counters>, twins: Arc<dyn Twins>, clock: Clock) -> Self {
        Self {
            bridge: Bridge::new(node, Arc::clone(counters)),
            counters: Arc::clone(counters),
            told: twins.told(),
            changed: twins.changed(),
            roll: Roll::of(twins.devices()),
            twins,
            clock,
            jobs: FuturesUnordered::new(),
            since: None,
            was_connected: false,
            subscribed: false,
        }
    }

    /// One connection, to its end.
    async fn session(&mut self, wire: &mut Wire) -> Lost {
        loop {
            if !self.catch_up() {
                return ended();
            }
            if let Err(lost) = self.pump(wire) {
                return lost;
            }
            tokio::select! {
                event = wire.next() => {
                    if let Err(lost) = self.events(wire, event) {
                        return lost;
                    }
                }
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.done(done),
                told = self.told.recv() => {
                    if !self.hear(told) {
                        return ended();
                    }
                }
                Ok(()) = self.changed.changed() => self.call_the_roll(),
            }
        }
    }

    /// Goes on with what was begun while there is no connection.
    async fn offline(&mut self, pause: Duration) {
        let pause = sleep(pause);
        tokio::pin!(pause);
        loop {
            self.begin_jobs();
            tokio::select! {
                () = &mut pause => return,
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.done(done),
                told = self.told.recv() => {
                    if !self.hear(told) {
                        return pause.await;
                    }
                }
            }
        }
    }

    /// The connection is gone; returns for how long it stood.
    fn lost(&mut self) -> Option<Duration> {
        self.bridge.lost();
        self.since.take().map(|since| since.elapsed())
    }

    /// Hands over what is due, without waiting.
    fn pump(&mut self, wire: &mut Wire) -> Result<(), Lost> {
        let now = self.now();
        self.remind(now);
        self.answer_questions(now);
        while wire.has_room()
            && let Some(outgoing) = self.bridge.next_outgoing(now)
        {
            let Outgoing { topic, payload, .. } = outgoing;
            let packet = wire.publish(Publish {
                topic,
                payload,
                qos: 1,
                retain: false,
            })?;
            self.bridge.sent(packet);
        }
        while let Some(packet) = self.bridge.next_ack() {
            wire.acknowledge(packet)?;
        }
        Ok(())
    }

    /// Does what needs no waiting, so that all that follows from it goes out together. Most jobs end
    /// as they begin. False when there will be no more to hear.
    fn catch_up(&mut self) -> bool {
        self.begin_jobs();
        for _ in 0..MOST_AT_ONCE {
            let Some(Some(done)) = self.jobs.next().now_or_never() else {
                break;
            };
            self.done(done);
            self.begin_jobs();
        }
        for _ in 0..MOST_HEARD {
            let told = match self.told.try_recv() {
                Ok(told) => Ok(told),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
            if !self.hear(told) {
                return false;
            }
        }
        true
    }

    fn begin_jobs(&mut self) {
        while self.jobs.len() < MOST_JOBS
            && let Some(job) = self.bridge.next_job()
        {
            self.jobs.push(carry_out(Arc::clone(&self.twins), job).boxed());
        }
    }

    /// Takes an event and those that came with it.
    fn events(&mut self, wire: &mut Wire, first: Result<Event, Lost>) -> Result<(), Lost> {
        self.event(wire, first?)?;
        for _ in 1..MOST_EVENTS {
            let Some(event) = wire.next().now_or_never() else {
                break;
            };
            self.event(wire, event?)?;
        }
        Ok(())
    }

    fn event(&mut self, wire: &mut Wire, event: Event) -> Result<(), Lost> {
        match event {
            Event::Up {
                session_present,
                largest,
            } => self.up(wire, session_present, largest)?,
            Event::Message(message) => {
                let now = self.now();
                self.bridge.message(&message, now);
            }
            Event::Subscribed { granted, .. } => {
                let refused = refused(&granted);
                self.subscribed = !refused;
                self.counters.subscribed.store(self.subscribed, Ordering::Relaxed);
                self.bridge.gathered();
                if refused {
                    warn!(
                        "the MQTT broker refused a subscription: its ACL must let edgecore read $hw/events/#"
                    );
                }
            }
            Event::Acknowledged(packet) => self.bridge.acknowledged(packet),
            Event::Refused { packet, why } => {
                if let Some(topic) = self.bridge.refused(packet) {
                    warn!(topic, why, "the MQTT broker refused this: see its ACL and limits");
                }
            }
        }
        Ok(())
    }

    /// What an earlier process subscribed to may be less than what this one reads, or may never have
    /// arrived; so the first connection of a process subscribes even where a session is present.
    fn up(&mut self, wire: &mut Wire, session_present: bool, largest: usize) -> Result<(), Lost> {
        info!(session_present, "the MQTT broker answers");
        if std::mem::replace(&mut self.was_connected, true) {
            count(&self.counters.reconnects);
        } else {
            // What was wished while this process did not run.
            self.bridge.missed(self.twins.devices().keys().cloned());
        }
        self.since = Some(Instant::now());
        self.bridge.connected(session_present, largest);
        if !session_present || !self.subscribed {
            self.subscribed = false;
            let filter = |path| Filter { path, always: false };
            wire.subscribe(filters(self.bridge.node()).into_iter().map(filter))?;
        }
        self.counters.subscribed.store(self.subscribed, Ordering::Relaxed);
        self.call_the_roll();
        Ok(())
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        self.bridge.done(done, now);
    }

    /// False when there will be no more.
    fn hear(&mut self, told: Result<Arc<Told>, RecvError>) -> bool {
        match told {
            Ok(told) if told.origin == Origin::Mqtt => {}
            Ok(told) => self.bridge.told(&told, &wishes_after(&*self.twins, &told)),
            Err(RecvError::Lagged(missed)) => {
                self.counters.dropped_out.fetch_add(missed, Ordering::Relaxed);
                self.bridge.missed(self.twins.devices().keys().cloned());
            }
            Err(RecvError::Closed) => return false,
        }
        true
    }

    /// Tells clients of devices that came and went, once there is somebody to tell.
    fn call_the_roll(&mut self) {
        if !self.bridge.is_connected() {
            return;
        }
        let now = self.now();
        for change in self.roll.call(self.twins.devices()) {
            let (device, here, gone) = match change {
                Change::Added(device) => (device, true, false),
                Change::Removed(device) => (device, false, true),
                Change::Replaced(device) => (device, true, true),
                Change::Updated(device) => {
                    let payload = payload::device_updated(&fresh(), now);
                    self.send(Outbound::DeviceUpdated(&device).topic(), payload);
                    continue;
                }
            };
            let member = Member {
                standing: self.twins.standing(&device),
                device,
            };
            let of = |is: bool| if is { std::slice::from_ref(&member) } else { &[] };
            let payload = payload::membership_updated(&fresh(), now, of(here), of(gone));
            let topic = Outbound::MembershipUpdated(self.bridge.node()).topic();
            self.send(topic, payload);
        }
    }

    fn remind(&mut self, now: i64) {
        while let Some(device) = self.bridge.next_missed() {
            let wishes = wishes(&*self.twins, &device);
            self.bridge.remind(&device, &wishes, now);
        }
    }

    fn answer_questions(&mut self, now: i64) {
        let mut list = None;
        while let Some((arrival, event_id)) = self.bridge.next_question() {
            let list = list.get_or_insert_with(|| members(&*self.twins));
            let payload = payload::membership(&event_id, now, list);
            self.bridge.membership(arrival, payload);
        }
    }

    fn send(&mut self, topic: String, payload: bytes::Bytes) {
        self.bridge.send(Outgoing {
            topic,
            payload,
            answers: None,
        });
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_millis()).unwrap_or(i64::MAX)
    }
}

/// The last of the filters is for a number of the broker's own, which it may keep to itself.
fn refused(granted: &[bool]) -> bool {
    granted
        .split_last()
        .is_none_or(|(_, granted)| granted.contains(&false))
}

fn ended() -> Lost {
    Lost::Broken("the twins have ended".to_owned())
}
