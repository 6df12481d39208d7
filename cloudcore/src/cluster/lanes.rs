//! Many watches on few connections.
//!
//! What it is: a service that gives each watch to the first HTTP/2 connection that has room. What it is not: a limit
//! on watches; there is always one more connection. hyper's own pool has one HTTP/2 connection for all, and what the
//! server does not allow on it waits at the client for another to end, which a watch does not do for minutes.
//!
//! A server that speaks HTTP/1.1 alone gets a connection for each watch, as the lane's own pool opens them.
//!
//! **Invariant:** a lane carries at most [`MOST`] watches, and none after one was not answered on it in time.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;
use tower::{Service, ServiceExt};

/// Watches on one connection: the API server allows 100.
const MOST: usize = 90;
/// The API server accepts a watch at once. Where it has not for so long, less is allowed on this connection.
const STUCK: Duration = Duration::from_secs(5);

/// Watches, each on a connection that has room.
pub(super) struct Lanes<S> {
    connect: Arc<dyn Fn() -> S + Send + Sync>,
    open: Arc<Mutex<Vec<Lane<S>>>>,
}

/// One connection, and whatever replaces it when it breaks.
struct Lane<S> {
    service: S,
    seats: Seat,
}

/// A place of one watch on a lane; the lane has one more.
#[derive(Clone, Default)]
struct Seat(Arc<AtomicBool>);

impl<S: Clone> Lanes<S> {
    /// Each connection is made by `connect`, which gives a pool of its own.
    pub(super) fn new(connect: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self {
            connect: Arc::new(connect),
            open: Arc::default(),
        }
    }

    /// A lane that has room. Those that are empty are closed.
    fn take(&self) -> (S, Seat) {
        let mut open = self.open.lock();
        let place = open.iter().position(|lane| lane.seats.has_room());
        let place = place.unwrap_or_else(|| {
            let service = (self.connect)();
            let seats = Seat::default();
            open.push(Lane { service, seats });
            open.len() - 1
        });
        let taken = (open[place].service.clone(), open[place].seats.clone());
        open.retain(|lane| lane.seats.taken() > 0);
        taken
    }
}

impl Seat {
    fn taken(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    fn has_room(&self) -> bool {
        self.taken() < MOST && !self.0.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S> Clone for Lanes<S> {
    fn clone(&self) -> Self {
        Self {
            connect: Arc::clone(&self.connect),
            open: Arc::clone(&self.open),
        }
    }
}

impl<S, B, R> Service<Request<B>> for Lanes<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Seated<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Each lane is asked when it is chosen.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (service, seat) = self.take();
        async move {
            let mut answer = pin!(service.oneshot(request));
            let answer = if let Ok(answer) = timeout(STUCK, &mut answer).await {
                answer?
            } else {
                seat.close();
                answer.await?
            };
            Ok(answer.map(|body| Seated { body, _seat: seat }))
        }
        .boxed()
    }
}

/// A watch's body, which keeps its place for as long as it lives.
pub(super) struct Seated<B> {
    body: B,
    _seat: Seat,
}

impl<B: Body + Unpin> Body for Seated<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicUsize;

    use http_body_util::Empty;
    use tokio::time::sleep;

    use super::*;

    type Answer = Response<Empty<&'static [u8]>>;
    type Pool = tower::util::BoxCloneSyncService<Request<()>, Answer, Infallible>;

    /// Lanes whose connections are counted, and answer what is asked of them or never.
    fn lanes(answers: bool) -> (Lanes<Pool>, Arc<AtomicUsize>) {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let lanes = Lanes::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = move |_: Request<()>| async move {
                if !answers {
                    std::future::pending::<()>().await;
                }
                Ok(Response::new(Empty::new()))
            };
            Pool::new(tower::service_fn(answer))
        });
        (lanes, connections)
    }

    async fn watch(lanes: &Lanes<Pool>) -> Response<Seated<Empty<&'static [u8]>>> {
        lanes.clone().oneshot(Request::new(())).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_carries_ninety_watches_and_the_next_goes_on_another() {
        let (lanes, connections) = lanes(true);
        let mut watches = Vec::new();
        for count in 1..=3 * MOST {
            watches.push(watch(&lanes).await);
            assert_eq!(connections.load(Ordering::Relaxed), count.div_ceil(MOST));
        }
        // What ended makes room, and a lane without watches is closed.
        watches.drain(..MOST / 2);
        watches.push(watch(&lanes).await);
        assert_eq!(connections.load(Ordering::Relaxed), 3);
        watches.clear();
        let _one = watch(&lanes).await;
        assert_eq!(
            (connections.load(Ordering::Relaxed), lanes.open.lock().len()),
            (3, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_a_watch_is_not_accepted_in_time_gets_no_further_one() {
        let (lanes, connections) = lanes(false);
        let opened = async |limit| timeout(limit, watch(&lanes)).await.is_ok();
        assert!(
            !opened(Duration::from_secs(1)).await,
            "it was not waited for long"
        );
        let later = async {
            sleep(Duration::from_secs(1)).await;
            assert!(!opened(Duration::from_secs(1)).await);
            assert_eq!(connections.load(Ordering::Relaxed), 1);
            // The first is waited for still.
            sleep(STUCK).await;
            assert!(!opened(Duration::from_secs(1)).await);
            assert_eq!(connections.load(Ordering::Relaxed), 2);
        };
        let (first, ()) = tokio::join!(opened(3 * STUCK), later);
        assert!(!first);
        assert!(!opened(Duration::from_secs(1)).await);
        assert_eq!(
            (connections.load(Ordering::Relaxed), lanes.open.lock().len()),
            (2, 1),
            "it is closed when nothing is on it"
        );
    }
}
