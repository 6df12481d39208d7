//! `POST /v1/enroll` over TLS: HTTP/1.1, one request a connection, everything bounded.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use protocol::join::{ENROLL_BODY_MAX, ENROLL_PATH, EnrollRefusal, EnrollRequest, RefusalCode};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;

use super::Shared;

/// From the end of the handshake to the last byte of the answer, slow readers and API server
/// included.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Headers are read into a buffer of this size; larger ones are refused.
const HEADER_BYTES: usize = 8 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one connection.
pub(super) async fn serve(shared: Arc<Shared>, tls: TlsStream<TcpStream>) -> Result<(), BoxError> {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(tls), service);
    timeout(REQUEST_LIMIT, connection).await??;
    Ok(())
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != ENROLL_PATH {
        return refuse(
            shared,
            StatusCode::NOT_FOUND,
            RefusalCode::BadRequest,
            "nothing is here",
        );
    }
    if request.method() != Method::POST {
        return refuse(
            shared,
            StatusCode::METHOD_NOT_ALLOWED,
            RefusalCode::BadRequest,
            "use POST",
        );
    }
    let text = "the request is too large, or broke off";
    if hyper::body::Body::size_hint(request.body()).lower() > ENROLL_BODY_MAX as u64 {
        return refuse(
            shared,
            StatusCode::PAYLOAD_TOO_LARGE,
            RefusalCode::BadRequest,
            text,
        );
    }
    let Ok(body) = Limited::new(request.into_body(), ENROLL_BODY_MAX).collect().await else {
        return refuse(
            shared,
            StatusCode::PAYLOAD_TOO_LARGE,
            RefusalCode::BadRequest,
            text,
        );
    };
    // The parser's own words could repeat the secret.
    let Ok(request) = serde_json::from_slice::<EnrollRequest>(&body.to_bytes()) else {
        let text = "the request is not an enrolment in JSON, or its token has not the right form";
        return refuse(shared, StatusCode::BAD_REQUEST, RefusalCode::BadRequest, text);
    };
    match shared.settings.authority.enroll(&request).await {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(refusal) => json(status(refusal.code), &refusal),
    }
}

/// The HTTP status that goes with a refusal.
const fn status(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::TokenUnknown | RefusalCode::TokenExpired | RefusalCode::TokenUsedUp => {
            StatusCode::UNAUTHORIZED
        }
        RefusalCode::TokenForOtherName | RefusalCode::Banned => StatusCode::FORBIDDEN,
        RefusalCode::NameTaken | RefusalCode::KeyDiffers => StatusCode::CONFLICT,
        RefusalCode::Busy | RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalCode::BadRequest | RefusalCode::Other | _ => StatusCode::BAD_REQUEST,
    }
}

fn refuse(shared: &Shared, status: StatusCode, code: RefusalCode, text: &str) -> Response<Full<Bytes>> {
    let server_time_ms = shared.settings.clock.now_millis();
    json(
        status,
        &EnrollRefusal {
            code,
            text: text.to_owned(),
            server_time_ms,
        },
    )
}

fn json<T: serde::Serialize>(status: StatusCode, body: &T) -> Response<Full<Bytes>> {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}
