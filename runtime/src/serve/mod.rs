//! The server: live streams over WebSocket, the Open Inference Protocol over HTTP and gRPC, metrics. What goes over the network is
//! described in docs/server.md.
//!
//! # Who does what
//! * **Network tasks** (on tokio) read and write, check what they read, and turn poses into messages. They never wait for the engine.
//! * **The engine's thread** alone runs the model. Each round it takes what is due in all streams as one batch, then a slice of one
//!   infer request. A stream gives one window to a round, however many frames it has sent.
//! * **Between them** stand, for each stream, a queue of frames and a queue of poses, both of fixed length. What goes over it drops the
//!   oldest of that stream, which is counted and said to its client. So a client that sends too much or reads too slowly harms itself.
//!
//! # When the engine fails
//! A failed or panicked run drops the frames in it, and their streams are told. If it then cannot lift a person who stands, it is
//! broken: readiness ends, every stream is told, frames wait in their queues, and the model is opened again with growing pauses.
//! Otherwise one of the streams may be at fault: those of the failed run go alone until a run succeeds, so that they harm only themselves.
//! A crash in native code ends the process: have it started again by whatever keeps it running.

#[doc(hidden)]
pub mod fuzz;
mod grpc;
mod http;
mod inference;
mod limits;
mod listen;
mod metrics;
mod model;
mod protocol;
mod slot;
mod socket;
mod token;
mod ui;
mod worker;

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};

use axum::http::{HeaderMap, HeaderValue};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use self::{
    inference::Problem,
    limits::{Gate, Permit},
    listen::Speaks,
    metrics::{Metrics, Refused},
    ui::Watchers,
    worker::Engine,
};
pub use self::{
    limits::Limits,
    model::{Give, Model, ModelCard},
    protocol::{JOINT_BYTES, POSE_BYTES, RECORD_HEAD},
    token::{SHORTEST_TOKEN, Token},
    worker::Opener,
};
use crate::Error;

/// Threads for the network.
const NETWORK_THREADS: usize = 2;

/// What a server serves, where, and to whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name or address to listen on.
    pub host: String,
    /// Port of HTTP and WebSocket; 0 = any that is free.
    pub port: u16,
    /// Port of gRPC, where there is to be one; 0 = any that is free.
    pub grpc_port: Option<u16>,
    /// What a request must carry; `None` = nothing.
    pub token: Option<Token>,
    /// Whether other machines may be let in without a token.
    pub allow_no_token: bool,
    /// Web pages of these origins (`https://example.org`) may use the server, besides those of its own address.
    pub allow_origins: Vec<String>,
    /// Whether there is a page at `/`, which can watch all streams.
    pub ui: bool,
    /// How much of everything.
    pub limits: Limits,
}

impl Default for Settings {
    /// On 127.0.0.1:8000, without gRPC, without a token.
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8000,
            grpc_port: None,
            token: None,
            allow_no_token: false,
            allow_origins: Vec::new(),
            ui: false,
            limits: Limits::default(),
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An address that is none.
    #[error("cannot listen on \"{host}\": {reason}; expected a name or address of this machine, such as 127.0.0.1")]
    Address {
        /// What was given.
        host: String,
        /// What the system says.
        reason: String,
    },
    /// An address that is taken, or not ours.
    #[error("cannot listen on {address}: {source}{}", advice(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Other machines could come in, and there is no token.
    #[error(
        "{address} can be reached from other machines, so a token is needed: give --token-file FILE or set POSELIFT_TOKEN, listen on \
         127.0.0.1, or let everybody in with --no-token"
    )]
    TokenMissing {
        /// The address.
        address: SocketAddr,
    },
    /// A limit that would let nothing through.
    #[error("{0}")]
    Limit(String),
    /// The model cannot be opened or run.
    #[error(transparent)]
    Model(#[from] Error),
    /// No threads.
    #[error("cannot start the server's threads: {0}")]
    Threads(io::Error),
    /// The engine's thread is gone: a bug.
    #[error("the engine's thread has ended by itself: {0}")]
    Worker(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the other program or choose another port (--port, --grpc-port; 0 = any that is free)",
        io::ErrorKind::PermissionDenied => "; choose a port from 1024 on",
        _ => "",
    }
}

/// What network tasks share.
struct App {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    limits: Limits,
    token: Option<Token>,
    allow_origins: Vec<String>,
    ui: bool,
    streams: Gate,
    infers: Gate,
    next_key: AtomicU64,
    /// True when the server stops; closed when it is gone.
    stopping: watch::Receiver<bool>,
}

impl App {
    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        self.token.as_ref().is_none_or(|token| token.is_in(headers) || (self.ui && token.is_in_protocols(headers)))
    }

    /// Browsers name the page that a request comes from: one of ours, one that was allowed, or a stranger's.
    fn allows_origin(&self, origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if self.allow_origins.iter().any(|allowed| allowed == origin) {
            return true;
        }
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        // a stranger can give their own name our address: only names that cannot be taken count as ours
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let is_ours = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok();
        is_ours && origin.strip_prefix("http://") == Some(host)
    }

    /// A place for an infer request.
    fn infer_place(&self) -> Result<Permit, Problem> {
        self.infers.enter().ok_or_else(|| {
            self.metrics.refused(Refused::Infer);
            Problem::Full(format!(
                "there are {} infer requests already (--max-infer-requests): try again later",
                self.limits.max_infer_requests
            ))
        })
    }
}

