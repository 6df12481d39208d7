//! A web server on loopback that answers as a device does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What is answered where: `"GET /status"` to status and body.
type Answers = BTreeMap<String, (u16, String)>;

/// What a device answers, and what it was asked.
#[derive(Clone, Default)]
pub(crate) struct Web(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    answers: Answers,
    /// What a request changes: its own mark, then mark and answer from then on.
    changes: BTreeMap<String, (String, String)>,
    asked: Vec<String>,
    swallowed: Option<String>,
    authorization: Option<String>,
    delay: Duration,
}

impl Web {
    pub(crate) fn with(answers: &[(&str, &str)]) -> Self {
        let web = Self::default();
        for (mark, body) in answers {
            web.answers(mark, 200, body);
        }
        web
    }

    pub(crate) fn answers(&self, mark: &str, status: u16, body: &str) {
        let mut inner = self.0.lock();
        inner.answers.insert(mark.to_owned(), (status, body.to_owned()));
    }

    /// After a request with this mark another one is answered so.
    pub(crate) fn changes(&self, mark: &str, then: &str, body: &str) {
        let change = (then.to_owned(), body.to_owned());
        self.0.lock().changes.insert(mark.to_owned(), change);
    }

    /// Only requests with this header are answered.
    pub(crate) fn wants(&self, authorization: &str) {
        self.0.lock().authorization = Some(authorization.to_owned());
    }

    /// A request with this mark is taken and never answered.
    pub(crate) fn swallows(&self, mark: &str) {
        self.0.lock().swallowed = Some(mark.to_owned());
    }

    /// Each answer takes so long.
    pub(crate) fn slow(&self, delay: Duration) {
        self.0.lock().delay = delay;
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().asked.clone()
    }

    /// Waits until it was asked this.
    pub(crate) async fn until_asked(&self, mark: &str) {
        for _ in 0..1000 {
            if self.count(mark) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{mark} was never asked: {:?}", self.asked());
    }

    pub(crate) fn count(&self, mark: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == mark).count()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let mut mark = format!("{} {}", head.method, head.uri);
        if !body.is_empty() {
            mark = format!("{mark} {}", String::from_utf8_lossy(&body));
        }
        let swallowed = self.0.lock().swallowed.as_ref() == Some(&mark);
        if swallowed {
            self.0.lock().asked.push(mark);
            return std::future::pending().await;
        }
        let delay = self.0.lock().delay;
        tokio::time::sleep(delay).await;
        let mut inner = self.0.lock();
        let given = head
            .headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let (status, body) = if inner
            .authorization
            .as_deref()
            .is_some_and(|wanted| given != Some(wanted))
        {
            (401, String::new())
        } else {
            if let Some((then, body)) = inner.changes.get(&mark).cloned() {
                inner.answers.insert(then, (200, body));
            }
            let known = inner.answers.get(&mark).cloned();
            known.unwrap_or((404, String::new()))
        };
        inner.asked.push(mark);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if (300..400).contains(&status) {
            response
                .headers_mut()
                .insert("location", "/elsewhere".parse().unwrap());
        }
        Ok(response)
    }
}

/// A server that listens; gone when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(web: &Web) -> Self {
        Self::at(0, web, None).await
    }

    pub(crate) async fn at(port: u16, web: &Web, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (web, mut tasks) = (web.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (web, tls) = (web.clone(), tls.clone());
                conversations.spawn(async move {
                    match tls {
                        None => talk(stream, web).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                talk(stream, web).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, _tasks: tasks }
    }

    /// Takes every request and answers with these bytes, then hangs.
    pub(crate) async fn pretender(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                conversations.spawn(async move {
                    let mut request = [0; 2048];
                    if let Ok(1..) = stream.read(&mut request).await {
                        let _ = stream.write_all(&answer).await;
                        tokio::time::sleep(Duration::from_mins(1)).await;
                    }
                });
            }
        });
        Self { port, _tasks: tasks }
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, web: Web) {
    let service = service_fn(move |request| web.clone().answer(request));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Sends a request as it stands here; the status of the answer, none if there was none.
pub(crate) async fn send(to: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = tokio::net::TcpStream::connect(to).await.ok()?;
    // Whoever refuses early need not take it all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.split(' ').nth(1)?.parse().ok()
}
