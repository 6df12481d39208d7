//! `POST /v1/enroll` and `POST /v1/renew` over TLS: HTTP/1.1, one request a connection, everything bounded.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use protocol::join::{
    ChannelValue, ENROLL_BODY_MAX, ENROLL_PATH, EnrollAnswer, EnrollRefusal, RENEW_PATH, RefusalCode,
};
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;

use super::{Shared, admission::Place};

/// From the end of the handshake to the last byte of the answer, slow readers and API server
/// included.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Headers are read into a buffer of this size; larger ones are refused.
const HEADER_BYTES: usize = 8 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one connection, which has its place among the unproven.
pub(super) async fn serve(shared: &Shared, tls: TlsStream<TcpStream>, place: &Place) -> Result<(), BoxError> {
    let channel = ChannelValue::of_server(tls.get_ref().1)?;
    let channel = &channel;
    let service = service_fn(move |request| async move {
        Ok::<_, Infallible>(answer((shared, place), channel, request).await)
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(tls), service);
    timeout(REQUEST_LIMIT, connection).await??;
    Ok(())
}

async fn answer(
    (shared, place): (&Shared, &Place),
    channel: &ChannelValue,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let authority = &shared.settings.authority;
    match request.uri().path() {
        ENROLL_PATH => match asked(shared, request).await {
            Ok(asked) => {
                place.asked();
                let answer = authority.enroll(&asked).await;
                place.answered();
                answered(answer)
            }
            Err(refused) => *refused,
        },
        RENEW_PATH => match asked(shared, request).await {
            Ok(asked) => {
                place.asked();
                let answer = authority.renew_ended(&asked, channel).await;
                place.answered();
                answered(answer)
            }
            Err(refused) => *refused,
        },
        _ => refuse(
            shared,
            StatusCode::NOT_FOUND,
            RefusalCode::BadRequest,
            "nothing is here",
        ),
    }
}

fn answered(answer: Result<EnrollAnswer, EnrollRefusal>) -> Response<Full<Bytes>> {
    match answer {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(refusal) => json(status(refusal.code), &refusal),
    }
}

/// Reads a request, or says what is wrong with it.
async fn asked<T: DeserializeOwned>(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<T, Box<Response<Full<Bytes>>>> {
    let wrong = |status, text| Err(Box::new(refuse(shared, status, RefusalCode::BadRequest, text)));
    if request.method() != Method::POST {
        return wrong(StatusCode::METHOD_NOT_ALLOWED, "use POST");
    }
    let text = "the request is too large, or broke off";
    if hyper::body::Body::size_hint(request.body()).lower() > ENROLL_BODY_MAX as u64 {
        return wrong(StatusCode::PAYLOAD_TOO_LARGE, text);
    }
    let Ok(body) = Limited::new(request.into_body(), ENROLL_BODY_MAX).collect().await else {
        return wrong(StatusCode::PAYLOAD_TOO_LARGE, text);
    };
    // The parser's own words could repeat the secret.
    let text = "the request is not JSON of the right form, or its token has not the right form";
    serde_json::from_slice(&body.to_bytes()).or_else(|_| wrong(StatusCode::BAD_REQUEST, text))
}

/// The HTTP status that goes with a refusal.
const fn status(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::TokenUnknown | RefusalCode::TokenExpired | RefusalCode::TokenUsedUp => {
            StatusCode::UNAUTHORIZED
        }
        RefusalCode::TokenForOtherName
        | RefusalCode::Banned
        | RefusalCode::NotEnrolled
        | RefusalCode::EndedTooLongAgo => StatusCode::FORBIDDEN,
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
