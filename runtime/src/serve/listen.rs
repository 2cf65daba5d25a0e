//! Connections: how many there are, and how long one may do nothing.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tower::ServiceExt as _;

use super::{
    App,
    limits::{Gate, Permit},
    metrics::Refused,
    slot::lock,
};

/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Requests of one HTTP/2 connection at a time.
const MAX_CONCURRENT_REQUESTS: u32 = 32;
/// Refused connections that are being told why; more are only closed.
const MAX_REFUSALS: usize = 32;
/// How long that may take.
const REFUSAL: Duration = Duration::from_secs(1);

/// Which protocol a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1.1 and WebSocket.
    Http1,
    /// HTTP/2 without TLS: gRPC.
    Http2,
}

/// An open connection; it counts until the last copy is dropped.
#[derive(Clone)]
pub(super) struct Connection(Arc<Place>);

struct Place {
    _permit: Permit,
    /// The server waits until all of these are gone.
    _alive: mpsc::Sender<()>,
    open: Gauge,
    requests: AtomicUsize,
    last: Mutex<Instant>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Connection {
    fn is_idle(&self, since: Duration) -> bool {
        self.0.requests.load(Ordering::Relaxed) == 0 && lock(&self.0.last).elapsed() > since
    }
}

/// A request that is being answered.
struct InFlight(Connection);

impl InFlight {
    fn new(connection: &Connection) -> Self {
        connection.0.requests.fetch_add(1, Ordering::Relaxed);
        Self(connection.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *lock(&self.0.0.last) = Instant::now();
        self.0.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes connections until the server stops.
pub(super) async fn listen(listener: TcpListener, speaks: Speaks, router: Router, app: Arc<App>, alive: mpsc::Sender<()>) {
    let gate = Gate::new(app.limits.max_connections);
    let refusals = Gate::new(MAX_REFUSALS);
    let mut stopping = app.stopping.clone();
    loop {
        let accepted = tokio::select! {
            // an error is the server's end
            _ = stopping.wait_for(|stopping| *stopping) => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // of one connection, or of the system: it may have no more files
                tracing::warn!("a connection cannot be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(permit) = gate.enter() else {
            app.metrics.refused(Refused::Connection);
            if let (Speaks::Http1, Some(place)) = (speaks, refusals.enter()) {
                let most = app.limits.max_connections;
                tokio::spawn(async move {
                    timeout(REFUSAL, refuse(stream, most)).await.ok(); // it was refused either way
                    drop(place);
                });
            }
            continue;
        };
        stream.set_nodelay(true).ok(); // slower without, and no worse
        app.metrics.connections.inc();
        let connection = Connection(Arc::new(Place {
            _permit: permit,
            _alive: alive.clone(),
            open: app.metrics.connections.clone(),
            requests: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
        }));
        tokio::spawn(serve(stream, speaks, connection, router.clone(), app.clone(), stopping.clone()));
    }
}

/// Says no, and reads a little of what was sent, so that the answer is not lost with the connection.
async fn refuse(mut stream: TcpStream, most: usize) -> std::io::Result<()> {
    let body = format!("{{\"error\":\"the server has at most {most} connections (--max-connections): try again later\"}}");
    let head =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    for _ in 0..16 {
        if stream.read(&mut sink).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Serves a connection until it ends, does nothing for too long, or the server stops.
async fn serve(
    stream: TcpStream,
    speaks: Speaks,
    connection: Connection,
    router: Router,
    app: Arc<App>,
    mut stopping: watch::Receiver<bool>,
) {
    let with_connection = connection.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(with_connection.clone());
        let (router, in_flight) = (router.clone(), InFlight::new(&with_connection));
        async move {
            let response = router.oneshot(request).await;
            drop(in_flight);
            response.map_err(|never: Infallible| never)
        }
    });
    let io = TokioIo::new(stream);
    // HTTP/2 pings find out who has vanished; HTTP/1 has its times for a request's head, and WebSocket its own
    macro_rules! drive {
        ($connection:expr) => {{
            let mut http = std::pin::pin!($connection);
            let mut tick = tokio::time::interval((app.limits.idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(5)));
            loop {
                tokio::select! {
                    _ = &mut http => return,
                    _ = stopping.wait_for(|stopping| *stopping) => break,
                    _ = tick.tick() => if connection.is_idle(app.limits.idle) { break },
                }
            }
            http.as_mut().graceful_shutdown();
            timeout(app.limits.stop_timeout, http).await.ok(); // it is dropped either way
        }};
    }
    match speaks {
        Speaks::Http1 => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(app.limits.request_timeout).max_buf_size(MAX_HEAD_BYTES);
            drive!(builder.serve_connection(io, service).with_upgrades());
        }
        Speaks::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_CONCURRENT_REQUESTS)
                .max_header_list_size(MAX_HEAD_BYTES as u32)
                .keep_alive_interval(app.limits.idle / 3)
                .keep_alive_timeout(app.limits.write_timeout);
            drive!(builder.serve_connection(io, service));
        }
    }
}
