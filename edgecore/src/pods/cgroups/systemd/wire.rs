//! D-Bus messages as bytes: as much of them as talking to systemd takes. Pure.
//!
//! Calls are written little-endian, which systemd reads on any machine; it answers in the machine's own order, and
//! the devices we run on are little-endian.
//!
//! **Invariant:** nothing the peer sends makes [`Message::parse`] read beyond the bytes it was given.

use thiserror::Error;

/// The fixed part of a message.
pub(super) const HEADER: usize = 16;
/// More than systemd says in any message we wait for.
const MOST_BYTES: usize = 1 << 20;

/// The peer sent what is no message of this machine's bus.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a message that cannot be read")]
pub struct Malformed;

/// The value of a unit's property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Value {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
}

/// A unit's property and its value.
pub(in super::super) type Property = (&'static str, Value);

/// Arguments of a call, each at its alignment.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn text(mut self, text: &str) -> Self {
        self.put_text(text);
        self
    }

    pub(super) fn bool(mut self, value: bool) -> Self {
        self.put_u32(u32::from(value));
        self
    }

    /// `a(sv)`
    pub(super) fn properties(mut self, properties: &[Property]) -> Self {
        self.array(8, |body| {
            for (name, value) in properties {
                body.align(8);
                body.put_text(name);
                body.variant(value);
            }
        });
        self
    }

    /// An array of structures with nothing in it.
    pub(super) fn nothing(mut self) -> Self {
        self.array(8, |_| {});
        self
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.put_signature("b");
                self.put_u32(u32::from(*value));
            }
            Value::Number(value) => {
                self.put_signature("t");
                self.align(8);
                self.0.extend(value.to_le_bytes());
            }
            Value::Text(text) => {
                self.put_signature("s");
                self.put_text(text);
            }
            Value::Texts(texts) => {
                self.put_signature("as");
                self.array(4, |body| texts.iter().for_each(|text| body.put_text(text)));
            }
        }
    }

    /// The length of an array does not count the padding before its first element.
    fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) {
        self.put_u32(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        fill(self);
        let length = length_of(self.0.len() - begin);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn put_u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn put_text(&mut self, text: &str) {
        self.put_u32(length_of(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn put_signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }
}

fn length_of(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A call of systemd's manager.
pub(super) fn call(serial: u32, member: &str, signature: &str, body: &Body) -> Vec<u8> {
    let mut message = Body(vec![b'l', 1, 0, 1]);
    message.put_u32(length_of(body.0.len()));
    message.put_u32(serial);
    let fields = [
        (1, "o", "/org/freedesktop/systemd1"),
        (2, "s", "org.freedesktop.systemd1.Manager"),
        (3, "s", member),
        (6, "s", "org.freedesktop.systemd1"),
        (8, "g", signature),
    ];
    message.array(8, |message| {
        for (code, kind, text) in fields {
            message.align(8);
            message.0.push(code);
            message.put_signature(kind);
            if kind == "g" {
                message.put_signature(text);
            } else {
                message.put_text(text);
            }
        }
    });
    message.align(8);
    message.0.extend(&body.0);
    message.0
}

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Return,
    Error,
    Other,
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The serial of the call that it answers.
    pub(super) answers: Option<u32>,
    pub(super) member: String,
    /// The name of an error.
    pub(super) error: String,
    body: Vec<u8>,
}

impl Message {
    /// How many bytes follow this header.
    pub(super) fn rest(header: &[u8; HEADER]) -> Result<usize, Malformed> {
        if header[0] != b'l' {
            return Err(Malformed);
        }
        let (body, fields) = (number(header, 4)?, number(header, 12)?);
        let rest = fields.next_multiple_of(8).saturating_add(body);
        if rest > MOST_BYTES {
            return Err(Malformed);
        }
        Ok(rest)
    }

    /// Reads a message from its header and the bytes after it.
    pub(super) fn parse(header: &[u8; HEADER], rest: &[u8]) -> Result<Self, Malformed> {
        let fields = number(header, 12)?;
        let mut message = Self {
            kind: match header[1] {
                2 => Kind::Return,
                3 => Kind::Error,
                _ => Kind::Other,
            },
            answers: None,
            member: String::new(),
            error: String::new(),
            body: rest.get(fields.next_multiple_of(8)..).ok_or(Malformed)?.to_vec(),
        };
        let mut reader = Reader {
            bytes: rest.get(..fields).ok_or(Malformed)?,
            at: 0,
        };
        while reader.at < fields {
            reader.field(&mut message)?;
        }
        Ok(message)
    }

    /// The text with which the body begins, empty if it begins otherwise.
    pub(super) fn text(&self) -> String {
        self.reader().text().unwrap_or_default()
    }

    /// Path and result of a job that is over (`uoss`).
    pub(super) fn removed_job(&self) -> Option<(String, String)> {
        let mut reader = self.reader();
        reader.u32().ok()?;
        let path = reader.text().ok()?;
        reader.text().ok()?;
        Some((path, reader.text().ok()?))
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            bytes: &self.body,
            at: 0,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    let mut reader = Reader { bytes, at };
    Ok(reader.u32()? as usize)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn field(&mut self, message: &mut Message) -> Result<(), Malformed> {
        self.at = self.at.next_multiple_of(8);
        let code = self.take(1)?[0];
        match self.signature()?.as_slice() {
            b"u" => {
                let value = self.u32()?;
                if code == 5 {
                    message.answers = Some(value);
                }
            }
            b"s" | b"o" => {
                let text = self.text()?;
                match code {
                    3 => message.member = text,
                    4 => message.error = text,
                    _ => {}
                }
            }
            b"g" => drop(self.signature()?),
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.at = self.at.next_multiple_of(4);
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.u32()? as usize;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?;
        self.take(1)?;
        Ok(text.to_owned())
    }

    fn signature(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = usize::from(self.take(1)?[0]);
        let signature = self.take(length)?.to_vec();
        self.take(1)?;
        Ok(signature)
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
