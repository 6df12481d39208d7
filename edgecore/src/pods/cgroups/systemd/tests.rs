//! Slices, against a systemd of the test's own on a socket.

use std::os::unix::net::UnixListener;
use std::thread::{JoinHandle, spawn};

use super::testing::hear_greeting;
use super::wire::testing::{job_over, sent};
use super::*;
use crate::pods::volumes::testing::Scratch;

/// A systemd that lets one in, reads one call and sends `answers`. Its end gives the call's bytes.
fn fake(scratch: &Scratch, greeting: &'static str, answers: Vec<Vec<u8>>) -> (Systemd, JoinHandle<String>) {
    let socket = scratch.path().join("private");
    let listener = UnixListener::bind(&socket).unwrap();
    let peer = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        hear_greeting(&mut stream).unwrap();
        stream.write_all(greeting.as_bytes()).unwrap();
        if !greeting.starts_with("OK") {
            return String::new();
        }
        let mut read = vec![0; 4096];
        let length = stream.read(&mut read).unwrap();
        for answer in &answers {
            stream.write_all(answer).unwrap();
        }
        // Until the other side hangs up: whoever closes first would cut off what is still unread.
        let _ = stream.read(&mut [0]);
        String::from_utf8_lossy(&read[..length]).into_owned()
    });
    (Systemd::at(&socket), peer)
}

fn answer(path: &str) -> Vec<u8> {
    sent(2, &[], 1, &Body::default().text(path))
}

fn over(path: &str, result: &str) -> Vec<u8> {
    sent(4, &[(3, "s", "JobRemoved")], 0, &job_over(path, result))
}

fn refusal(name: &str) -> Vec<u8> {
    sent(3, &[(4, "s", name)], 1, &Body::default().text("its words"))
}

const OK: &str = "OK 0123\r\n";

#[test]
fn a_slice_is_there_when_its_job_is_over() {
    let scratch = Scratch::new("systemd-start");
    let said = vec![over("/job/8", "failed"), answer("/job/9"), over("/job/9", "done")];
    let (systemd, peer) = fake(&scratch, OK, said);
    systemd.start_slice("a-b.slice", "a.slice").unwrap();
    let call = peer.join().unwrap();
    for word in ["StartTransientUnit", "a-b.slice", "Wants", "MemoryAccounting"] {
        assert!(call.contains(word), "{word} in {call:?}");
    }
}

#[test]
fn a_job_that_was_over_before_the_answer_counts() {
    let scratch = Scratch::new("systemd-early");
    let (systemd, _peer) = fake(&scratch, OK, vec![over("/job/9", "done"), answer("/job/9")]);
    systemd.stop("a.slice").unwrap();
}

#[test]
fn a_slice_that_is_there_or_gone_already_is_as_it_should_be() {
    let scratch = Scratch::new("systemd-exists");
    let (systemd, _peer) = fake(&scratch, OK, vec![refusal(UNIT_EXISTS)]);
    systemd.start_slice("a.slice", "-.slice").unwrap();
    let scratch = Scratch::new("systemd-gone");
    let (systemd, _peer) = fake(&scratch, OK, vec![refusal(NO_SUCH_UNIT)]);
    systemd.stop("a.slice").unwrap();
}

#[test]
fn what_systemd_refuses_is_told_in_its_words() {
    let scratch = Scratch::new("systemd-refused");
    let (systemd, _peer) = fake(&scratch, OK, vec![refusal("a.b.Denied")]);
    let told = systemd
        .set("a.slice", &[("MemoryMax", Value::Number(1))])
        .unwrap_err();
    assert_eq!(
        told.to_string(),
        "systemd refused SetUnitProperties: its words (a.b.Denied)"
    );
    let scratch = Scratch::new("systemd-failed");
    let (systemd, _peer) = fake(&scratch, OK, vec![answer("/job/9"), over("/job/9", "failed")]);
    let told = systemd.start_slice("a.slice", "-.slice").unwrap_err();
    assert_eq!(
        told.to_string(),
        "systemd's job StartTransientUnit ended with \"failed\""
    );
}

#[test]
fn a_closed_door_is_an_error() {
    let scratch = Scratch::new("systemd-closed");
    let (systemd, _peer) = fake(&scratch, "REJECTED EXTERNAL\r\n", Vec::new());
    let told = systemd.stop("a.slice").unwrap_err();
    assert!(matches!(told, SystemdError::NotLetIn(_)), "{told}");
    let nowhere = Systemd::at(Path::new("/nonexistent/private"));
    let told = nowhere.stop("a.slice").unwrap_err();
    assert!(matches!(told, SystemdError::Unreachable { .. }), "{told}");
}
