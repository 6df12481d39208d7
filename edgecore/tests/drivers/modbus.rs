//! `tombolo/modbus` against simulated slaves.

use std::time::Duration;

use edgecore::devices::Observation;
use protocol::devices::{DeviceName, DeviceState};
use serde_json::{Value, json};
use tokio_modbus::server::rtu;
use tokio_serial::{SerialPort, SerialStream};

use crate::node::Node;
use crate::slave::{Memory, Slave};

fn meter(name: &str, config: &Value, visitors: &[(&str, Value)]) -> Value {
    let property = |(name, visitor): &(&str, Value)| json!({"name": name, "collectCycle": 50, "confirmTimeout": 3000, "visitors": {"configData": visitor}});
    json!({
        "metadata": {"name": name, "namespace": "hall", "uid": "u"},
        "spec": {
            "protocol": {"protocolName": "tombolo/modbus", "configData": config},
            "properties": visitors.iter().map(property).collect::<Vec<_>>()
        }
    })
}

fn tcp(port: u16, unit: u8) -> Value {
    json!({"ip": "127.0.0.1", "port": port, "slaveID": unit, "timeout": 200, "retries": 0})
}

fn holding(address: u16, kind: &str) -> Value {
    json!({"register": "HoldingRegister", "offset": address, "type": kind})
}

fn value(text: &str) -> Observation {
    Observation::Value(text.to_owned())
}

fn fault(text: &str) -> Observation {
    Observation::Fault(text.to_owned())
}

fn device(name: &str) -> DeviceName {
    DeviceName::new("hall", name)
}

