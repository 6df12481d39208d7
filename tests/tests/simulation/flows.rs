//! The edge half of both flows: the real cores between frames and the disk.

use std::time::Duration;

use protocol::desired::Notice;
use protocol::object::Kind;
use protocol::reported::{Carries, OutboxKey, Seq, Settled, SettledAs};
use protocol::wire::{DesiredDown, ReportedDown, ReportedUp, reported_down, reported_up};

use super::disk::{Batch, Op, ops};
use super::edge::Process;
use super::laws::Laws;
use super::link::Up;
use super::world::World;

/// As `uplink/session.rs`.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Desired.
impl World {
    pub(crate) fn open_desired_stream(&mut self, e: usize) {
        let stream = self.next_stream(e);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let Some(link) = process.link else { return };
        let epoch = process.streams.cluster_epoch;
        match process.replica.connected("cluster", epoch) {
            Ok(()) => {
                process.streams.desired = stream;
                self.send_up(link, Up::OpenDesired(stream));
                self.pump_replica(e);
            }
            Err(refused) => {
                self.say(|| format!("edge {e}: {refused}"));
                self.session_down(e, link, None);
            }
        }
    }

    /// The stream was reset, by either side.
    pub(crate) fn reopen_desired(&mut self, e: usize) {
        let life = self.edges[e].life;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.replica.disconnected();
        process.streams.desired = 0;
        let link = process.link;
        self.after(REOPEN_AFTER, move |world| {
            let process = world.edges[e].process.as_ref();
            let waits = |p: &Process| p.link == link && p.streams.desired == 0;
            if world.edges[e].life == life && process.is_some_and(waits) {
                world.open_desired_stream(e);
            }
        });
    }

    pub(crate) fn desired_down(&mut self, e: usize, frame: DesiredDown) {
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if let Err(violation) = process.replica.handle_frame(frame) {
            self.is_reset(format!("edge {e}: the desired stream is reset: {violation}"));
            return self.reopen_desired(e);
        }
        self.pump_replica(e);
    }

    /// Commits what is to be committed, then sends what is to be sent.
    pub(crate) fn pump_replica(&mut self, e: usize) {
        self.commit(e);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        while let Some(notice) = process.replica.poll_notice() {
            if let Notice::Diverged { .. } = notice {
                self.laws.diverged += 1;
            }
        }
        let (link, stream) = (process.link, process.streams.desired);
        let frames: Vec<_> = std::iter::from_fn(|| process.replica.poll_transmit()).collect();
        let confirmed = process.replica.orphans_may_go() && !std::mem::replace(&mut process.synced, true);
        process.synced = process.replica.orphans_may_go();
        let devices = process.replica.synced(Kind::Device)
            != std::mem::replace(&mut process.devices_synced, process.replica.synced(Kind::Device));
        for frame in frames {
            if let Some(link) = link.filter(|_| stream != 0) {
                self.send_up(link, Up::Desired(stream, Box::new(frame)));
            }
        }
        if devices {
            self.refresh_devices(e);
        }
        if confirmed {
            self.say(|| format!("edge {e}: its pods are confirmed"));
            self.follow(e);
        }
    }

    fn commit(&mut self, e: usize) {
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.committing {
            return;
        }
        let Some(commit) = process.replica.poll_commit() else {
            return;
        };
        process.committing = true;
        let id = commit.id;
        self.say(|| {
            let puts: Vec<String> = commit
                .puts
                .iter()
                .map(|o| format!("{}@{}", o.key, o.version.revision))
                .collect();
            let removes: Vec<String> = commit.removes.iter().map(ToString::to_string).collect();
            format!(
                "edge {e}: commits {puts:?}, removes {removes:?}, {} absent",
                commit.absent.len()
            )
        });
        let pods = commit.puts.iter().any(|o| o.key.kind == Kind::Pod)
            || commit.removes.iter().any(|key| key.kind == Kind::Pod);
        let is_device = |kind: Kind| matches!(kind, Kind::Device | Kind::DeviceModel);
        let devices = commit.puts.iter().any(|o| is_device(o.key.kind))
            || commit.removes.iter().any(|key| is_device(key.kind));
        self.write_disk(e, Batch::Desired(Box::new(commit)), move |world, written| {
            let Some(process) = &mut world.edges[e].process else {
                return;
            };
            process.committing = false;
            let answered = if written {
                process.replica.committed(id)
            } else {
                process.replica.failed(id)
            };
            if pods && written {
                world.load_pods(e);
            }
            if devices && written {
                world.refresh_devices(e);
            }
            if let Err(violation) = answered {
                world.is_reset(format!("edge {e}: the desired stream is reset: {violation}"));
                return world.reopen_desired(e);
            }
            world.pump_replica(e);
        });
    }
}

