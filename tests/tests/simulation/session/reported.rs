//! The cloud half of the reported stream.

use std::sync::Arc;
use std::time::Duration;

use cloudcore::cluster::Dirty;
use cloudcore::reported::Desk;
use protocol::wire::ReportedUp;

use crate::cloud::{Replica, ReportedHalf};
use crate::devices::Pasts;
use crate::laws::Laws;
use crate::link::Down;
use crate::world::World;
use crate::writes::shown;

/// As `reported/serve.rs`.
const REPEAT_AFTER: Duration = Duration::from_secs(5);

impl World {
    pub(crate) fn open_reported(&mut self, r: usize, id: u64, stream: u64) {
        let Replica { index, sessions, .. } = &mut self.replicas[r];
        let Some(session) = sessions.get_mut(&id) else {
            return;
        };
        let feed = Arc::new(Dirty::default());
        index.attach(&session.node, Arc::clone(&feed));
        let half = ReportedHalf {
            stream,
            desk: Desk::new(),
            feed,
            ready: false,
            devices: Pasts::default(),
            inbox: Vec::new(),
            begun: false,
            retry_planned: false,
        };
        if let Some(older) = session.reported.replace(half) {
            index.detach(&session.node, &older.feed);
        }
        self.consistent_pods(r, id, move |world, _| {
            if let Some(half) = world.reported_half(r, id, stream) {
                half.ready = true;
                let frames = std::mem::take(&mut half.inbox);
                for frame in frames {
                    world.reported_up(r, id, stream, frame);
                }
                world.pump_reported(r, id);
            }
        });
    }

    pub(crate) fn reported_half(&mut self, r: usize, id: u64, stream: u64) -> Option<&mut ReportedHalf> {
        let half = self.session(r, id)?.reported.as_mut()?;
        (half.stream == stream).then_some(half)
    }

    pub(crate) fn reported_up(&mut self, r: usize, id: u64, stream: u64, frame: ReportedUp) {
        let Some(half) = self.reported_half(r, id, stream) else {
            return;
        };
        if !half.ready {
            half.inbox.push(frame);
            return;
        }
        let taken = half.desk.handle_frame(frame);
        assert!(
            taken.is_ok(),
            "the edge broke the rules of the reported flow: {taken:?}"
        );
        self.pump_reported(r, id);
    }

    /// What could not be written again is looked at after a pause.
    fn plan_repeats(&mut self, r: usize, id: u64, stream: u64) {
        let Some(half) = self.reported_half(r, id, stream) else {
            return;
        };
        if !half.desk.has_failed() || std::mem::replace(&mut half.retry_planned, true) {
            return;
        }
        self.after(REPEAT_AFTER, move |world| {
            let now = world.instant();
            let Replica { index, sessions, .. } = &mut world.replicas[r];
            let Some(session) = sessions.get_mut(&id) else {
                return;
            };
            let node = &session.node;
            let half = session.reported.as_mut().filter(|half| half.stream == stream);
            if let Some(half) = half {
                half.retry_planned = false;
                let ReportedHalf { desk, .. } = half;
                desk.retry(&|key: &_, payload: &[u8]| shown(index, node, (key, payload), now));
                world.pump_reported(r, id);
            }
        });
    }

    pub(crate) fn pump_reported(&mut self, r: usize, id: u64) {
        let now = self.instant();
        loop {
            let Replica { index, sessions, .. } = &mut self.replicas[r];
            let Some(session) = sessions.get_mut(&id) else {
                return;
            };
            let Some(half) = session.reported.as_mut().filter(|half| half.ready) else {
                return;
            };
            let node = &session.node;
            let ReportedHalf { desk, feed, .. } = half;
            let look = |key: &_, payload: &[u8]| shown(index, node, (key, payload), now);
            let changed = feed.take();
            if !changed.is_empty() {
                desk.changed(&changed, &look);
            }
            let job = desk.poll_job(&look, now);
            Laws::unanswered(desk.unanswered());
            let answers: Vec<_> = std::iter::from_fn(|| desk.poll_transmit()).collect();
            let stream = half.stream;
            for answer in answers {
                self.send_down(id, Down::Reported(stream, Box::new(answer)));
            }
            match job {
                Some(job) => self.start_job(r, id, stream, job),
                None => return self.plan_repeats(r, id, stream),
            }
        }
    }
}
