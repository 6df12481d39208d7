//! The certificate is renewed over the session, and before a dial when it has ended.

use protocol::join::{NodeRequest, RefusalCode};
use protocol::wire::{Renew, RenewRefused, Renewed};

use super::*;
use crate::uplink::{Ended, RenewError};

const DAY: Duration = Duration::from_hours(24);

/// cloudcore's time in these tests is a year after the build; certificates are told from there.
fn from_next_year(span: Duration) -> Duration {
    let server = std::time::UNIX_EPOCH + Duration::from_millis(next_year());
    server.duration_since(Clock::system().now()).unwrap() + span
}

impl World {
    async fn renewing(left: Duration, renew_before: Duration) -> (Self, Replica) {
        let mut world = Self::with_certificate(&["a"], from_next_year(left)).await;
        let mut replica = world.hello().await;
        replica.renew_before_ms = u64::try_from(renew_before.as_millis()).unwrap();
        replica.welcome("first", true).await;
        (world, replica)
    }

    fn signed(&self, span: Duration) -> String {
        let now = std::time::UNIX_EPOCH + Duration::from_millis(next_year());
        self.pki.certificate(NODE, now + span)
    }
}

impl Replica {
    /// Answers beats until something else comes.
    async fn asked(&mut self) -> Renew {
        loop {
            match self.heard().await {
                session_up::Kind::Beat(beat) => {
                    let ack = BeatAck {
                        seq: beat.seq,
                        server_time_ms: 0,
                    };
                    self.say(session_down::Kind::BeatAck(ack)).await;
                }
                session_up::Kind::Renew(renew) => return renew,
                other @ (session_up::Kind::Hello(_) | session_up::Kind::Goodbye(_)) => panic!("{other:?}"),
            }
        }
    }

    async fn renew(&mut self, certificate: String) {
        self.say(session_down::Kind::Renewed(Renewed { certificate }))
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_asked_for_at_two_thirds_of_its_life_and_kept() {
    let (world, mut replica) = World::renewing(3 * DAY, DAY).await;
    let began = Instant::now();
    let asked = replica.asked().await;
    let waited = began.elapsed();
    assert!(
        waited + DAY / 24 >= 2 * DAY && waited < 2 * DAY + DAY / 5 + DAY / 24,
        "{waited:?}"
    );
    assert_eq!(NodeRequest::parse(&asked.csr).unwrap().node.as_str(), NODE);
    let before = world.identity.view().ends.unwrap();
    replica.renew(world.signed(6 * DAY)).await;
    replica.answer().await;
    replica.answer().await;
    assert!(world.identity.view().ends.unwrap() > before + 2 * DAY);
    assert!(!replica.connection.is_closed(), "the session goes on");
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_is_tried_again_in_the_same_session() {
    let (world, mut replica) = World::renewing(DAY / 2, DAY).await;
    let began = Instant::now();
    replica.asked().await;
    assert!(began.elapsed() < Duration::from_mins(1), "it was due long ago");
    let refused = RenewRefused {
        text: "later".to_owned(),
        retry_after_ms: 60_000,
    };
    replica.say(session_down::Kind::RenewRefused(refused)).await;
    let refused = Instant::now();
    replica.asked().await;
    assert!(
        refused.elapsed() >= Duration::from_secs(50),
        "{:?}",
        refused.elapsed()
    );
    assert_eq!(world.identity.view().trouble.as_deref(), Some("later"));
    replica.renew("nonsense".to_owned()).await;
    replica.asked().await;
    replica.renew(world.signed(3 * DAY)).await;
    replica.answer().await;
    replica.answer().await;
    assert_eq!(world.identity.view().trouble, None);
}

#[tokio::test(start_paused = true)]
async fn a_cloudcore_that_renews_nothing_or_says_unknown_things_is_lived_with() {
    let (world, mut replica) = World::renewing(DAY, Duration::ZERO).await;
    // What a newer cloudcore might say reads as a frame without a kind.
    replica.writer.write(&SessionDown { kind: None }).await.unwrap();
    for _ in 0..100 {
        replica.answer().await;
    }
    assert!(!replica.connection.is_closed() && world.link.watch().borrow().is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_has_ended_is_renewed_before_the_dial_or_the_reason_is_shown() {
    let refused = || RenewError::Refused {
        code: RefusalCode::EndedTooLongAgo,
        text: "edgecore join".to_owned(),
    };
    let mut world = World::with_certificate(&["a"], Duration::ZERO).await;
    world.identity.refused_as_ended();
    world.gate.renewals.lock().extend((0..3).map(|_| Err(refused())));
    let told = |state: &LinkState| state.last_error() == Some(&Ended::NotRenewed(refused()).to_string());
    world.link.watch().wait_for(told).await.unwrap();
    assert_eq!(
        world.identity.view().trouble,
        Some(refused().to_string()),
        "for edgecore status"
    );
    // Nobody answers any more: the clock may be wrong, so it is dialled all the same.
    world.session("first").await;
}
