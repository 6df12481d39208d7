//! The waiting that several loops share.

use protocol::transport::ByteWriter;
use protocol::wire::{Frame, FrameWriter, WireError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

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
