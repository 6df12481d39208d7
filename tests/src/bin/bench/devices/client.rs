//! A client of the broker that costs little: MQTT 3.1.1 with `QoS` 1, many packets for each read and write.
//!
//! Of the protocol it has what load needs and nothing more, so that what is measured is the broker and
//! the node, also in a build that is not optimised.

use anyhow::{Result, bail, ensure};
use tests::mosquitto::PASSWORD;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Where the broker listens for programs on the device.
const BROKER: &str = "127.0.0.1:1883";
/// How much is read at once.
const READ: usize = 64 * 1024;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
/// The bit of a PUBLISH that says `QoS` 1.
const AT_LEAST_ONCE: u8 = 0x02;
/// Version 3.1.1, a user, a password and an empty session; no keep-alive, for some only listen.
const CLEAN: [u8; 4] = [4, 0xc2, 0, 0];

/// A connection, with what was read of it and what is to be written.
pub(super) struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    /// So much of the input was taken.
    taken: usize,
    pub(super) output: Output,
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    number: u16,
}

impl Client {
    /// Connects as this user.
    pub(super) async fn connect(user: &str) -> Result<Self> {
        let stream = TcpStream::connect(BROKER).await?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            stream,
            input: Vec::with_capacity(READ),
            taken: 0,
            output: Output::default(),
        };
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        body.extend(CLEAN);
        for word in [user, user, PASSWORD] {
            text(&mut body, word);
        }
        client.output.packet(CONNECT, &body);
        let answer = client.answer(CONNACK).await?;
        ensure!(answer[3] == 0, "the broker refuses {user}: {answer:?}");
        Ok(client)
    }

    /// Subscribes with `QoS` 1.
    pub(super) async fn subscribe(&mut self, filter: &str) -> Result<()> {
        let mut body = self.output.number().to_be_bytes().to_vec();
        text(&mut body, filter);
        body.push(1);
        self.output.packet(SUBSCRIBE, &body);
        let answer = self.answer(SUBACK).await?;
        ensure!(answer[4] == 1, "the broker refuses {filter}: {answer:?}");
        Ok(())
    }

    /// Writes what there is to write.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.output.bytes).await?;
        self.output.bytes.clear();
        Ok(())
    }

    /// Reads what there is, at least something. Loses nothing when it is dropped.
    pub(super) async fn read(&mut self) -> Result<()> {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.reserve(READ);
        ensure!(
            self.stream.read_buf(&mut self.input).await? > 0,
            "the broker hung up"
        );
        Ok(())
    }

    /// Shows each message that is here, and acknowledges it.
    pub(super) fn take(&mut self, mut see: impl FnMut(&mut Output, &str, &[u8]) -> Result<()>) -> Result<()> {
        while let Some(packet) = whole(&self.input[self.taken..]) {
            self.taken += packet.len();
            if packet[0] & 0xf0 != PUBLISH {
                continue;
            }
            let (topic, number, payload) = message(packet)?;
            self.output.packet(PUBACK, &number);
            see(&mut self.output, topic, payload)?;
        }
        Ok(())
    }

    /// Writes, and reads the answer: nothing else is under way yet.
    async fn answer(&mut self, kind: u8) -> Result<Vec<u8>> {
        self.flush().await?;
        loop {
            if let Some(packet) = whole(&self.input[self.taken..]) {
                ensure!(packet[0] == kind, "an answer of kind {:#x}", packet[0]);
                self.taken += packet.len();
                return Ok(packet.to_vec());
            }
            self.read().await?;
        }
    }
}

impl Output {
    /// Adds a message.
    pub(super) fn publish(&mut self, topic: &str, payload: &[u8]) {
        let number = self.number();
        self.bytes.push(PUBLISH | AT_LEAST_ONCE);
        length(&mut self.bytes, topic.len() + payload.len() + 4);
        text(&mut self.bytes, topic);
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self.bytes.extend_from_slice(payload);
    }

    fn packet(&mut self, kind: u8, body: &[u8]) {
        self.bytes.push(kind);
        length(&mut self.bytes, body.len());
        self.bytes.extend_from_slice(body);
    }

    /// Numbers come round after 65,535 messages; so many are never in flight.
    const fn number(&mut self) -> u16 {
        self.number = if self.number == u16::MAX {
            1
        } else {
            self.number + 1
        };
        self.number
    }
}

/// Nothing here is longer than 65,535 bytes.
#[expect(clippy::cast_possible_truncation, reason = "names of the bench's own")]
fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits are kept")]
fn length(out: &mut Vec<u8>, mut length: usize) {
    while length > 0x7f {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// The first packet, if all of it is here.
fn whole(input: &[u8]) -> Option<&[u8]> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *input.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            return input.get(..at + length);
        }
    }
}

/// Topic, number and payload of a message with `QoS` 1.
fn message(packet: &[u8]) -> Result<(&str, [u8; 2], &[u8])> {
    if packet[0] & 0x06 != AT_LEAST_ONCE {
        bail!("a message without an acknowledgement");
    }
    let header = 1 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let body = &packet[header..];
    let size = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let (topic, rest) = body[2..].split_at(size);
    Ok((std::str::from_utf8(topic)?, [rest[0], rest[1]], &rest[2..]))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        for size in [10, 200, 20_000] {
            let mut output = Output::default();
            output.publish("a/b", &vec![7; size]);
            output.publish("c", b"x");
            let first = whole(&output.bytes).unwrap();
            assert_eq!(message(first).unwrap(), ("a/b", [0, 1], &*vec![7; size]));
            let second = whole(&output.bytes[first.len()..]).unwrap();
            assert_eq!(message(second).unwrap(), ("c", [0, 2], &b"x"[..]));
            assert!(whole(&output.bytes[..first.len() - 1]).is_none());
        }
    }
}