/// Reported.
impl World {
    pub(crate) fn open_reported_stream(&mut self, e: usize) {
        let stream = self.next_stream(e);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let Some(link) = process.link else { return };
        process.streams.reported = stream;
        let change = process.outbox.connected(Carries::Everything);
        self.send_up(link, Up::OpenReported(stream));
        self.write_reports(e, ops(change), move |world| world.pump_outbox(e));
    }

    /// Sends what is due.
    pub(crate) fn pump_outbox(&mut self, e: usize) {
        let now = self.now;
        let life = self.edges[e].life;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let Some(link) = process.link.filter(|_| process.streams.reported != 0) else {
            return;
        };
        let (stream, began) = (process.streams.reported, process.began);
        let mut due = Vec::new();
        while let Some(report) = process.outbox.poll_transmit(Carries::Everything, now - began) {
            note_sent(process, &report);
            due.push(report);
        }
        let pending = process.outbox.pending();
        let next = process
            .outbox
            .poll_timeout(Carries::Everything, now - began)
            .map(|at| began + at);
        let plan = next.filter(|at| {
            process
                .outbox_due
                .is_none_or(|planned| planned <= now || *at < planned)
        });
        if plan.is_some() {
            process.outbox_due = plan;
        }
        Laws::pending(pending);
        for report in due {
            self.send_up(link, Up::Reported(stream, Box::new(report)));
        }
        if let Some(at) = plan {
            self.after(at.saturating_sub(now), move |world| {
                if world.edges[e].life == life {
                    world.pump_outbox(e);
                }
            });
        }
    }

    pub(crate) fn reported_down(&mut self, e: usize, frame: ReportedDown) {
        let (now, jitter) = (self.now, self.dice.fraction());
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let seq = match &frame.kind {
            Some(reported_down::Kind::Committed(committed)) => committed.seq,
            Some(reported_down::Kind::Refused(refused)) => refused.seq,
            _ => 0,
        };
        let said = process.sent.remove(&seq);
        let settled = process.outbox.handle_frame(frame, now - process.began, jitter);
        let settled = settled.unwrap();
        let mut batch = Vec::new();
        if let Some(settled) = settled {
            self.say(|| format!("edge {e}: {} is {:?}", settled.key, settled.outcome));
            if let (SettledAs::Committed, Some((key, payload))) = (settled.outcome, said) {
                self.check_acknowledged(e, &key, &payload);
            }
            batch = if let OutboxKey::Device(device) = &settled.key {
                self.settle_device(e, device, Seq(seq), settled.outcome)
            } else {
                self.settle(e, &settled)
            };
        }
        self.write_reports(e, batch, |_| {});
        self.pump_outbox(e);
    }

    /// As `Book::settle`.
    fn settle(&mut self, e: usize, settled: &Settled) -> Vec<Op> {
        let mut batch: Vec<Op> = settled.delete.iter().copied().map(Op::Delete).collect();
        match (&settled.key, settled.outcome) {
            (OutboxKey::Gone(pod), SettledAs::Committed | SettledAs::Dropped(_))
            | (OutboxKey::Pod(pod), SettledAs::Dropped(_)) => {
                if let Some(process) = &mut self.edges[e].process
                    && process.statuses.remove(&pod.uid).is_some()
                {
                    batch.push(Op::ForgetStatus(pod.uid.clone()));
                }
            }
            _ => {}
        }
        batch
    }
}

fn note_sent(process: &mut Process, report: &ReportedUp) {
    if let Some(reported_up::Kind::Report(report)) = &report.kind
        && let Some(key) = OutboxKey::from_wire(report.key.clone())
    {
        let body = protocol::object::Body::from_wire(report.payload.clone());
        let payload = body.ok().and_then(|body| body.json().ok()).unwrap_or_default();
        process.sent.insert(report.seq, (key, payload));
    }
}
