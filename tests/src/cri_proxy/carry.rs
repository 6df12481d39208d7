//! One call, carried through.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, Uri, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::SendRequest,
};

use super::notes::{Method, Pending, Recorder};

/// Any authority does: there is one server behind the socket.
const AUTHORITY: &str = "http://localhost";

/// Carries a call to the runtime. Requests of the CRI are single messages, answers may be streams.
pub(super) async fn call(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Incoming>,
    recorder: Arc<Recorder>,
) -> Result<Response<Tapped>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let pending = Method::of(path).map(|method| recorder.begin(method, &body));
    let mut onward = Request::new(Full::new(body));
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = Uri::try_from(format!("{AUTHORITY}{path}")).unwrap_or_default();
    *onward.headers_mut() = parts.headers;
    let answer = sender.send_request(onward).await?;
    let (parts, body) = answer.into_parts();
    let status = parts.headers.get("grpc-status").cloned();
    let mut tapped = Tapped {
        inner: body,
        seen: Vec::new(),
        pending,
    };
    if let Some(status) = status {
        // No message, only a refusal.
        tapped.end(status.to_str().unwrap_or_default());
    }
    Ok(Response::from_parts(parts, tapped))
}

/// An answer on its way to the agent; what passes is kept until the call ends, when it is to be noted.
pub(super) struct Tapped {
    inner: Incoming,
    seen: Vec<u8>,
    pending: Option<Pending>,
}

impl Tapped {
    fn end(&mut self, status: &str) {
        if let Some(pending) = self.pending.take() {
            pending.end(status, &self.seen);
        }
    }

    fn watch(&mut self, frame: &Frame<Bytes>) {
        if self.pending.is_none() {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.seen.extend_from_slice(data);
        }
        if let Some(trailers) = frame.trailers_ref() {
            let status = trailers.get("grpc-status").and_then(|value| value.to_str().ok());
            let status = status.unwrap_or_default().to_owned();
            self.end(&status);
        }
    }
}

impl Body for Tapped {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.watch(frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