#[tokio::test]
async fn values_are_read_at_once_and_set_and_read_back() {
    let memory = Memory::with(&[(0, 0xffff), (1, 0x41a8), (2, 0xcccd), (3, 0), (4, 0b100)]);
    memory.coil(7, false);
    let slave = Slave::start(&memory).await;
    let node = Node::start(
        1883,
        [meter(
            "meter",
            &tcp(slave.port, 3),
            &[
                ("signed", holding(0, "int16")),
                ("float", holding(1, "float32")),
                ("level", json!({"register": "holding", "offset": 3, "scale": 0.5})),
                ("bit", json!({"register": "holding", "offset": 4, "bit": 0})),
                ("pump", json!({"register": "coil", "offset": 7})),
            ],
        )],
    );
    let (twins, name) = (&node.twins, device("meter"));
    for (property, text) in [
        ("signed", "-1"),
        ("float", "21.1"),
        ("level", "0"),
        ("bit", "false"),
        ("pump", "false"),
    ] {
        twins.until(&name, property, &value(text)).await;
    }
    assert!(
        memory
            .requests()
            .contains(&"3 ReadHoldingRegisters(0, 5)".to_owned())
    );
    for (property, text, version) in [("level", "21.5", 1), ("bit", "true", 2), ("pump", "true", 3)] {
        twins.wish(&name, property, text, version);
        twins.until(&name, property, &value(text)).await;
    }
    assert_eq!((memory.holds(3), memory.holds(4)), (43, 0b101));
    memory.set(3, 10);
    twins.until(&name, "level", &value("5")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let writes = memory
        .requests()
        .iter()
        .filter(|request| request.contains("WriteSingleRegister(3"))
        .count();
    assert_eq!((memory.holds(3), writes), (10, 1), "what a person set stays");
    assert_eq!(twins.states(&name), [DeviceState::Online]);
    node.stop().await;
}

#[tokio::test]
async fn an_address_that_is_missing_costs_its_property_alone() {
    let memory = Memory::with(&[(0, 7), (5, 8)]);
    let slave = Slave::start(&memory).await;
    let properties = [
        ("a", holding(0, "uint16")),
        ("gone", holding(3, "uint16")),
        ("b", holding(5, "uint16")),
    ];
    let node = Node::start(1883, [meter("meter", &tcp(slave.port, 1), &properties)]);
    let name = device("meter");
    node.twins
        .until(&name, "gone", &fault("exception 2 (illegal data address)"))
        .await;
    node.twins.until(&name, "a", &value("7")).await;
    node.twins.until(&name, "b", &value("8")).await;
    assert_eq!(node.twins.states(&name).last(), Some(&DeviceState::Unhealthy));
    node.twins.wish(&name, "gone", "1", 1);
    let why = "NotConfirmed: exception 2 (illegal data address)";
    node.twins.until_given_up(&name, "gone", 1, why).await;
    node.stop().await;
}

#[tokio::test]
async fn a_silent_unit_and_slaves_that_hang_or_talk_nonsense_delay_no_other() {
    let memory = Memory::with(&[(0, 1)]);
    memory.silence(9);
    let (slave, other) = (
        Slave::start(&memory).await,
        Slave::start(&Memory::with(&[(0, 1)])).await,
    );
    let hangs = Slave::pretender(b"").await;
    let nonsense =
        Slave::pretender(b"\x00\x01\x00\x00\xff\xffgarbage that never ends and says nothing at all").await;
    let properties = [("p", holding(0, "uint16"))];
    let node = Node::start(
        1883,
        [
            meter("good", &tcp(slave.port, 1), &properties),
            meter("dead", &tcp(slave.port, 9), &properties),
            meter("other", &tcp(other.port, 1), &properties),
            meter("hangs", &tcp(hangs.port, 1), &properties),
            meter("nonsense", &tcp(nonsense.port, 1), &properties),
        ],
    );
    node.twins.until(&device("dead"), "p", &fault("timeout")).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let count = |name: &str| {
        let observed = node.twins.observed(&device(name));
        observed.iter().filter(|(_, seen)| *seen == value("1")).count()
    };
    // 80 cycles would fit; the machine that runs this may be busy, and the dead unit takes 3 × 200 ms.
    assert!(
        count("other") >= 40 && count("good") >= 30,
        "{} {}",
        count("other"),
        count("good")
    );
    for name in ["hangs", "nonsense", "dead"] {
        assert_eq!(count(name), 0, "{name}");
        assert_eq!(
            node.twins.states(&device(name)).last(),
            Some(&DeviceState::Offline),
            "{name}"
        );
        let asked = node.twins.observed(&device(name)).len();
        assert!(
            (1..=12).contains(&asked),
            "{name} is left alone between tries: {asked}"
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn a_slave_that_comes_back_is_read_again_and_gets_what_was_wished() {
    let memory = Memory::with(&[(0, 1)]);
    let slave = Slave::start(&memory).await;
    let (port, name) = (slave.port, device("meter"));
    let node = Node::start(
        1883,
        [meter("meter", &tcp(port, 1), &[("p", holding(0, "uint16"))])],
    );
    node.twins.until(&name, "p", &value("1")).await;
    drop(slave);
    node.until_state(&name, DeviceState::Offline).await;
    node.twins.wish(&name, "p", "2", 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _slave = Slave::at(port, &memory).await;
    node.twins.until(&name, "p", &value("2")).await;
    node.until_state(&name, DeviceState::Online).await;
    node.stop().await;
}

/// A serial line with slaves that share a memory: where it is, and what has to live for as long as it is used.
fn serial_line(memory: &Memory) -> (String, impl Sized) {
    let (master, line) = SerialStream::pair().unwrap();
    let path = line.name().unwrap();
    // The line has to stay open, without the lock that keeps others from it.
    let open = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    drop(line);
    let mut slaves = tokio::task::JoinSet::new();
    let service = memory.clone();
    slaves.spawn(async move {
        let _ = rtu::Server::new(master).serve_forever(service).await;
    });
    (path, (open, slaves))
}

#[tokio::test]
async fn a_serial_line_serves_its_units() {
    let memory = Memory::with(&[(0, 42), (1, 0)]);
    let (path, _line) = serial_line(&memory);
    let config =
        |unit: u8| json!({"serialPort": path, "slaveID": unit, "baudRate": 115_200, "interframeDelay": 2});
    let properties = [
        ("p", holding(0, "uint16")),
        (
            "set",
            json!({"register": "holding", "offset": 1, "multiple": true}),
        ),
    ];
    let node = Node::start(
        1883,
        [
            meter("one", &config(1), &properties),
            meter("two", &config(2), &properties),
        ],
    );
    node.twins.until(&device("one"), "p", &value("42")).await;
    node.twins.until(&device("two"), "p", &value("42")).await;
    node.twins.wish(&device("two"), "set", "7", 1);
    node.twins.until(&device("two"), "set", &value("7")).await;
    let multiple = |request: &String| request.starts_with("2 WriteMultipleRegisters(1");
    assert!(memory.requests().iter().any(multiple));
    node.stop().await;
}

/// A node that reads registers 0 and 7 of a meter one by one, each twice where no answer comes in time.
fn read_apart(path: &str, timeout: u64) -> Node {
    let config = json!({"serialPort": path, "timeout": timeout, "retries": 1});
    let apart = |address: u16| json!({"register": "holding", "offset": address, "merge": false});
    Node::start(
        1883,
        [meter("meter", &config, &[("a", apart(0)), ("b", apart(7))])],
    )
}

/// Waits until the meter has said all of these.
async fn until_all(node: &Node, said: [(&str, &str); 2]) {
    for (property, text) in said {
        node.twins.until(&device("meter"), property, &value(text)).await;
    }
}

#[tokio::test]
async fn on_a_serial_line_an_answer_that_comes_late_is_that_to_no_other_request() {
    let memory = Memory::with(&[(0, 1), (7, 2)]);
    memory.answer_late(&[600, 150]);
    let (path, _line) = serial_line(&memory);
    let node = read_apart(&path, 500);
    let name = device("meter");
    until_all(&node, [("a", "1"), ("b", "2")]).await;
    let wrong = [("a", "2"), ("b", "1")].map(|(property, text)| (property.to_owned(), value(text)));
    let observed = node.twins.observed(&name);
    assert!(!observed.iter().any(|seen| wrong.contains(seen)), "{observed:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_serial_line_on_which_an_answer_was_too_late_for_all_patience_is_right_again_by_itself() {
    let memory = Memory::with(&[(0, 1), (7, 2)]);
    memory.answer_late(&[1000]);
    let (path, _line) = serial_line(&memory);
    let node = read_apart(&path, 200);
    let name = device("meter");
    until_all(&node, [("a", "1"), ("b", "2")]).await;
    memory.set(0, 3);
    memory.set(7, 4);
    until_all(&node, [("a", "3"), ("b", "4")]).await;
    let seen = node.twins.observed(&name).len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let right = [("a", "3"), ("b", "4")].map(|(property, text)| (property.to_owned(), value(text)));
    let observed = node.twins.observed(&name);
    assert!(
        observed[seen..].iter().all(|seen| right.contains(seen)),
        "{observed:?}"
    );
    node.stop().await;
}

#[tokio::test]
async fn on_a_serial_line_the_answer_to_another_write_confirms_none() {
    let memory = Memory::with(&[(0, 1)]);
    memory.misplace();
    let (path, _line) = serial_line(&memory);
    let config = json!({"serialPort": path, "timeout": 200, "retries": 0});
    let mut optimistic = holding(0, "uint16");
    optimistic["optimistic"] = json!(true);
    let node = Node::start(1883, [meter("meter", &config, &[("p", optimistic)])]);
    let name = device("meter");
    node.twins.until(&name, "p", &value("1")).await;
    node.twins.wish(&name, "p", "2", 1);
    let writes = || {
        let requests = memory.requests();
        requests
            .iter()
            .filter(|request| request.contains("Write"))
            .count()
    };
    for _ in 0..1000 {
        if writes() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(writes(), 2, "{:?}", memory.requests());
    node.stop().await;
}

#[tokio::test]
async fn a_unit_that_is_silent_and_has_many_wishes_keeps_no_other_from_being_read() {
    let memory = Memory::with(&(0..30).map(|address| (address, 7)).collect::<Vec<_>>());
    memory.silence(2);
    let slave = Slave::start(&memory).await;
    let names: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
    let properties: Vec<_> = (0..)
        .zip(&names)
        .map(|(address, name)| (name.as_str(), holding(address, "uint16")))
        .collect();
    let (dead, live) = (device("dead"), device("live"));
    let node = Node::start(
        1883,
        [
            meter("dead", &tcp(slave.port, 2), &properties),
            meter("live", &tcp(slave.port, 1), &properties[..1]),
        ],
    );
    for (version, name) in (1..).zip(&names) {
        node.twins.wish(&dead, name, "8", version);
    }
    node.twins.until(&live, "p0", &value("7")).await;
    while memory.requests().len() < 30 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let requests = memory.requests();
    let count = |start: &str| {
        requests
            .iter()
            .filter(|request| request.starts_with(start))
            .count()
    };
    let (writes, reads) = (count("2 Write"), count("1 Read"));
    assert!(writes <= 4 && reads >= 15, "{requests:?}");
    // Its wishes wait for it.
    memory.silence(99);
    for name in &names {
        node.twins.until(&dead, name, &value("8")).await;
    }
    node.stop().await;
}

/// How often the silent unit was read.
fn reads_in_vain(memory: &Memory) -> usize {
    let requests = memory.requests();
    let reads = requests.iter().filter(|request| request.starts_with("9 Read"));
    reads.count()
}

#[tokio::test]
async fn a_relay_that_answers_no_reads_is_set_and_its_neighbour_is_read_meanwhile() {
    let memory = Memory::with(&[(0, 1)]);
    for coil in 0..4 {
        memory.coil(coil, false);
    }
    memory.answer_no_reads(9);
    let slave = Slave::start(&memory).await;
    let coil = |address: u16| json!({"register": "coil", "offset": address});
    let mut optimistic = coil(3);
    optimistic["optimistic"] = json!(true);
    let coils = [
        ("a", coil(0)),
        ("b", coil(1)),
        ("c", coil(2)),
        ("kept", optimistic),
    ];
    let (relay, meter_name) = (device("relay"), device("meter"));
    let node = Node::start(
        1883,
        [
            meter("relay", &tcp(slave.port, 9), &coils),
            meter("meter", &tcp(slave.port, 1), &[("p", holding(0, "uint16"))]),
        ],
    );
    node.twins.until(&relay, "a", &fault("timeout")).await;
    node.until_state(&relay, DeviceState::Offline).await;
    for (version, (name, _)) in (1..).zip(&coils) {
        node.twins.wish(&relay, name, "true", version);
    }
    for (version, name) in (1..).zip(["a", "b", "c"]) {
        node.twins
            .until_given_up(&relay, name, version, "NotConfirmed")
            .await;
    }
    assert!((0..4).all(|coil| memory.is_on(coil)));
    node.twins.until(&relay, "kept", &value("true")).await;
    node.twins.wish(&relay, "a", "false", 9);
    while memory.is_on(0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Reads in vain say nothing of what was sent and is never said.
    let asked = reads_in_vain(&memory);
    while reads_in_vain(&memory) == asked {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let kept = node.twins.observed(&relay);
    let kept = kept
        .iter()
        .rfind(|(name, _)| name == "kept")
        .map(|(_, seen)| seen);
    assert_eq!(kept, Some(&value("true")));
    let reads = reads_in_vain(&memory);
    assert!(
        reads <= 8,
        "{reads} reads in vain: a write makes none beside the first"
    );
    assert!(node.twins.observed(&meter_name).len() > 20);
    node.stop().await;
}

#[tokio::test]
async fn a_unit_that_answers_nothing_is_written_to_once_for_each_read_in_vain_and_waited_for() {
    let memory = Memory::with(&[(0, 1)]);
    memory.silence(9);
    let slave = Slave::start(&memory).await;
    let name = device("dead");
    let node = Node::start(
        1883,
        [meter("dead", &tcp(slave.port, 9), &[("p", holding(0, "uint16"))])],
    );
    node.twins.until(&name, "p", &fault("timeout")).await;
    node.twins.wish(&name, "p", "2", 1);
    // Longer than `confirmTimeout`.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let requests = memory.requests();
    let count = |what: &str| requests.iter().filter(|request| request.contains(what)).count();
    let (reads, writes) = (count("9 Read"), count("9 Write"));
    assert!((2..=reads).contains(&writes), "{requests:?}");
    let told = node.twins.observed(&name);
    assert!(told.iter().all(|(_, seen)| *seen == fault("timeout")), "{told:?}");
    memory.silence(99);
    node.twins.until(&name, "p", &value("2")).await;
    node.stop().await;
}

#[tokio::test]
async fn a_wish_that_is_taken_back_after_an_answer_was_lost_is_written() {
    let memory = Memory::with(&[(0, 1)]);
    let slave = Slave::start(&memory).await;
    let name = device("meter");
    let node = Node::start(
        1883,
        [meter(
            "meter",
            &tcp(slave.port, 1),
            &[("p", holding(0, "uint16"))],
        )],
    );
    node.twins.until(&name, "p", &value("1")).await;
    memory.silence(1);
    node.twins.wish(&name, "p", "2", 1);
    memory.until_asked("WriteSingleRegister(0, 2)").await;
    node.twins.wish(&name, "p", "1", 2);
    memory.until_asked("WriteSingleRegister(0, 1)").await;
    node.stop().await;
}
