//! One connection, against a broker of a few bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::devices::Broker;

/// A broker of one connection, and what asks it for that.
async fn begun() -> (Wire, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broker = Broker {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        tls: false,
    };
    let access = Access::new(&broker, "pump-7".to_owned(), None, KEEP_ALIVE).unwrap();
    let mut wire = Wire::connect(Greeting::default(), &access);
    let mut stream = tokio::select! {
        event = wire.next() => panic!("{event:?}"),
        accepted = listener.accept() => accepted.unwrap().0,
    };
    let asked = async { stream.read(&mut [0; 64]).await.unwrap() };
    tokio::select! {
        event = wire.next() => panic!("{event:?}"),
        asked = asked => assert!(asked > 0),
    }
    (wire, stream)
}

async fn is_quiet(wire: &mut Wire) -> bool {
    timeout(Duration::from_millis(100), wire.next()).await.is_err()
}

/// What the broker has been sent.
async fn heard(broker: &mut TcpStream) -> Vec<u8> {
    let mut read = [0; 64];
    let bytes = broker.read(&mut read).await.unwrap();
    read[..bytes].to_vec()
}

/// What is sent for a message that is wanted exactly once and to be retained.
async fn published(wire: &mut Wire, broker: &mut TcpStream) -> Vec<u8> {
    let publish = Publish {
        topic: "t".to_owned(),
        payload: "x".into(),
        qos: 2,
        retain: true,
    };
    assert_eq!(wire.publish(publish).unwrap(), 1);
    assert!(is_quiet(wire).await);
    heard(broker).await
}

#[tokio::test]
async fn an_answer_that_comes_in_two_pieces_is_waited_for() {
    let (mut wire, mut broker) = begun().await;
    let answer = [0x20, 6, 0, 0, 3, 0x21, 0, 5];
    broker.write_all(&answer[..4]).await.unwrap();
    assert!(is_quiet(&mut wire).await);
    broker.write_all(&answer[4..]).await.unwrap();
    assert!(matches!(wire.next().await, Ok(Event::Up { .. })));
}

#[tokio::test]
async fn exactly_once_takes_four_packets_and_its_number_is_free_after_the_last() {
    let (mut wire, mut broker) = begun().await;
    broker.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
    assert!(matches!(wire.next().await, Ok(Event::Up { .. })));
    assert_eq!(
        published(&mut wire, &mut broker).await,
        [0x35, 7, 0, 1, b't', 0, 1, 0, b'x']
    );
    broker.write_all(&[0x50, 2, 0, 1]).await.unwrap();
    assert!(is_quiet(&mut wire).await);
    assert_eq!(heard(&mut broker).await, [0x62, 2, 0, 1]);
    broker.write_all(&[0x70, 2, 0, 1]).await.unwrap();
    assert_eq!(wire.next().await, Ok(Event::Acknowledged(1)));
    let State::Open(open) = &wire.state else {
        panic!("it ended")
    };
    assert!(open.in_flight.is_empty());
}

#[tokio::test]
async fn what_the_broker_refuses_is_told_and_its_number_is_free() {
    let (mut wire, mut broker) = begun().await;
    broker.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
    assert!(matches!(wire.next().await, Ok(Event::Up { .. })));
    published(&mut wire, &mut broker).await;
    broker.write_all(&[0x50, 4, 0, 1, 0x87, 0]).await.unwrap();
    let refused = Event::Refused {
        packet: 1,
        why: "NotAuthorized".to_owned(),
    };
    assert_eq!(wire.next().await, Ok(refused));
    let State::Open(open) = &wire.state else {
        panic!("it ended")
    };
    assert!(
        open.in_flight.is_empty() && open.output.is_empty(),
        "nothing is left to be said"
    );
}

#[tokio::test]
async fn a_broker_is_asked_for_nothing_that_it_does_not_have() {
    let (mut wire, mut broker) = begun().await;
    broker
        .write_all(&[0x20, 7, 0, 0, 4, 0x24, 1, 0x25, 0])
        .await
        .unwrap();
    assert!(matches!(wire.next().await, Ok(Event::Up { .. })));
    assert_eq!(
        published(&mut wire, &mut broker).await,
        [0x32, 7, 0, 1, b't', 0, 1, 0, b'x']
    );
}

#[tokio::test]
async fn a_broker_that_wants_to_hear_of_the_node_every_second_does_and_has_as_long_to_answer_as_others() {
    let (mut wire, mut broker) = begun().await;
    broker.write_all(&[0x20, 6, 0, 0, 3, 0x13, 0, 1]).await.unwrap();
    assert!(matches!(wire.next().await, Ok(Event::Up { .. })));
    let beats = async {
        let mut ping = [0; 2];
        for _ in 0..3 {
            broker.read_exact(&mut ping).await.unwrap();
            assert_eq!(ping, [0xc0, 0]);
        }
    };
    tokio::select! {
        event = wire.next() => panic!("{event:?}"),
        beats = timeout(Duration::from_secs(10), beats) => beats.expect("it is not silent"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_silent_has_as_long_to_answer_however_often_it_wants_to_hear_of_the_node() {
    for (properties, seconds) in [(&[][..], 40), (&[0x13, 0, 10], 30), (&[0x13, 0, 15], 45)] {
        let (node, mut broker) = tokio::io::duplex(1024);
        let mut wire = Wire {
            state: State::Open(Box::new(Open::over(Version::Five, Box::new(node)))),
        };
        let length = u8::try_from(properties.len()).unwrap();
        let answer = [&[0x20, 3 + length, 0, 0, length], properties].concat();
        broker.write_all(&answer).await.unwrap();
        assert!(matches!(wire.next().await, Ok(Event::Up { .. })));
        let since = Instant::now();
        let lost = Lost::Broken("the broker is silent".to_owned());
        assert_eq!(wire.next().await, Err(lost));
        assert_eq!(since.elapsed().as_secs(), seconds);
    }
}
