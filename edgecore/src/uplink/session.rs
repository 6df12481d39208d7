//! One session: beats, the flows, what the cloud dials, and the watch for something better.

use std::sync::Arc;
use std::time::Duration;

use protocol::class::Class;
use protocol::name::shown;
use protocol::reported::Carries;
use protocol::transport::{Connection, Transport};
use protocol::wire::{Dial, DialRefusal, DialReply, FrameWriter, Open, Welcome, open};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::beside::Doubt;
use super::desired::FlowError;
use super::ended::Ended;
use super::greet::Greeted;
use super::pulse::{Pulse, speak};
use super::reopen::Reopen;
use super::state::LinkState;
use super::{Address, Link, Uplink};
use crate::identity::told;
use crate::reported::Way;

/// Bounds on what the cloud may ask for as its keepalive.
const KEEPALIVE: std::ops::RangeInclusive<u64> = 1_000..=300_000;
/// How long whoever dials may take to read that nothing is served.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);
/// What is said of a stream that was ended in order.
const ENDED_THERE: &str = "the other end has ended it";

/// A flow's name, and what opens its stream.
type Flow = (&'static str, fn() -> Open);

impl Uplink {
    /// Serves a session until it ends. Where it moved, the next one comes with it.
    pub(super) async fn session(
        &self,
        greeted: Greeted,
        stop: &CancellationToken,
    ) -> (Ended, Option<Greeted>) {
        let Greeted {
            address,
            connection,
            ears,
            mouth,
            welcome,
        } = greeted;
        let transport = connection.transport();
        let up = self.welcomed(&address, transport, &welcome);
        self.identity.told(Duration::from_millis(welcome.renew_before_ms));
        self.link.serve(Some(Arc::clone(&connection)));
        let every = welcome.keepalive_ms.clamp(*KEEPALIVE.start(), *KEEPALIVE.end());
        let (pulse, words) = Pulse::new(self, &connection, up, Duration::from_millis(every));
        let over = stop.child_token();
        let doubt = Doubt {
            uplink: self,
            here: &address,
            transport,
            health: pulse.health.subscribe(),
            over: &over,
            stop,
        };
        let (ended, (), flow, (), (), (), better) = tokio::join!(
            pulse.run(ears, &over, stop),
            speak(mouth, words),
            self.keep_desired(&*connection, &welcome, &over),
            self.keep_reported(&*connection, &welcome, &over),
            self.keep_events(&*connection, &welcome, &over),
            refuse_dials(&*connection, &self.link, &over),
            doubt.better(),
        );
        match flow {
            Some(error) => (Ended::Flow(error), None),
            None => (ended, better),
        }
    }

    fn welcomed(&self, address: &Address, transport: Transport, welcome: &Welcome) -> LinkState {
        let replica = shown(&welcome.replica);
        tracing::info!(%address, %transport, replica, "connected");
        let up = LinkState::Connected {
            since: self.clock.now(),
            address: address.to_string(),
            transport,
            replica,
            api_reachable: welcome.api_reachable,
        };
        self.link.set(up.clone());
        up
    }

    /// Serves desired streams, one after the other. Ends early only when the node cannot take part.
    async fn keep_desired(
        &self,
        connection: &dyn Connection,
        welcome: &Welcome,
        over: &CancellationToken,
    ) -> Option<FlowError> {
        let mut streams = Reopen::of("desired", &self.link.troubles);
        while !over.is_cancelled() {
            let Ok(stream) = connection.open(Open::desired()).await else {
                return None;
            };
            streams.opened();
            let cluster = (welcome.cluster_id.as_str(), welcome.epoch);
            let works = || streams.works();
            let why = match self.desired.serve(stream, cluster, &works, over).await {
                Err(error @ FlowError::Cluster(_)) => {
                    over.cancel();
                    return Some(error);
                }
                // A store on a full disk is in order: the link stays, and the stream is tried again.
                Err(FlowError::Store(error)) if error.breaks() => {
                    over.cancel();
                    return Some(error.into());
                }
                Err(error) => told(&error),
                Ok(()) => ENDED_THERE.to_owned(),
            };
            streams.pause(why, over).await;
        }
        None
    }

    async fn keep_reported(&self, connection: &dyn Connection, welcome: &Welcome, over: &CancellationToken) {
        let carries = if welcome.takes_events {
            Carries::AllButEvents
        } else {
            Carries::Everything
        };
        let flow: Flow = ("reported", Open::reported);
        self.keep(connection, flow, carries, over).await;
    }

    async fn keep_events(&self, connection: &dyn Connection, welcome: &Welcome, over: &CancellationToken) {
        if welcome.takes_events {
            let events: Flow = ("events", Open::events);
            self.keep(connection, events, Carries::Events, over).await;
        }
    }

    /// Serves streams of reports, one after the other.
    async fn keep(
        &self,
        connection: &dyn Connection,
        (flow, open): Flow,
        carries: Carries,
        over: &CancellationToken,
    ) {
        let defers = || self.link.budgets.admit(Class::MessagesNormal).is_err();
        let mut streams = Reopen::of(flow, &self.link.troubles);
        while !over.is_cancelled() {
            let Ok(stream) = connection.open(open()).await else {
                return;
            };
            streams.opened();
            let way = Way {
                carries,
                defers: &defers,
                took: &|| streams.works(),
            };
            let served = self.reporter.serve(stream, way, over).await;
            let why = served.map_or_else(|error| told(&error), |()| ENDED_THERE.to_owned());
            streams.pause(why, over).await;
        }
    }
}

/// Nothing is served at this end yet: whoever dials is told so.
async fn refuse_dials(connection: &dyn Connection, link: &Link, over: &CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = over.cancelled() => return,
            accepted = connection.accept() => accepted,
        };
        let Ok((
            Open {
                kind: Some(open::Kind::Dial(dial)),
            },
            stream,
        )) = accepted
        else {
            if accepted.is_err() {
                return;
            }
            continue;
        };
        let reply = refusal(&dial, link);
        let _ = timeout(REFUSE_WITHIN, FrameWriter::new(stream.send).write(&reply)).await;
    }
}

