//! One broker and all devices behind it.

mod hears;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use protocol::devices::DeviceState;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Mqtt;
use super::config::{Endpoint, Settled};
use super::decode::Routes;
use super::link::Link;
use super::presence::Presence;
use super::unacked::Unacked;
use crate::backoff::Backoff;
use crate::devices::credentials::Credentials;
use crate::devices::drivers::driver::{Hands, Units};
use crate::devices::drivers::outgoing::Outgoing;
use crate::devices::drivers::pace::pause;
use crate::devices::drivers::wishes::{Due, Wishes};
use crate::devices::mqtt::{Event, Greeting, Lost, Session, count};
use crate::devices::{Clue, Observation};

/// A broker that is away for less than this costs nobody its state.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a device may use credentials that it might not.
const AGAIN: Duration = Duration::from_secs(30);
/// A connection that lasted for less than this is no better than none.
const LASTING: Duration = Duration::from_secs(10);
/// How long a device may take to tell whether it is there.
const TO_TELL: Duration = Duration::from_millis(1500);
/// How long reports may take at the end.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    driver: Arc<Mqtt>,
    endpoint: Endpoint,
    all: watch::Receiver<Units<Settled>>,
    /// Those that may use the credentials.
    units: Units<Settled>,
    credentials: Option<Credentials>,
    hands: Hands,
    outgoing: Outgoing,
    wishes: Wishes,
    presence: Presence,
    routes: Routes,
    link: Option<Link>,
    /// What came over this link and is not acknowledged.
    unacked: Unacked<u16>,
    /// What was written over this link and the broker has not acknowledged, by its packet's number.
    under_way: BTreeMap<u16, Due>,
    /// Since when the broker answers on this link.
    up: Option<Instant>,
    /// What was asked for and may be granted, over this link or in the session that it goes on with.
    subscribed: BTreeSet<String>,
    /// The power failed since the last process, and the broker has yet to answer the subscription of this
    /// one: what it delivers again until then it may have forgotten that it delivered, and what came since.
    recalls: bool,
    backoff: Backoff,
    greeting: Greeting,
    /// When to connect again.
    retry: Option<Instant>,
    /// When a broker that is away counts as gone.
    gone: Option<Instant>,
    /// When to look again whether a device may use the credentials that it may not use now.
    again: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        driver: Arc<Mqtt>,
        endpoint: Endpoint,
        units: watch::Receiver<Units<Settled>>,
        hands: Hands,
    ) -> Self {
        Self {
            // A broker elsewhere has not lost its power: what it delivers again it may not have delivered.
            recalls: driver.config.lost_power && endpoint.broker.is_none(),
            driver,
            endpoint,
            all: units,
            units: Units::default(),
            credentials: None,
            outgoing: Outgoing::tracking(Arc::clone(&hands.twins)),
            hands,
            wishes: Wishes::default(),
            presence: Presence::default(),
            routes: Routes::default(),
            link: None,
            unacked: Unacked::default(),
            under_way: BTreeMap::new(),
            up: None,
            subscribed: BTreeSet::new(),
            backoff: Backoff::default(),
            greeting: Greeting::default(),
            retry: Some(Instant::now()),
            gone: Some(Instant::now() + PATIENCE),
            again: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut changed = self.hands.twins.changed();
        self.rewire();
        loop {
            self.timers();
            self.acknowledge();
            let next = [self.retry, self.gone, self.again, self.wishes.next()]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                () = self.hands.stop.cancelled() => break,
                alive = self.all.changed() => match alive {
                    Ok(()) => self.rewire(),
                    Err(_) => break,
                },
                alive = changed.changed() => {
                    if alive.is_err() {
                        break;
                    }
                    for device in self.wishes.devices() {
                        self.look(&device);
                    }
                }
                device = self.outgoing.settled() => self.look(&device),
                event = next_event(&mut self.link) => self.happened(event),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        self.outgoing.drain(GRACE).await;
        self.acknowledge();
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    /// Takes over which devices are served, and how.
    fn rewire(&mut self) {
        self.admit();
        let units = Arc::clone(&self.units);
        for gone in self
            .wishes
            .devices()
            .into_iter()
            .filter(|name| !units.contains_key(name))
        {
            self.wishes.forget(&gone);
            if !self.all.borrow().contains_key(&gone) {
                self.outgoing.forget(&gone);
            }
        }
        for (name, unit) in units.iter() {
            self.wishes.serve(name, &unit.settings.properties);
        }
        let told = units
            .iter()
            .map(|(name, unit)| (name.clone(), unit.settings.availability.is_some(), unit.faulty));
        self.presence.serve(told);
        self.routes = Routes::new(&units);
        self.subscribe();
        self.say_states();
        for name in units.keys() {
            self.look(name);
        }
    }

    /// Takes the devices whose namespace may use the credentials, and tells the others.
    fn admit(&mut self) {
        let all = Arc::clone(&self.all.borrow_and_update());
        let mut asked: BTreeMap<&str, Result<(), String>> = BTreeMap::new();
        let mut admitted = BTreeMap::new();
        self.again = None;
        for (name, unit) in all.iter() {
            let (driver, endpoint, credentials) = (&self.driver, &self.endpoint, &mut self.credentials);
            let answer = asked.entry(&name.namespace).or_insert_with(|| {
                let found = driver.credentials(endpoint, &name.namespace);
                found
                    .map(|found| *credentials = found)
                    .map_err(|error| error.to_string())
            });
            match answer {
                Ok(()) => drop(admitted.insert(name.clone(), unit.clone())),
                Err(why) => {
                    for property in unit.settings.properties.keys() {
                        let fault = Observation::Fault(why.clone());
                        self.outgoing.seen(name, property, fault, Clue::default());
                    }
                    self.outgoing.state(name, DeviceState::Unhealthy);
                    self.again = Some(Instant::now() + AGAIN);
                }
            }
        }
        self.units = Arc::new(admitted);
    }

    /// Makes the subscriptions equal to the routes.
    fn subscribe(&mut self) {
        let Some(link) = self.link.as_mut().filter(|_| self.up.is_some()) else {
            return;
        };
        let wanted: BTreeSet<String> = self.routes.topics().map(|(topic, _)| topic.to_owned()).collect();
        for gone in self.subscribed.difference(&wanted) {
            link.unsubscribe(gone);
        }
        let missing: Vec<_> = self
            .routes
            .topics()
            .filter(|(topic, _)| !self.subscribed.contains(*topic))
            .collect();
        match link.subscribe(&missing) {
            Ok(()) => self.subscribed = wanted,
            Err(lost) => self.down(&lost),
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.connect();
        }
        if self.again.is_some_and(|at| at <= now) {
            self.rewire();
        }
        if self.gone.is_some_and(|at| at <= now) {
            self.gone = None;
            self.presence.broker(false);
            self.say_states();
        }
        for device in self.wishes.ripe(now) {
            self.look(&device);
        }
    }

    fn connect(&mut self) {
        // What was changed in the credentials counts from the next connection on.
        if self.endpoint.credentials.is_some() {
            self.rewire();
        }
        if self.units.is_empty() {
            return self.down(&Lost::Broken("no device may use it".to_owned()));
        }
        let broker = self.driver.broker(&self.endpoint);
        let id = self.driver.client_id(&self.endpoint);
        match Link::open(broker, id, self.credentials.as_ref(), self.greeting) {
            Ok(link) => self.link = Some(link),
            Err(error) => {
                let why = error.to_string();
                self.blame(&why);
                self.down(&Lost::Broken(why));
            }
        }
    }

    /// What an operator has to mend is said on every property.
    fn blame(&mut self, why: &str) {
        let units = Arc::clone(&self.units);
        for (device, unit) in units.iter() {
            for property in unit.settings.properties.keys() {
                let fault = Observation::Fault(why.to_owned());
                self.outgoing.seen(device, property, fault, Clue::default());
            }
        }
    }

    fn happened(&mut self, event: Result<Event, Lost>) {
        match event {
            Ok(Event::Up { session_present, .. }) => self.up(session_present),
            Ok(Event::Message(message)) => {
                let recalled = self.recalls && message.repeat;
                if recalled {
                    count(&self.driver.config.counters.retained_ignored);
                }
                let tickets = self.heard(&message, recalled);
                if let Some(packet) = message.packet {
                    self.unacked.push(packet, tickets);
                }
            }
            Ok(Event::Subscribed { granted, .. }) => {
                self.recalls = false;
                if granted.contains(&false) {
                    warn!(
                        "the broker refused subscriptions: its ACL must let edgecore read the devices' topics"
                    );
                }
            }
            Ok(Event::Acknowledged(packet)) => self.arrived(packet),
            Ok(Event::Refused { packet, why }) => self.turned_away(packet, &why),
            Err(lost) => self.down(&lost),
        }
    }

    fn up(&mut self, session_present: bool) {
        info!(session_present, "the broker answers");
        self.up = Some(Instant::now());
        self.gone = None;
        if self.greeting.session == Session::Clean {
            warn!("what the broker had kept was dropped, since it could not be taken");
        }
        self.greeting.connected();
        if session_present {
            // A broker keeps a device's will for the node, and mostly not what the device says when it is back
            // (QoS 0): whether devices are there is asked for again.
            for (topic, _) in self.routes.topics().filter(|(_, availability)| *availability) {
                self.subscribed.remove(topic);
            }
        } else {
            self.subscribed.clear();
            self.recalls = false;
        }
        self.subscribe();
        self.presence.broker(true);
        self.say_states();
        self.reachable();
    }

    fn down(&mut self, lost: &Lost) {
        // Two clients of one name end each other again and again: each waits longer and longer.
        if self.up.is_some_and(|up| up.elapsed() >= LASTING) {
            self.backoff.reset();
        }
        let wait = if self.greeting.lost(lost, self.up.is_some()) {
            Duration::ZERO
        } else {
            pause(&mut self.backoff)
        };
        warn!(why = %lost, ?wait, "the broker is not there");
        // A session that goes on has what the broker granted, and nothing else that was asked for.
        for topic in self.link.take().iter().flat_map(Link::lacking) {
            self.subscribed.remove(topic);
        }
        self.unacked.clear();
        self.under_way.clear();
        let now = Instant::now();
        if self.up.take().is_some() {
            if self.greeting.session == Session::Clean {
                count(&self.driver.config.counters.sessions_dropped);
            }
            self.gone = Some(now + PATIENCE);
        }
        self.retry = Some(now + wait);
    }

    /// Acknowledges what the twins have taken, so that the broker keeps the rest.
    fn acknowledge(&mut self) {
        for ticket in self.outgoing.take_done() {
            self.unacked.done(ticket);
        }
        let Some(link) = &mut self.link else { return };
        while let Some(packet) = self.unacked.ready() {
            if !link.acknowledge(*packet) {
                return;
            }
            self.unacked.acknowledged();
        }
    }

    fn say_states(&mut self) {
        for (device, state) in self.presence.states() {
            self.outgoing.state(&device, state);
        }
    }

    fn reachable(&mut self) {
        self.wishes.reachable(Instant::now());
    }
}

async fn next_event(link: &mut Option<Link>) -> Result<Event, Lost> {
    match link {
        Some(link) => link.next().await,
        None => pending().await,
    }
}
