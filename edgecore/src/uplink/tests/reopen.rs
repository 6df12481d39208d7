//! Streams that the other end ends, again and again.

use protocol::transport::Stream;
use protocol::wire::{
    Committed, DesiredDown, DesiredUp, ReportedDown, ReportedUp, Same, desired_down, desired_up,
    reported_down, reported_up,
};

use super::*;

/// What becomes of a stream that is opened.
type Fate = fn(Stream) -> futures::future::BoxFuture<'static, ()>;

fn refused(_: Stream) -> futures::future::BoxFuture<'static, ()> {
    Box::pin(std::future::ready(()))
}

/// Says of every kind that it is the same, and ends it then.
fn synced(stream: Stream) -> futures::future::BoxFuture<'static, ()> {
    Box::pin(async move {
        let (mut reader, mut writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
        for _ in protocol::object::Kind::ALL {
            let frame = reader.read::<DesiredUp>().await.unwrap().unwrap();
            let Some(desired_up::Kind::Have(have)) = frame.kind else {
                panic!("nothing is compared")
            };
            let same = Same {
                kind: have.kind,
                view_revision: 1,
                consistent: true,
            };
            let kind = Some(desired_down::Kind::Same(same));
            writer.write(&DesiredDown { kind }).await.unwrap();
        }
    })
}

/// Takes one report, and ends it then.
fn committed(stream: Stream) -> futures::future::BoxFuture<'static, ()> {
    Box::pin(async move {
        let (mut reader, mut writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
        let frame = reader.read::<ReportedUp>().await.unwrap().unwrap();
        let Some(reported_up::Kind::Report(report)) = frame.kind else {
            panic!("nothing is reported")
        };
        let kind = Some(reported_down::Kind::Committed(Committed { seq: report.seq }));
        writer.write(&ReportedDown { kind }).await.unwrap();
    })
}

/// How many desired and reported streams are opened in an hour, and what status says of them then.
async fn hour(desired: Fate, reported: Fate) -> (usize, usize, Vec<String>) {
    let mut world = World::new(&["a"]).await;
    let node = k8s_openapi::api::core::v1::Node::default();
    world.reporter.node(&node).await.unwrap();
    let mut replica = world.session("first").await;
    let began = Instant::now();
    let (mut of_desired, mut of_reported) = (0, 0);
    let connection = replica.connection.clone();
    while began.elapsed() < Duration::from_hours(1) {
        tokio::select! {
            () = replica.answer() => {}
            opened = connection.accept() => {
                let (open, stream) = opened.unwrap();
                if open == Open::desired() {
                    of_desired += 1;
                    desired(stream).await;
                } else {
                    of_reported += 1;
                    reported(stream).await;
                }
            }
        }
    }
    (of_desired, of_reported, world.link.troubles())
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_refused_for_good_is_opened_ever_more_rarely_and_status_says_why() {
    let (desired, reported, troubles) = hour(refused, refused).await;
    assert!((15..30).contains(&desired), "{desired}");
    assert!((15..30).contains(&reported), "{reported}");
    let told = "stream is opened again and again: the other end has ended it";
    assert_eq!(
        troubles,
        [format!("the desired {told}"), format!("the reported {told}")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_worked_is_followed_by_another_at_once() {
    let (desired, reported, _) = hour(synced, committed).await;
    assert!(desired > 3_000, "{desired}");
    assert!(reported > 3_000, "{reported}");
}
