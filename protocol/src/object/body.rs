//! Bodies: JSON bytes, compressed once and shared by all who send or store them.
//!
//! **Invariant:** no body grows beyond [`MAX_BODY`] when it is opened, whatever its header says.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::wire::ObjectBody;

/// The most that a body may hold once decompressed.
pub const MAX_BODY: usize = 8 * 1024 * 1024;

/// Below this many bytes compression gains nothing that is worth its header.
const SMALL: usize = 128;

/// zstd's own default: the best ratio for the time on kilobytes of JSON.
const LEVEL: i32 = 3;

/// How a body's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// zstd without a dictionary.
    Zstd,
}

impl Encoding {
    /// The encoding's number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
        }
    }
}

/// The JSON of an object or status, compressed. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// How to read `bytes`.
    pub encoding: Encoding,
    /// Bytes once decompressed.
    pub raw_len: usize,
    /// What travels and rests.
    pub bytes: Bytes,
}

/// Why a body cannot be opened. The object must be sent again, or skipped.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// It says that it holds more than [`MAX_BODY`].
    #[error("the body holds {raw_len} bytes, more than the {MAX_BODY} that are allowed")]
    TooLarge {
        /// What it says that it holds.
        raw_len: u64,
    },
    /// An encoding or a dictionary that this version does not have.
    #[error("the body's encoding {encoding} is not known here; a newer version may have it")]
    UnknownEncoding {
        /// The number on the wire.
        encoding: u32,
    },
    /// The bytes are not what the header says.
    #[error("the body is damaged: it does not decompress to its {raw_len} bytes")]
    Damaged {
        /// What it says that it holds.
        raw_len: usize,
    },
    /// A body is missing where one must be.
    #[error("the body is missing")]
    Missing,
}

impl Body {
    /// Compresses JSON; small or incompressible bytes are kept as they are.
    pub fn compress(json: &[u8]) -> Self {
        let packed = if json.len() < SMALL {
            None
        } else {
            zstd::bulk::compress(json, LEVEL).ok()
        };
        match packed {
            Some(packed) if packed.len() < json.len() => Self {
                encoding: Encoding::Zstd,
                raw_len: json.len(),
                bytes: packed.into(),
            },
            Some(_) | None => Self::plain(Bytes::copy_from_slice(json)),
        }
    }

    /// A body that is not compressed.
    pub const fn plain(json: Bytes) -> Self {
        Self {
            encoding: Encoding::Plain,
            raw_len: json.len(),
            bytes: json,
        }
    }

    /// The JSON, bounded by [`MAX_BODY`] whatever the bytes would expand to.
    pub fn json(&self) -> Result<Vec<u8>, BodyError> {
        if self.raw_len > MAX_BODY {
            return Err(BodyError::TooLarge {
                raw_len: self.raw_len as u64,
            });
        }
        let json = match self.encoding {
            Encoding::Plain => self.bytes.to_vec(),
            Encoding::Zstd => {
                zstd::bulk::decompress(&self.bytes, self.raw_len).map_err(|_| BodyError::Damaged {
                    raw_len: self.raw_len,
                })?
            }
        };
        if json.len() == self.raw_len {
            Ok(json)
        } else {
            Err(BodyError::Damaged {
                raw_len: self.raw_len,
            })
        }
    }

    /// The body as it travels.
    pub fn to_wire(&self) -> ObjectBody {
        ObjectBody {
            encoding: self.encoding.wire(),
            dictionary: 0,
            raw_len: self.raw_len as u64,
            bytes: self.bytes.clone(),
        }
    }

    /// The body as it came over the wire; its header is checked, its bytes not yet.
    pub fn from_wire(body: Option<ObjectBody>) -> Result<Self, BodyError> {
        let body = body.ok_or(BodyError::Missing)?;
        let too_large = BodyError::TooLarge {
            raw_len: body.raw_len,
        };
        let raw_len = usize::try_from(body.raw_len)
            .ok()
            .filter(|&len| len <= MAX_BODY)
            .ok_or(too_large)?;
        let encoding = match (body.encoding, body.dictionary) {
            (0, 0) => Encoding::Plain,
            (1, 0) => Encoding::Zstd,
            (encoding, _) => return Err(BodyError::UnknownEncoding { encoding }),
        };
        Ok(Self {
            encoding,
            raw_len,
            bytes: body.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_comes_back_as_it_went_in() {
        for json in [b"{}".to_vec(), vec![b'x'; 10_000]] {
            let body = Body::compress(&json);
            assert_eq!(
                Body::from_wire(Some(body.to_wire())).unwrap().json().unwrap(),
                json
            );
        }
    }

    #[test]
    fn a_body_that_lies_about_its_size_is_damaged_and_never_larger() {
        let honest = Body::compress(&vec![b'x'; 100_000]);
        let liar = Body {
            raw_len: 1_000,
            ..honest
        };
        assert_eq!(liar.json(), Err(BodyError::Damaged { raw_len: 1_000 }));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_by_its_header() {
        let wire = ObjectBody {
            encoding: 1,
            dictionary: 0,
            raw_len: u64::MAX,
            bytes: Bytes::new(),
        };
        assert_eq!(
            Body::from_wire(Some(wire)),
            Err(BodyError::TooLarge { raw_len: u64::MAX })
        );
    }
}
