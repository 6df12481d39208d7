//! The floor: something in edgecore's place that answers at once, and keeps nothing.

use std::{
    fmt::Write,
    io::{Read, Write as _},
};

use anyhow::{Context, Result};
use tests::mosquitto::EDGECORE;
use tokio::sync::oneshot;

use super::{
    client::{Client, Output},
    payload::{mark, twin},
};

/// What it says when it answers.
pub(super) const READY: &str = "ready\n";

/// Answers updates until its input ends.
pub(super) async fn run() -> Result<()> {
    let mut client = Client::connect(EDGECORE).await?;
    client.subscribe("$hw/events/device/+/+/twin/update").await?;
    print!("{READY}");
    std::io::stdout().flush()?;
    let (tell, mut ended) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        let _ = tell.send(());
    });
    let (mut to, mut said) = (String::new(), String::new());
    loop {
        tokio::select! {
            read = client.read() => read?,
            _ = &mut ended => return Ok(()),
        }
        client.take(|output, topic, payload| answer(output, (topic, payload), (&mut to, &mut said)))?;
        client.flush().await?;
    }
}

/// A result and a document, about as long as edgecore's.
fn answer(
    output: &mut Output,
    (topic, payload): (&str, &[u8]),
    (to, said): (&mut String, &mut String),
) -> Result<()> {
    let payload = std::str::from_utf8(payload)?;
    let (mark, twin) = (mark(payload)?, twin(payload)?);
    let twin = twin.strip_suffix("}").context("an update without an end")?;
    let head = format!(r#"{{"event_id":"{mark}","timestamp":1700000000000,"twin":"#);
    for (rest, body) in [
        ("result", format_args!("{twin}}}")),
        (
            "document",
            format_args!(r#"{{"last":{twin},"current":{twin}}}}}"#),
        ),
    ] {
        to.clear();
        said.clear();
        write!(to, "{topic}/{rest}")?;
        write!(said, "{head}{body}")?;
        output.publish(to, said.as_bytes());
    }
    Ok(())
}
