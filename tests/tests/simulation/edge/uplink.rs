//! The uplink of an edge: dials, sessions and beats. The real back-off; the waiting around it is modelled.
//!
//! The model follows `uplink/` (beats every 25 s, in doubt after 6 s, lost after 20 s, a second connection beside
//! one in doubt).

use std::time::Duration;

use edgecore::uplink::pace;
use protocol::reported::Carries;

use super::{Beats, Process};
use crate::link::{Down, Link, Pipe, Up};
use crate::world::World;

/// As `uplink/beats.rs`.
const EVERY: Duration = Duration::from_secs(25);
const PROBE_AFTER: Duration = Duration::from_secs(3);
const SILENT_AFTER: Duration = Duration::from_secs(6);
const LOST_AFTER: Duration = Duration::from_secs(20);
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// How long a dial and a greeting may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

impl World {
    /// Dials some replica; beside a session only if that is in doubt.
    pub(crate) fn dial(&mut self, e: usize) {
        let r = self.dice.below(self.replicas.len());
        let reachable = self.now >= self.edges[e].no_network_until;
        let (life, edge_life) = (self.replicas[r].life, self.edges[e].life);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.dialing.is_some() {
            return;
        }
        self.last_link += 1;
        let id = self.last_link;
        process.dialing = Some(id);
        if !reachable || !self.replicas[r].up {
            let pause = self.dice.between(50, 5_000);
            self.after(pause, move |world| world.dial_failed(e, id));
            return;
        }
        let link = Link {
            edge: e,
            edge_life,
            replica: r,
            replica_life: life,
            up: Pipe::default(),
            down: Pipe::default(),
            edge_open: true,
            cloud_open: true,
        };
        self.links.insert(id, link);
        self.say(|| format!("edge {e}: dials replica {r} (link {id})"));
        self.send_up(id, Up::Hello);
        self.after(HANDSHAKE, move |world| {
            let process = world.edges[e].process.as_ref();
            if world.edges[e].life == edge_life && process.is_some_and(|p| p.dialing == Some(id)) {
                world.hang_up(id);
                world.dial_failed(e, id);
            }
        });
    }

    fn hang_up(&mut self, id: u64) {
        self.send_up(id, Up::Close);
        if let Some(link) = self.links.get_mut(&id) {
            link.edge_open = false;
        }
    }

    fn dial_failed(&mut self, e: usize, id: u64) {
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.dialing == Some(id) {
            process.dialing = None;
            if process.link.is_none() {
                self.redial(e, None);
            }
        }
    }

    fn redial(&mut self, e: usize, after: Option<Duration>) {
        let (now, dice) = (self.now, self.dice.fraction());
        let life = self.edges[e].life;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let own = process
            .backoff
            .pause(pace(now.saturating_sub(process.good_at)), dice);
        self.after(after.unwrap_or(own), move |world| {
            let process = world.edges[e].process.as_ref();
            if world.edges[e].life == life && process.is_some_and(|p| p.link.is_none()) {
                world.dial(e);
            }
        });
    }

    pub(crate) fn edge_hears(&mut self, e: usize, id: u64, frame: Down) {
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.dialing == Some(id) {
            match frame {
                Down::Welcome { epoch } => self.session_up(e, id, epoch),
                Down::Reject { retry } => {
                    process.dialing = None;
                    let alone = process.link.is_none();
                    self.hang_up(id);
                    if alone {
                        self.redial(e, Some(retry));
                    }
                }
                Down::Close
                | Down::Goodbye
                | Down::Superseded
                | Down::Answer
                | Down::Desired(..)
                | Down::Reported(..)
                | Down::Reset(_) => {
                    self.hang_up(id);
                    self.dial_failed(e, id);
                }
            }
        } else if process.link == Some(id) {
            self.session_hears(e, id, frame);
        }
    }

    fn session_hears(&mut self, e: usize, id: u64, frame: Down) {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        match frame {
            Down::Answer => {
                if process.beats.waiting_since.take().is_some() {
                    self.plan_beat(e, id, EVERY);
                }
            }
            Down::Desired(stream, frame) if stream == process.streams.desired => {
                self.desired_down(e, *frame);
            }
            Down::Reported(stream, frame) if stream == process.streams.reported => {
                self.reported_down(e, *frame);
            }
            Down::Reset(stream) if stream == process.streams.desired => self.reopen_desired(e),
            Down::Desired(..) | Down::Reported(..) | Down::Reset(_) => {}
            Down::Goodbye => {
                process.good_at = now;
                let retry = self.dice.between(1, 3_000);
                self.session_down(e, id, Some(retry));
            }
            Down::Superseded | Down::Close | Down::Welcome { .. } | Down::Reject { .. } => {
                self.session_down(e, id, None);
            }
        }
    }

    fn session_up(&mut self, e: usize, id: u64, epoch: u64) {
        let now = self.now;
        self.say(|| format!("edge {e}: session up on link {id} (epoch {epoch})"));
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.dialing = None;
        if let Some(older) = process.link.replace(id) {
            self.hang_up(older);
            self.end_flows(e);
        }
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.up_since = now;
        process.streams.cluster_epoch = epoch;
        process.beats = Beats {
            round: process.beats.round + 1,
            ..Beats::default()
        };
        self.open_desired_stream(e);
        self.open_reported_stream(e);
        self.look_away(e);
        self.beat(e, id);
    }

    fn end_flows(&mut self, e: usize) {
        if let Some(process) = &mut self.edges[e].process {
            process.replica.disconnected();
            process.outbox.disconnected(Carries::Everything);
            process.sent.clear();
            (process.streams.desired, process.streams.reported) = (0, 0);
        }
    }

    pub(crate) fn session_down(&mut self, e: usize, id: u64, retry: Option<Duration>) {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.link != Some(id) {
            return;
        }
        process.link = None;
        if now > process.up_since + GOOD_AFTER {
            process.backoff.reset();
            process.good_at = now;
        }
        self.say(|| format!("edge {e}: session on link {id} is over"));
        self.hang_up(id);
        self.end_flows(e);
        self.look_away(e);
        self.redial(e, retry);
    }

    /// A number for a new stream.
    pub(crate) fn next_stream(&mut self, e: usize) -> u64 {
        // Streams of different lives never meet: their links differ.
        let Some(process) = &mut self.edges[e].process else {
            return 0;
        };
        process.streams.last += 1;
        process.streams.last
    }

    fn plan_beat(&mut self, e: usize, id: u64, pause: Duration) {
        let life = self.edges[e].life;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.beats.round += 1;
        let round = process.beats.round;
        self.after(pause, move |world| {
            let process = world.edges[e].process.as_ref();
            let same = |p: &Process| p.link == Some(id) && p.beats.round == round;
            if world.edges[e].life == life && process.is_some_and(same) {
                world.beat(e, id);
            }
        });
    }

    fn beat(&mut self, e: usize, id: u64) {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let since = *process.beats.waiting_since.get_or_insert(now);
        if now - since >= LOST_AFTER {
            return self.session_down(e, id, None);
        }
        self.send_up(id, Up::Beat);
        if now - since >= SILENT_AFTER {
            self.dial(e);
        }
        self.plan_beat(e, id, PROBE_AFTER);
    }
}
