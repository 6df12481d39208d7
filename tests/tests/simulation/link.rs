//! Links: frames in order within a stream, out of order between streams, lost from any frame on.

use std::time::Duration;

use protocol::wire::{DesiredDown, DesiredUp, ReportedDown, ReportedUp};

use super::world::World;

/// What an edge sends. Numbers name the stream: one that was reset has another.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello,
    Beat,
    OpenDesired(u64),
    OpenReported(u64),
    Desired(u64, Box<DesiredUp>),
    Reported(u64, Box<ReportedUp>),
    Close,
}

/// What a replica sends.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome {
        epoch: u64,
    },
    Reject {
        retry: Duration,
    },
    Answer,
    Goodbye,
    Superseded,
    Desired(u64, Box<DesiredDown>),
    Reported(u64, Box<ReportedDown>),
    /// The stream was reset.
    Reset(u64),
    Close,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// Nothing arrives any more, and nobody is told.
    pub(crate) dead: bool,
    pub(crate) stalled_until: Duration,
    last: [Duration; 3],
    /// Frames of the desired stream on their way.
    pub(crate) ahead: usize,
}

/// A connection between one life of an edge and one life of a replica.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) edge: usize,
    pub(crate) edge_life: u64,
    pub(crate) replica: usize,
    pub(crate) replica_life: u64,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// What each end believes.
    pub(crate) edge_open: bool,
    pub(crate) cloud_open: bool,
}

impl Up {
    const fn stream(&self) -> usize {
        match self {
            Self::Hello | Self::Beat | Self::Close => 0,
            Self::OpenDesired(_) | Self::Desired(..) => 1,
            Self::OpenReported(_) | Self::Reported(..) => 2,
        }
    }
}

impl Down {
    const fn stream(&self) -> usize {
        match self {
            Self::Desired(..) => 1,
            Self::Reported(..) => 2,
            Self::Welcome { .. }
            | Self::Reject { .. }
            | Self::Answer
            | Self::Goodbye
            | Self::Superseded
            | Self::Reset(_)
            | Self::Close => 0,
        }
    }
}

impl Pipe {
    /// When a frame sent now arrives.
    fn arrival(&mut self, now: Duration, takes: Duration, stream: usize) -> Duration {
        let at = (now + takes).max(self.stalled_until).max(self.last[stream]);
        self.last[stream] = at;
        at
    }
}

impl World {
    pub(crate) fn send_up(&mut self, id: u64, frame: Up) {
        let takes = self.latency();
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.up.dead {
            return;
        }
        let at = link.up.arrival(now, takes, frame.stream());
        self.frames += 1;
        self.after(at - now, move |world| world.arrived_up(id, frame));
    }

    pub(crate) fn send_down(&mut self, id: u64, frame: Down) {
        let takes = self.latency();
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.down.dead {
            return;
        }
        let at = link.down.arrival(now, takes, frame.stream());
        if frame.stream() == 1 {
            link.down.ahead += 1;
        }
        self.frames += 1;
        self.after(at - now, move |world| world.arrived_down(id, frame));
    }

    fn latency(&mut self) -> Duration {
        let slowest = self.menu.latency_ms;
        self.dice.between(1, slowest)
    }

    fn arrived_up(&mut self, id: u64, frame: Up) {
        let Some(link) = self.links.get(&id).filter(|link| !link.up.dead) else {
            return;
        };
        let replica = &self.replicas[link.replica];
        if link.cloud_open && replica.up && replica.life == link.replica_life {
            self.cloud_hears(id, frame);
        } else if !matches!(frame, Up::Close) && self.dice.chance(0.7) {
            // A port on which nobody listens answers so.
            self.send_down(id, Down::Close);
        }
    }

    fn arrived_down(&mut self, id: u64, frame: Down) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.down.dead) else {
            return;
        };
        if frame.stream() == 1 {
            link.down.ahead -= 1;
        }
        let edge = &self.edges[link.edge];
        let (number, replica) = (link.edge, link.replica);
        if link.edge_open && edge.process.is_some() && edge.life == link.edge_life {
            let is_desired = frame.stream() == 1;
            self.edge_hears(number, id, frame);
            if is_desired {
                self.pump_desired(replica, id);
            }
        } else if !matches!(frame, Down::Close) && self.dice.chance(0.7) {
            self.send_up(id, Up::Close);
        }
    }

    /// Both ways are dead from the next frame on; neither end is told.
    pub(crate) fn cut(&mut self, id: u64, up: bool, down: bool) {
        if let Some(link) = self.links.get_mut(&id) {
            link.up.dead |= up;
            link.down.dead |= down;
        }
    }

    /// Forgets links that neither end uses.
    pub(crate) fn sweep_links(&mut self) {
        self.links.retain(|_, link| link.edge_open || link.cloud_open);
    }
}
