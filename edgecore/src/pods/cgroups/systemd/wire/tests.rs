//! How calls are laid out, and what is read of answers.

use proptest::prelude::*;

use super::testing::{job_over, sent};
use super::*;

fn parsed(bytes: &[u8]) -> Message {
    let header: &[u8; HEADER] = bytes[..HEADER].try_into().unwrap();
    assert_eq!(Message::rest(header).unwrap(), bytes.len() - HEADER);
    Message::parse(header, &bytes[HEADER..]).unwrap()
}

#[test]
fn a_call_is_laid_out_as_the_bus_wants_it() {
    let body = Body::default()
        .text("a.slice")
        .bool(true)
        .properties(&[("MemoryMax", Value::Number(7))]);
    let bytes = call(3, "SetUnitProperties", "sba(sv)", &body);
    assert_eq!(&bytes[..4], b"l\x01\x00\x01");
    assert_eq!(bytes[8..12], 3_u32.to_le_bytes());
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let body = &bytes[bytes.len() - length..];
    // Text, padding, true, length of the array, padding to 8, name, signature, padding, value.
    let expected: &[u8] = b"\x07\0\0\0a.slice\0\x01\0\0\0\x20\0\0\0\0\0\0\0\
        \x09\0\0\0MemoryMax\0\x01t\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0";
    assert_eq!(body.len() % 8, 0);
    assert_eq!(body, expected);
    assert_eq!(parsed(&bytes).member, "SetUnitProperties");
}

#[test]
fn answers_errors_and_ended_jobs_are_read() {
    let answer = parsed(&sent(2, &[], 9, &Body::default().text("/job/1")));
    assert_eq!(
        (answer.kind, answer.answers, answer.text()),
        (Kind::Return, Some(9), "/job/1".to_owned())
    );
    let error = parsed(&sent(
        3,
        &[(4, "s", "a.b.NoSuchUnit")],
        9,
        &Body::default().text("gone"),
    ));
    assert_eq!(
        (error.kind, error.error.as_str(), error.text()),
        (Kind::Error, "a.b.NoSuchUnit", "gone".to_owned())
    );
    let signal = parsed(&sent(
        4,
        &[(3, "s", "JobRemoved")],
        0,
        &job_over("/job/1", "done"),
    ));
    assert_eq!(
        signal.removed_job(),
        Some(("/job/1".to_owned(), "done".to_owned()))
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), HEADER..200), fields in 0_u32..200) {
        let mut header: [u8; HEADER] = bytes[..HEADER].try_into().unwrap();
        header[0] = b'l';
        header[12..].copy_from_slice(&fields.to_le_bytes());
        let _ = Message::rest(&header);
        if let Ok(message) = Message::parse(&header, &bytes[HEADER..]) {
            let _ = (message.text(), message.removed_job());
        }
    }
}
