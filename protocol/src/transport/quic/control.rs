//! quinn's congestion control: the window of the connection's [`Gate`].
//!
//! A short queue is worth more here than the last percent of a link: quinn's own CUBIC fills the
//! network's queue until it overflows, and its BBR keeps two windows on their way.

#![expect(clippy::disallowed_types, reason = "quinn's time is the standard library's")]

use std::{any::Any, sync::Arc, time::Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use super::gate::Gate;

/// Makes the controls of one connection's paths.
pub(super) struct Controls(pub(super) Arc<Gate>);

impl ControllerFactory for Controls {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        self.0.path(now.into(), current_mtu);
        Box::new(Control(Arc::clone(&self.0)))
    }
}

/// The gate as quinn asks it.
struct Control(Arc<Gate>);

impl Controller for Control {
    fn on_sent(&mut self, _now: Instant, bytes: u64, _last_packet_number: u64) {
        self.0.sent(bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.0.arrived(now.into(), sent.into(), bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.0.answered(now.into(), in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.0.lost(now.into(), sent.into(), lost_bytes, persistent);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.packets_of(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self(Arc::clone(&self.0)))
    }

    fn initial_window(&self) -> u64 {
        self.0.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