/// A server that runs, until it is stopped or dropped.
///
/// ```no_run
/// use runtime::{EngineOptions, Lifter, serve::{Server, Settings}};
///
/// let open = || Ok(Box::new(Lifter::open("clip-xs.onnx", &EngineOptions::default())?) as Box<_>);
/// let server = Server::start(Settings::default(), Box::new(open))?;
/// println!("ws://{}/v1/stream", server.http_address());
/// server.run_until_signal()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    network: Option<tokio::runtime::Runtime>,
    engine: Arc<Engine>,
    worker: Option<JoinHandle<()>>,
    /// Why the engine's thread has ended by itself.
    failed: watch::Receiver<Option<String>>,
    stop: watch::Sender<bool>,
    /// Closed when the last connection is.
    alive: mpsc::Receiver<()>,
    http: SocketAddr,
    grpc: Option<SocketAddr>,
    stop_timeout: Duration,
}

impl Server {
    /// Listens, opens the model, and serves. `opener` is kept: a model that fails is opened again.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn start(settings: Settings, opener: Opener) -> Result<Self, ServeError> {
        let Settings { host, port, grpc_port, token, allow_no_token, allow_origins, ui, limits } = settings;
        limits.validate().map_err(ServeError::Limit)?;
        let resolve = |port: u16| {
            let unknown = |reason: String| ServeError::Address { host: host.clone(), reason };
            let mut addresses = (host.as_str(), port).to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
            addresses.next().ok_or_else(|| unknown("it has no address".to_owned()))
        };
        let address = resolve(port)?;
        if !address.ip().is_loopback() && token.is_none() && !allow_no_token {
            return Err(ServeError::TokenMissing { address });
        }
        let network = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(ServeError::Threads)?;
        let bind = |address: SocketAddr| {
            let listener = network.block_on(TcpListener::bind(address));
            let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
            bound.map_err(|source| ServeError::Listen { address, source })
        };
        // before the model, which may take long: an address that is taken is said at once
        let (http, http_listener) = bind(address)?;
        let grpc = grpc_port.map(|port| bind(SocketAddr::new(address.ip(), port))).transpose()?;

        let metrics = Arc::new(Metrics::new());
        let engine = Arc::new(Engine::open(&opener, metrics.clone(), limits.max_infer_requests, ui.then(Watchers::new))?);
        let (say_failed, failed) = watch::channel(None);
        let worker = std::thread::Builder::new().name("engine".into()).spawn({
            let engine = engine.clone();
            move || {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker::work(&engine, &opener))) {
                    engine.refuse_more();
                    say_failed.send(Some(worker::panic_text(&*panic))).ok(); // nobody waits any more
                }
            }
        });
        let (stop, stopping) = watch::channel(false);
        let (alive, all_gone) = mpsc::channel(1);
        let stop_timeout = limits.stop_timeout;
        let app = Arc::new(App {
            engine: engine.clone(),
            metrics,
            streams: Gate::new(limits.max_streams),
            infers: Gate::new(limits.max_infer_requests),
            limits,
            token,
            allow_origins,
            ui,
            next_key: AtomicU64::new(0),
            stopping,
        });
        network.spawn(listen::listen(http_listener, Speaks::Http1, http::router(app.clone()), app.clone(), alive.clone()));
        let grpc = grpc.map(|(address, listener)| {
            network.spawn(listen::listen(listener, Speaks::Http2, grpc::router(app.clone()), app, alive));
            address
        });
        let worker = Some(worker.map_err(ServeError::Threads)?);
        Ok(Self { network: Some(network), engine, worker, failed, stop, alive: all_gone, http, grpc, stop_timeout })
    }

    /// Where HTTP and WebSocket are.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where gRPC is.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// What is served.
    pub fn model(&self) -> &ModelCard {
        self.engine.card()
    }

    /// Serves until the process is told to stop (SIGINT, SIGTERM), then [stops](Self::stop).
    ///
    /// # Errors
    /// The engine's thread has ended by itself, or signals cannot be waited for.
    pub fn run_until_signal(mut self) -> Result<(), ServeError> {
        let Some(network) = &self.network else { return Ok(()) };
        let failed = &mut self.failed;
        let reason = network.block_on(async {
            tokio::select! {
                signal = signal() => signal.map(|()| None).map_err(ServeError::Threads),
                // an error is the thread's end, which only `stop` brings about
                failed = failed.wait_for(Option::is_some) => Ok(failed.ok().and_then(|reason| reason.clone())),
            }
        })?;
        // a second signal is for those who cannot wait
        network.spawn(async {
            if signal().await.is_ok() {
                std::process::exit(130);
            }
        });
        self.stop();
        match reason {
            None => Ok(()),
            Some(reason) => Err(ServeError::Worker(reason)),
        }
    }

    /// Takes no more connections and streams, lifts what is due, says goodbye to everybody, and ends, all within
    /// [`Limits::stop_timeout`] and a little.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        let Some(network) = self.network.take() else { return };
        self.engine.refuse_more();
        self.stop.send_replace(true);
        let alive = &mut self.alive;
        let patience = self.stop_timeout + Duration::from_secs(1);
        network.block_on(async { tokio::time::timeout(patience, alive.recv()).await.ok() }); // those who are left are cut off
        self.engine.stop();
        network.shutdown_timeout(Duration::from_millis(200));
        if self.engine.hangs() {
            return; // it cannot be ended, only left
        }
        if let Some(worker) = self.worker.take() {
            worker.join().ok(); // a panic was told before
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_now();
    }
}

async fn signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
