//! cloudcore, the broker and the mappers.

use super::*;

#[test]
fn one_way_to_cloudcore_is_enough_for_a_link() {
    use Level::{Failed, Unknown, Warning};
    let miss = |cause| Err(Miss { why: why(), cause });
    let both = |quic, websocket| ill_node(|node| (node.ways[0].made, node.ways[1].made) = (quic, websocket));
    let (quic, websocket) = ("cloudcore quic".to_owned(), "cloudcore websocket".to_owned());
    assert_eq!(both(miss(Cause::Silence), Ok(())), [(quic.clone(), Warning)]);
    assert_eq!(both(Ok(()), miss(Cause::Proxy)), [(websocket.clone(), Warning)]);
    let cut = both(miss(Cause::Name), miss(Cause::Name));
    assert_eq!(cut, [(quic.clone(), Failed), (websocket.clone(), Failed)]);
    let untried = both(miss(Cause::Identity), miss(Cause::Identity));
    assert_eq!(untried, [(quic, Unknown), (websocket, Unknown)]);
    let behind_a_proxy = ill_node(|node| {
        node.has_proxy = true;
        node.ways[0].made = miss(Cause::Silence);
    });
    assert_eq!(behind_a_proxy, [], "no proxy carries UDP");
}

#[test]
fn a_broker_is_judged_by_whom_it_lets_in() {
    use Level::{Failed, Unknown, Warning};
    let knocked = |own, stranger, has_login| {
        let knock = Knock {
            own,
            stranger,
            has_login,
        };
        ill_node(|node| node.broker.knock = Ok(Ok(knock)))
    };
    let let_in = || Some(Answer::LetIn);
    assert_eq!(
        knocked(Answer::LetIn, let_in(), true),
        one("broker access", Warning)
    );
    assert_eq!(
        knocked(Answer::LetIn, None, false),
        [],
        "it may have shown a certificate"
    );
    assert_eq!(knocked(Answer::Refused, None, true), one("broker", Failed));
    assert_eq!(knocked(Answer::Refused, None, false), one("broker", Failed));
    assert_eq!(knocked(Answer::Odd(why()), None, true), one("broker", Unknown));
    let absent = || Answer::Unreached(why());
    assert_eq!(knocked(absent(), None, true), one("broker", Failed));
    let unreadable = ill_node(|node| node.broker.knock = Ok(Err(why())));
    assert_eq!(unreadable, one("broker", Failed));
    let unasked = ill_node(|node| node.broker.knock = Err(why()));
    assert_eq!(unasked, one("broker", Unknown));
}

#[test]
fn no_broker_is_missed_where_none_is_named_and_no_device_needs_one() {
    let absent = |facts: &mut Facts| {
        let node = facts.node.as_mut().unwrap();
        node.broker.is_named = false;
        node.broker.knock = Ok(Ok(Knock {
            own: Answer::Unreached(why()),
            stranger: None,
            has_login: false,
        }));
    };
    assert_eq!(ill(absent), []);
    let mut needing = status();
    needing.devices = vec![DeviceLine::default()];
    let needed = ill(|facts| {
        absent(facts);
        facts.daemon = Daemon::Runs(Box::new(needing));
    });
    assert_eq!(needed, one("broker", Level::Failed));
}

#[test]
fn mappers_need_the_socket_and_a_group() {
    let mappers = |change: fn(&mut Mappers)| ill_node(|node| change(node.mappers.as_mut().unwrap()));
    assert_eq!(
        mappers(|mappers| mappers.open = Err(why())),
        one("mappers", Level::Failed)
    );
    assert_eq!(
        mappers(|mappers| mappers.has_group = false),
        one("mappers", Level::Warning)
    );
}
