//! Messages as systemd would send them.

use super::*;

/// What systemd would send.
pub(in super::super) fn sent(kind: u8, fields: &[(u8, &str, &str)], answers: u32, body: &Body) -> Vec<u8> {
    let mut message = Body(vec![b'l', kind, 0, 1]);
    message.put_u32(length_of(body.0.len()));
    message.put_u32(1);
    message.array(8, |message| {
        for (code, signature, text) in fields {
            message.align(8);
            message.0.push(*code);
            message.put_signature(signature);
            message.put_text(text);
        }
        message.align(8);
        message.0.push(5);
        message.put_signature("u");
        message.put_u32(answers);
    });
    message.align(8);
    message.0.extend(&body.0);
    message.0
}

/// The body of the signal that a job is over.
pub(in super::super) fn job_over(path: &str, result: &str) -> Body {
    let mut body = Body::default();
    body.put_u32(7);
    body.text(path).text("a.slice").text(result)
}
