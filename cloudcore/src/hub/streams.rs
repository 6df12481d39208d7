//! The streams of one session and the tasks behind them.
//!
//! **Invariant:** at most one flow of each kind, the newest, and a bounded number of
//! tunnels; all end with the session.

use std::{sync::Arc, time::Duration};

use protocol::{
    transport::Stream,
    wire::{Dial, DialRefusal, DialReply, FrameWriter, Open, open},
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tracing::{Instrument, debug};

use super::seams::{Services, SessionInfo};
use crate::tunnel::TUNNELS_MAX;

/// What one session's streams are served by.
pub(super) struct Streams {
    info: SessionInfo,
    services: Arc<dyn Services>,
    flows: JoinSet<()>,
    tunnels: JoinSet<()>,
    desired: Option<AbortHandle>,
    reported: Option<AbortHandle>,
    events: Option<AbortHandle>,
}

impl Streams {
    pub(super) fn new(info: SessionInfo, services: Arc<dyn Services>) -> Self {
        Self {
            info,
            services,
            flows: JoinSet::new(),
            tunnels: JoinSet::new(),
            desired: None,
            reported: None,
            events: None,
        }
    }

    /// Serves a stream that the edge opened. A second session stream, or one that says nothing, is
    /// dropped: a newer edge may open what this version does not know.
    pub(super) fn take(&mut self, open: Open, stream: Stream) {
        self.reap();
        match open.kind {
            Some(open::Kind::Desired(_)) => {
                let served = self.services.desired(self.info.clone(), stream);
                let task = self.flows.spawn(served.in_current_span());
                replace(&mut self.desired, task);
            }
            Some(open::Kind::Reported(_)) => {
                let served = self.services.reported(self.info.clone(), stream);
                let task = self.flows.spawn(served.in_current_span());
                replace(&mut self.reported, task);
            }
            Some(open::Kind::Events(_)) => {
                let served = self.services.events(self.info.clone(), stream);
                let task = self.flows.spawn(served.in_current_span());
                replace(&mut self.events, task);
            }
            Some(open::Kind::Dial(dial)) => self.dial(dial, stream),
            Some(open::Kind::Session(_)) | None => debug!("a stream of no use was opened"),
        }
    }

    fn dial(&mut self, dial: Dial, stream: Stream) {
        if self.tunnels.len() >= TUNNELS_MAX {
            // Refusals are tasks too, and their number is bounded by the streams of a connection.
            self.tunnels.spawn(refuse_busy(stream));
            return;
        }
        let served = self.services.tunnel(self.info.clone(), dial, stream);
        self.tunnels.spawn(served.in_current_span());
    }

    /// Forgets the tasks that have ended.
    fn reap(&mut self) {
        while self.flows.try_join_next().is_some() {}
        while self.tunnels.try_join_next().is_some() {}
    }

    /// Ends the flows at once.
    pub(super) fn end_flows(&mut self) {
        self.flows.abort_all();
    }

    /// Waits for the tunnels, for as long as they are granted.
    pub(super) async fn tunnels_done(&mut self, grace: Duration) {
        // What remains is aborted with the session.
        let _ = timeout(grace, async { while self.tunnels.join_next().await.is_some() {} }).await;
    }
}

fn replace(slot: &mut Option<AbortHandle>, task: AbortHandle) {
    if let Some(older) = slot.replace(task) {
        older.abort();
    }
}

async fn refuse_busy(stream: Stream) {
    let reply = DialReply::refused(DialRefusal::Busy, format!("{TUNNELS_MAX} tunnels are open"));
    // Fails only when the edge has gone away.
    let _ = FrameWriter::new(stream.send).write(&reply).await;
}
