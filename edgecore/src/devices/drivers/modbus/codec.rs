//! Between registers and values. Pure.

use std::fmt;

use crate::devices::drivers::extract::written;

/// What a property is in the device's memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// How the bits are read.
    pub(crate) kind: Kind,
    /// What a number is multiplied with.
    pub(crate) scale: f64,
    /// Each register has its lower byte first.
    pub(crate) swap_bytes: bool,
    /// The register with the lower half comes first.
    pub(crate) swap_words: bool,
    /// Switches are written as 1 and 0, since the model calls them numbers.
    pub(crate) numeric: bool,
}

/// How the bits are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A coil or a discrete input.
    Switch,
    /// One bit of a register.
    Bit(u8),
    /// A whole number without a sign, of so many registers.
    Unsigned(u8),
    /// A whole number with a sign, of so many registers.
    Signed(u8),
    /// A number of IEEE 754, of two or four registers.
    Float(u8),
    /// Text, of so many registers.
    Text(u16),
}

impl Kind {
    /// How many registers, or coils, it takes.
    pub(crate) const fn width(self) -> u16 {
        match self {
            Self::Switch | Self::Bit(_) => 1,
            Self::Unsigned(registers) | Self::Signed(registers) | Self::Float(registers) => registers as u16,
            Self::Text(registers) => registers,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => out.write_str("switch"),
            Self::Bit(bit) => write!(out, "bit {bit}"),
            Self::Unsigned(registers) => write!(out, "uint{}", u16::from(*registers) * 16),
            Self::Signed(registers) => write!(out, "int{}", u16::from(*registers) * 16),
            Self::Float(registers) => write!(out, "float{}", u16::from(*registers) * 16),
            Self::Text(registers) => write!(out, "string of {registers} registers"),
        }
    }
}

impl Layout {
    /// The value of a coil.
    pub(crate) fn of_switch(&self, on: bool) -> String {
        match (self.numeric, on) {
            (true, on) => u8::from(on).to_string(),
            (false, on) => on.to_string(),
        }
    }

    /// The value of registers.
    pub(crate) fn value(&self, registers: &[u16]) -> Result<String, String> {
        if registers.len() != usize::from(self.kind.width()) {
            return Err(format!("{} registers came for a {}", registers.len(), self.kind));
        }
        let bits = self.bits(registers);
        match self.kind {
            Kind::Switch => Ok(self.of_switch(bits != 0)),
            Kind::Bit(bit) => Ok(self.of_switch(bits >> bit & 1 == 1)),
            Kind::Unsigned(_) if self.scale.to_bits() == 1f64.to_bits() => Ok(bits.to_string()),
            Kind::Unsigned(_) => Ok(self.scaled(wide(bits))),
            Kind::Signed(count) => {
                let number = sign_extended(bits, count);
                if self.scale.to_bits() == 1f64.to_bits() {
                    return Ok(number.to_string());
                }
                Ok(self.scaled(wide_signed(number)))
            }
            Kind::Float(count) => {
                let number = if count == 2 {
                    // The shortest text of the single: 21.1, not 21.100000381469727.
                    single(bits).to_string().parse().unwrap_or(f64::NAN)
                } else {
                    f64::from_bits(bits)
                };
                if number.is_finite() {
                    return Ok(self.scaled(number));
                }
                Err(format!("the device says {number}"))
            }
            Kind::Text(_) => self.text(registers),
        }
    }

    /// The registers of a value; `before` is what a register held whose other bits stay.
    pub(crate) fn registers(&self, value: &str, before: u16) -> Result<Vec<u16>, String> {
        let bits = match self.kind {
            Kind::Switch => u64::from(switch(value)?),
            Kind::Bit(bit) => {
                let mask = 1u16 << bit;
                let held = self.bits(&[before]);
                let rest = held & !u64::from(mask);
                rest | if switch(value)? { u64::from(mask) } else { 0 }
            }
            Kind::Unsigned(count) => {
                self.whole(value, 0, i128::from(u64::MAX >> (64 - 16 * u32::from(count))))?
            }
            Kind::Signed(count) => {
                let most = i128::from(i64::MAX >> (64 - 16 * u32::from(count)));
                self.whole(value, -most - 1, most)?
            }
            Kind::Float(count) => {
                let number = number(value)? / self.scale;
                if count == 2 {
                    single_bits(number)?
                } else {
                    number.to_bits()
                }
            }
            Kind::Text(_) => return self.text_registers(value),
        };
        Ok(self.words(bits))
    }

