//! The waiting that several loops share.

use std::io;
use std::time::Duration;

use protocol::transport::ByteWriter;
use protocol::wire::{Frame, FrameWriter, WireError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

/// A socket error (out of files, mostly) is met with a pause.
const PAUSE: Duration = Duration::from_millis(100);

/// The next connection, from one who accepts.
///
/// # Cancel safety
///
/// No connection is lost when dropped; the pause is, and whoever ends one connection to accept another may go on
/// at once.
pub(crate) async fn accepted<T, F>(accept: impl Fn() -> F) -> T
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => warn!(%error, "a connection could not be accepted"),
        }
        sleep(PAUSE).await;
    }
}

/// Waits until then; for ever where there is nothing to wait for.
pub(crate) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Writes frames in order. Ends with an error alone: once none will come, the other half of the stream has ended,
/// and says why.
pub(crate) async fn write_all<M: Frame>(
    send: ByteWriter,
    mut frames: mpsc::Receiver<M>,
) -> Result<(), WireError> {
    let mut writer = FrameWriter::new(send);
    while let Some(frame) = frames.recv().await {
        writer.write(&frame).await?;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_fails_is_asked_again_and_not_without_a_pause() {
        let (began, asked) = (Instant::now(), Cell::new(0));
        let accept = || {
            asked.set(asked.get() + 1);
            ready(if asked.get() < 4 {
                Err(io::Error::other("out of files"))
            } else {
                Ok(asked.get())
            })
        };
        assert_eq!(accepted(accept).await, 4);
        assert_eq!(began.elapsed(), PAUSE * 3);
    }
}
