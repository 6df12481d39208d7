//! The world: virtual time, everything that lives in it, and the trace.
//!
//! Whatever happens is an action at an instant. Actions at one instant happen in the order in which
//! they were planned, so that a seed gives one history.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::api::{Api, Code, Stored};
use super::cloud::Replica;
use super::dice::Dice;
use super::edge::Edge;
use super::laws::Laws;
use super::link::Link;
use super::menu::Menu;

type Action = Box<dyn FnOnce(&mut World)>;

struct Planned {
    at: Duration,
    number: u64,
    action: Action,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (Reverse(self.at), Reverse(self.number)).cmp(&(Reverse(other.at), Reverse(other.number)))
    }
}

pub(crate) struct World {
    pub(crate) now: Duration,
    planned: BinaryHeap<Planned>,
    count: u64,
    pub(crate) dice: Dice,
    pub(crate) menu: Menu,
    pub(crate) api: Api,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) last_link: u64,
    pub(crate) laws: Laws,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
    pub(crate) frames: u64,
    /// Requests to the API server fail more often until then.
    pub(crate) brownout_until: Duration,
    pub(crate) traced: bool,
    base: Instant,
}

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let menu = Menu::roll(&mut dice);
        let mut world = Self {
            now: Duration::ZERO,
            planned: BinaryHeap::new(),
            count: 0,
            dice,
            api: Api::default(),
            replicas: (0..menu.replicas).map(Replica::new).collect(),
            edges: (0..menu.edges).map(Edge::new).collect(),
            menu,
            links: BTreeMap::new(),
            last_link: 0,
            laws: Laws::default(),
            calm: false,
            frames: 0,
            brownout_until: Duration::ZERO,
            traced,
            base: Instant::now(),
        };
        world.api.now.head = 1;
        world.begin();
        world
    }

    /// Plans an action.
    pub(crate) fn after(&mut self, delay: Duration, action: impl FnOnce(&mut Self) + 'static) {
        self.count += 1;
        self.planned.push(Planned {
            at: self.now + delay,
            number: self.count,
            action: Box::new(action),
        });
    }

    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.planned.peek().is_some_and(|next| next.at <= end) {
            let Some(next) = self.planned.pop() else { break };
            self.now = next.at;
            (next.action)(self);
        }
        self.now = end;
    }

    pub(crate) const fn actions(&self) -> u64 {
        self.count
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.traced {
            println!("{:>12.3}  {}", self.now.as_secs_f64(), what());
        }
    }

    pub(crate) fn is_reset(&mut self, what: String) {
        self.say(|| what.clone());
        self.laws.resets.push(what);
    }

    /// Now, for cores that want an instant.
    pub(crate) fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// Now, by a clock that is right.
    pub(crate) fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.now
    }

    /// A request of one life of a replica: it arrives, is carried out (or not), and is answered (or
    /// not). A request that is on its way is carried out even when its sender is gone.
    pub(crate) fn request<T: 'static>(
        &mut self,
        replica: usize,
        carry_out: impl FnOnce(&mut Self) -> Result<T, Code> + 'static,
        then: impl FnOnce(&mut Self, Result<T, Code>) + 'static,
    ) {
        let life = self.replicas[replica].life;
        let (there, back) = (self.api_delay(), self.api_delay());
        let (refused, lost) = self.api_mood();
        self.after(there, move |world| {
            let result = match refused {
                Some(code) => Err(code),
                None => carry_out(world),
            };
            // The change is made, and nobody hears of it.
            let result = if lost { Err(504) } else { result };
            world.after(back, move |world| {
                if world.replicas[replica].up && world.replicas[replica].life == life {
                    then(world, result);
                }
            });
        });
    }

    fn api_delay(&mut self) -> Duration {
        let slow = self.now < self.brownout_until && self.dice.chance(0.3);
        let most = if slow { 8_000 } else { self.menu.api_ms };
        self.dice.between(1, most)
    }

    fn api_mood(&mut self) -> (Option<Code>, bool) {
        if self.calm {
            return (None, false);
        }
        let bad = if self.now < self.brownout_until {
            0.4
        } else {
            0.003
        };
        let refused = self.dice.chance(bad).then(|| {
            let codes = [429, 500, 503, 503, 403, 422];
            codes[self.dice.below(codes.len())]
        });
        (refused, self.dice.chance(bad / 2.0))
    }

    /// What an API write changed is on its way to every watch.
    pub(crate) fn api_changed(&mut self, object: &Stored) {
        self.laws.api_shows(self.now, object);
        self.wake_watches(&object.key);
    }
}