    /// The value of a coil that is written.
    pub(crate) fn to_switch(value: &str) -> Result<bool, String> {
        switch(value)
    }

    fn scaled(&self, number: f64) -> String {
        if self.scale.to_bits() == 1f64.to_bits() {
            return number.to_string();
        }
        written(number * self.scale)
    }

    fn whole(&self, value: &str, least: i128, most: i128) -> Result<u64, String> {
        let exact = value.trim().parse::<i128>().ok();
        let raw = match exact.filter(|_| self.scale.to_bits() == 1f64.to_bits()) {
            Some(exact) => exact,
            None => rounded(number(value)? / self.scale),
        };
        if !(least..=most).contains(&raw) {
            return Err(format!("{value} does not fit into {}", self.kind));
        }
        Ok(low_bits(raw))
    }

    fn bits(&self, registers: &[u16]) -> u64 {
        let word = |word: &u16| u64::from(if self.swap_bytes { word.swap_bytes() } else { *word });
        let fold = |bits: u64, word: u64| bits << 16 | word;
        if self.swap_words {
            return registers.iter().rev().map(word).fold(0, fold);
        }
        registers.iter().map(word).fold(0, fold)
    }

    fn words(&self, bits: u64) -> Vec<u16> {
        let count = self.kind.width();
        let word = |index: u16| {
            let [.., high, low] = (bits >> (16 * u32::from(index))).to_be_bytes();
            let word = u16::from_be_bytes([high, low]);
            if self.swap_bytes { word.swap_bytes() } else { word }
        };
        if self.swap_words {
            return (0..count).map(word).collect();
        }
        (0..count).rev().map(word).collect()
    }

    fn text(&self, registers: &[u16]) -> Result<String, String> {
        let pair = |word: &u16| {
            if self.swap_bytes {
                word.to_le_bytes()
            } else {
                word.to_be_bytes()
            }
        };
        let mut bytes: Vec<u8> = registers.iter().flat_map(pair).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        let text = String::from_utf8(bytes).map_err(|_| "the text is not UTF-8".to_owned())?;
        Ok(text.trim_end().to_owned())
    }

    fn text_registers(&self, value: &str) -> Result<Vec<u16>, String> {
        let room = usize::from(self.kind.width()) * 2;
        if value.len() > room {
            return Err(format!("{} bytes do not fit into {}", value.len(), self.kind));
        }
        let mut bytes = value.as_bytes().to_vec();
        bytes.resize(room, 0);
        let word = |pair: &[u8]| {
            let pair = [pair[0], pair[1]];
            if self.swap_bytes {
                u16::from_le_bytes(pair)
            } else {
                u16::from_be_bytes(pair)
            }
        };
        Ok(bytes.chunks_exact(2).map(word).collect())
    }
}

fn switch(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "on" => Ok(true),
        "false" | "0" | "off" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

fn number(value: &str) -> Result<f64, String> {
    let number = value
        .trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("{value:?} is not a number"))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a scale makes it a number of 53 bits by wish"
)]
fn wide(bits: u64) -> f64 {
    bits as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a scale makes it a number of 53 bits by wish"
)]
fn wide_signed(number: i64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what does not fit is refused by its range next"
)]
fn rounded(number: f64) -> i128 {
    number.round() as i128
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "two's complement is meant"
)]
fn low_bits(number: i128) -> u64 {
    number as u64
}

#[expect(clippy::cast_possible_wrap, reason = "two's complement is meant")]
fn sign_extended(bits: u64, registers: u8) -> i64 {
    let unused = 64 - 16 * u32::from(registers);
    ((bits << unused) as i64) >> unused
}

#[expect(clippy::cast_possible_truncation, reason = "two registers are 32 bits")]
fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what is too large becomes infinite, and is refused"
)]
fn single_bits(number: f64) -> Result<u64, String> {
    let single = number as f32;
    if single.is_finite() {
        return Ok(u64::from(single.to_bits()));
    }
    Err(format!("{number} does not fit into float32"))
}

#[cfg(test)]
mod tests;
