//! Listening: connections, their limits, and a clean end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::error;
use super::guard::Guard;
use super::pool::{Busy, Place, SeesAll};
use super::sendfile::{Connection, FileQueue};
use super::{App, AppState, router};
use crate::config::Config;
use crate::delivery::Handle;
use crate::health::Health;
use crate::identity::{self, IdentityError};
use crate::live::Studio;
use crate::store::AsyncStore;

/// How long open requests may take to end after the node was told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// How long a caller may stay silent between requests. Players ask every few seconds.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Pause after a failed `accept`, which happens when no file can be opened any more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Shortest time between two lines of the log about that.
const ACCEPT_LOG: Duration = Duration::from_secs(10);

/// Why the API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is taken.
    #[error(
        "{0} is in use: another node or program listens there; stop it, or choose another with \
         --port"
    )]
    InUse(SocketAddr),
    /// The address cannot be used.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] IdentityError),
}

/// The API, listening.
pub struct Server {
    listener: TcpListener,
    app: App,
    guard: Arc<Guard>,
    router: Router,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Binds the address. Beyond loopback a token is asked for; one is made when none is set.
    pub async fn bind(
        config: Config,
        store: AsyncStore,
        studio: Studio,
        relay: Option<Handle>,
        health: Health,
    ) -> Result<Self, ServeError> {
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::AddrInUse => ServeError::InUse(address),
                _ => ServeError::Listen(address, error),
            })?;
        let token = match &config.api_token {
            Some(token) => Some(token.clone()),
            // Only this machine can ask, and pages of others are kept off by the origin.
            None if address.ip().is_loopback() => None,
            None => Some(identity::token_at(&store.settings().layout.api_token())?),
        };
        let guard = Arc::new(Guard::new(&config, token.as_deref()));
        let (stop, stopping) = watch::channel(false);
        let app = Arc::new(AppState::new(
            store,
            studio,
            config,
            relay,
            health,
            token.is_some(),
            stopping,
        ));
        Ok(Self {
            listener,
            router: router(app.clone()),
            app,
            guard,
            stop,
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Whether changing anything needs a token.
    #[must_use]
    pub fn auth_required(&self) -> bool {
        self.app.auth_required
    }

    /// Serves until `stop` is done, then lets open requests end for a few seconds.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let pool = self.app.pool.clone();
        let mut connections = JoinSet::new();
        let mut logged: Option<Instant> = None;
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
                // A task that has ended is taken out, or the set would grow with each connection.
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, from)) => match pool.admit(from.ip()) {
                    Some(place) => drop(connections.spawn(self.serve(stream, place))),
                    // Whoever does not take it at once does without.
                    None => drop(stream.try_write(crowded().as_bytes())),
                },
                Err(error) => {
                    if logged.is_none_or(|at| at.elapsed() > ACCEPT_LOG) {
                        tracing::warn!(%error, "connections cannot be accepted");
                        logged = Some(Instant::now());
                    }
                    // The system has no file left, so a quiet connection gives its own to the
                    // newcomer.
                    pool.shed();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // In this order: no newcomers, then the word to those that are here, then the time to end.
        drop(self.listener);
        // Event streams would go on for an hour.
        let _ = self.stop.send(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("open requests were cut off");
        }
        connections.shutdown().await;
    }

    /// Serves one connection until it ends or has to give way.
    fn serve(&self, stream: TcpStream, place: Place) -> impl Future<Output = ()> + Send + 'static {
        let (router, guard) = (self.router.clone(), self.guard.clone());
        let app = self.app.clone();
        let mut stopping = app.stopping.clone();
        async move {
            let _ = stream.set_nodelay(true);
            let queue = Arc::new(FileQueue::default());
            let caller = place.caller.clone();
            let activity = caller.activity.clone();
            let io = TokioIo::new(Connection::new(stream, queue.clone(), activity));
            let service = service_fn(move |mut request: Request<Incoming>| {
                // Before anything is awaited: from here on the connection is not cut to make room.
                let busy = caller.activity.begin();
                let sees_all = SeesAll(guard.trusts(&caller, request.headers()));
                request.extensions_mut().insert(sees_all);
                request.extensions_mut().insert(caller.clone());
                request.extensions_mut().insert(queue.clone());
                let answer = answer(router.clone(), guard.clone(), app.clone(), request);
                async move {
                    // Busy until the body is sent, and not only until it is made.
                    let answer = answer.await.map(|body| InWork::body(body, busy));
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                // hyper counts it from the end of the last answer: it bounds the silence. The head
                // itself has less time, which the connection watches.
                .header_read_timeout(IDLE_MAX)
                // Of each connection: 4,096 of them have 256 MB at most.
                .max_buf_size(64 * 1024);
            let connection = builder.serve_connection(io, service);
            tokio::pin!(connection);
            // Dropping the connection closes it at once, which costs a quiet one nothing.
            let told = tokio::select! {
                _ = connection.as_mut() => return,
                () = place.ended() => return,
                // A sender that is gone means that the server ended: nobody is left to wait for.
                told = stopping.wait_for(|stop| *stop) => told.is_ok(),
            };
            if told {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

/// Checks a request, passes it to its handler, and completes the answer's headers.
async fn answer(
    router: Router,
    guard: Arc<Guard>,
    app: App,
    request: Request<Incoming>,
) -> Response<Body> {
    // First, as a refusal has to be readable by the page that gets it, too.
    let cors = guard.cors(request.headers());
    let checked = guard.check(request.method(), request.uri(), request.headers());
    let mut response = match checked {
        Err(refused) => refused.into_response(),
        // A question of a browser before the real request: the CORS headers are the answer.
        Ok(()) if *request.method() == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            error::in_json(response).await
        }
    };
    // Refusals by the guard are counted, too.
    app.counters.responses(response.status());
    let headers = response.headers_mut();
    for (name, value) in cors {
        headers.insert(name, value);
    }
    headers
        .entry(header::X_CONTENT_TYPE_OPTIONS)
        // What an ingest sent may look like a page; a browser must not run it as one.
        .or_insert_with(|| HeaderValue::from_static("nosniff"));
    response
}

/// What a newcomer is told when no connection can give way.
fn crowded() -> String {
    let body = "{\"error\":\"too many connections are open; close some, or try again later\"}";
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A body whose connection is at work as long as it is sent.
struct InWork {
    body: Body,
    _busy: Busy,
}

impl InWork {
    fn body(body: Body, busy: Busy) -> Body {
        Body::new(Self { body, _busy: busy })
    }
}

impl hyper::body::Body for InWork {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
