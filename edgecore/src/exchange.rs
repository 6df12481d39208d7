//! One request and its answer over a connection of their own, in HTTP/1.1.

use std::error::Error;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends the request and reads its answer; the answer's head may have at most so many bytes.
///
/// # Cancel safety
///
/// The connection ends when dropped.
pub(crate) async fn exchange<B, T, E, F>(
    (stream, headers): (impl AsyncRead + AsyncWrite + Unpin, usize),
    request: Request<B>,
    read: impl FnOnce(Response<Incoming>) -> F,
    broken: impl Fn(hyper::Error) -> E,
) -> Result<T, E>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    F: Future<Output = Result<T, E>>,
{
    let mut builder = hyper::client::conn::http1::Builder::new();
    let handshake = builder
        .max_buf_size(headers)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = handshake.map_err(&broken)?;
    let answered = async { read(sender.send_request(request).await.map_err(&broken)?).await };
    tokio::pin!(answered, connection);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        ended = &mut connection => match ended {
            // What has been read is still to be taken.
            Ok(()) => answered.await,
            Err(error) => Err(broken(error)),
        },
    }
}
