//! The dialling end of a tunnel.

use thiserror::Error;
use tokio::time::timeout;

use super::{Connection, HANDSHAKE_LIMIT, Stream, TransportError};
use crate::{
    name::{ServiceName, shown},
    wire::{DialRefusal, DialReply, FrameReader, Open, WireError, dial_reply},
};

/// Why a tunnel could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The other end refused.
    #[error("{service} refused ({code:?}): {text}")]
    Refused {
        /// What was dialled.
        service: ServiceName,
        /// Why.
        code: DialRefusal,
        /// In words.
        text: String,
    },
    /// No answer came, or none that could be read.
    #[error("{service} gave no answer")]
    NoAnswer {
        /// What was dialled.
        service: ServiceName,
    },
    /// The answer could not be read.
    #[error("the answer of {service} does not read")]
    Answer {
        /// What was dialled.
        service: ServiceName,
        /// The cause.
        source: WireError,
    },
    /// The connection is gone.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Opens a tunnel: after this, the stream carries raw bytes.
pub async fn dial(
    connection: &dyn Connection,
    service: ServiceName,
    target: &str,
) -> Result<Stream, TunnelError> {
    let Stream { recv, send } = connection.open(Open::dial(service, target)).await?;
    let mut reader = FrameReader::new(recv);
    let Ok(answer) = timeout(HANDSHAKE_LIMIT, reader.read::<DialReply>()).await else {
        return Err(TunnelError::NoAnswer { service });
    };
    match answer
        .map_err(|source| TunnelError::Answer { service, source })?
        .and_then(|reply| reply.kind)
    {
        Some(dial_reply::Kind::Dialed(_)) => Ok(Stream {
            recv: reader.into_inner(),
            send,
        }),
        Some(dial_reply::Kind::Refused(refused)) => Err(TunnelError::Refused {
            service,
            code: refused.code.into(),
            text: shown(&refused.text),
        }),
        None => Err(TunnelError::NoAnswer { service }),
    }
}
