//! Events: a stream of their own, with a budget of its own.

use edgecore::config::Budget;
use edgecore::uplink::Budgets;
use k8s_openapi::api::core::v1::Event;
use protocol::class::Class;
use protocol::transport::Transport;

use super::*;
use crate::relay::Relay;

const DAY: u64 = 4 << 10;

impl World {
    async fn tell(&self, number: u32) {
        // What does not compress.
        let note: String = (0..400)
            .map(|_| char::from(rand::random_range(b'a'..=b'z')))
            .collect();
        let event: Event = serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "default", "name": format!("e{number}") },
            "message": note,
        }))
        .unwrap();
        self.edge.reporter.event(&event).await.unwrap();
    }

    async fn told(&self, count: usize) {
        until(self.cluster.reports.subscribe(), |_| self.events() >= count).await;
    }

    fn events(&self) -> usize {
        let reports = self.cluster.reports.borrow();
        reports.iter().filter(|(key, _)| key.is_event()).count()
    }

    fn of_events(&self) -> u64 {
        self.edge.link.traffic().of(Class::MessagesNormal).sent
    }
}

/// The relay lasts as long as the world is needed.
async fn within_a_budget(udp: bool) -> (World, Relay) {
    let mut world = World::new().await;
    let budget = Budget {
        class: Class::MessagesNormal,
        day: Some(DAY),
        second: Some(64 << 10),
    };
    let clock = Clock::system();
    let budgets = Budgets::load(vec![budget], &Db::in_memory(), clock.clone()).await;
    let relay = Relay::to(world.address, udp).await;
    let address = relay.address.to_string().parse().unwrap();
    let node = world.authority.node("edge-1");
    world.edge = Edge::start_with(
        node,
        &world.authority,
        address,
        None,
        Link::within(budgets, &clock),
    )
    .await;
    let transport = if udp {
        Transport::Quic
    } else {
        Transport::WebSocket
    };
    let over =
        |state: &LinkState| matches!(state, LinkState::Connected { transport: of, .. } if *of == transport);
    until(world.edge.link.watch(), over).await;
    (world, relay)
}

async fn a_spent_budget_lets_events_wait(udp: bool) {
    let (world, _relay) = within_a_budget(udp).await;
    world.cluster.add_pod("a");
    world.pods(1).await;
    for number in 0..40 {
        world.tell(number).await;
    }
    world.told(5).await;
    world.report("while events wait").await;
    world.reported("while events wait").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (events, sent) = (world.events(), world.of_events());
    assert!((5..20).contains(&events), "{events}");
    // The answers count too, and come after.
    assert!((DAY / 2..DAY + 1024).contains(&sent), "{sent}");
    assert_eq!(world.edge.reporter.pending_events(), 40 - events);
    let state = &world.edge.link.budgets().states()[0];
    assert!(state.used >= DAY, "{}", state.used);
}

#[tokio::test]
async fn a_spent_budget_lets_events_wait_and_nothing_else_over_quic() {
    a_spent_budget_lets_events_wait(true).await;
}

#[tokio::test]
async fn a_spent_budget_lets_events_wait_and_nothing_else_over_a_websocket() {
    a_spent_budget_lets_events_wait(false).await;
}

#[tokio::test]
async fn a_replica_that_knows_no_stream_of_events_gets_them_with_all_else() {
    let mut world = World::new().await;
    world.hellos(1).await;
    world.tell(1).await;
    world.told(1).await;
    assert!(world.of_events() > 0);
    world.cut().await;
    let old = Welcome {
        takes_events: false,
        ..welcome(CLUSTER)
    };
    let before = world.of_events();
    world.cluster.answer_next_with(session_down::Kind::Welcome(old));
    world.come_back().await;
    world.tell(2).await;
    world.told(2).await;
    assert_eq!(world.of_events(), before);
}