fn refusal(dial: &Dial, link: &Link) -> DialReply {
    let class = dial.service_name().map_or(Class::Bulk, Class::of_service);
    if let Err(spent) = link.budgets.admit(class) {
        return DialReply::refused(DialRefusal::Busy, spent.to_string());
    }
    let text = format!("this edgecore serves no {}", shown(&dial.service));
    DialReply::refused(DialRefusal::UnknownService, text)
}

#[cfg(test)]
mod tests {
    use protocol::clock::Clock;
    use protocol::name::ServiceName;
    use protocol::wire::dial_reply::Kind;

    use super::*;
    use crate::config::Budget;
    use crate::store::Db;
    use crate::uplink::{Budgets, LinkError};

    #[tokio::test]
    async fn a_spent_budget_refuses_tunnels_both_ways_and_not_the_nodes_own_calls() {
        let (class, day) = (Class::Interactive, Some(1 << 20));
        let second = None;
        let budget = Budget { class, day, second };
        let clock = Clock::system();
        let budgets = Budgets::load(vec![budget], &Db::in_memory(), clock.clone()).await;
        budgets.carry(1 << 20);
        let link = Link::within(budgets, &clock);

        let told = |service: ServiceName| {
            let Some(Kind::Refused(refused)) = refusal(
                &Dial {
                    service: service.to_string(),
                    ..Dial::default()
                },
                &link,
            )
            .kind
            else {
                panic!("not refused")
            };
            (DialRefusal::from(refused.code), refused.text)
        };
        let (code, text) = told(ServiceName::Kubelet);
        assert_eq!(code, DialRefusal::Busy);
        assert!(
            text.contains("class interactive is spent: 1Mi a day; it renews at"),
            "{text}"
        );
        assert_eq!(told(ServiceName::Http).0, DialRefusal::UnknownService);

        let own = link.tunnel(ServiceName::KubeApi).await;
        assert!(matches!(own, Err(LinkError::Offline)));
        let pods = link.tunnel(ServiceName::KubeApiTcp).await;
        assert!(matches!(pods, Err(LinkError::Spent(_))));
    }
}
