//! The page, for finished results and for a camera: a small web server on this machine. docs/page.md is for users.
//!
//! It only gives, and only what it was started with: no address that comes in names a file. Pages of other sites cannot read it: requests
//! must name an address of ours (a name that was turned to our address, "DNS rebinding", is refused), and answers carry no permission
//! for other origins.

mod clip;
mod download;
mod live;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use runtime::page;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

pub use self::clip::{CHUNK_S, Clip, Error as ClipError, Video, videos};
pub use self::live::{Feed, FeedSink, Picture};

/// Where the page is when nothing else is said.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8080";
/// Threads for the network.
const NETWORK_THREADS: usize = 2;
/// Requests that are answered at a time; more wait.
const MOST_REQUESTS: usize = 64;
/// Files that are made at a time; each may take as much memory as the results.
const MOST_FILES: usize = 2;
/// Browsers that watch a camera at a time.
const MOST_WATCHERS: usize = 16;
/// How long anything but a video may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the page cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`ClipError`].
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The address is taken, or not ours.
    #[error("cannot show the page on {address}: {source}; choose another address, such as --serve 127.0.0.1:0 for any free port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// No threads, or a broken network.
    #[error("the page's server failed: {0}")]
    Network(std::io::Error),
}

/// What is shown.
pub enum Show {
    /// Results, and videos of the same clip.
    Clip {
        /// Results.
        clip: Clip,
        /// The first one that the browser can play is shown.
        videos: Vec<Video>,
    },
    /// A camera.
    Live(Feed),
}

impl Show {
    /// Opens results, with the clip's `video` or what is found beside them.
    ///
    /// # Errors
    /// See [`ClipError`].
    pub fn results(files: &[PathBuf], video: Option<&Path>) -> Result<Self, ClipError> {
        let clip = Clip::open(files)?;
        let videos = videos(&clip, video);
        Ok(Self::Clip { clip, videos })
    }
}

struct App {
    show: Show,
    requests: Semaphore,
    files: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
}

/// The page's server, on threads of its own, until it is dropped.
pub struct Server {
    network: Option<tokio::runtime::Runtime>,
    address: SocketAddr,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Starts to serve.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(show: Show, address: SocketAddr) -> Result<Self, Error> {
        let network = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("page")
            .enable_all()
            .build()
            .map_err(Error::Network)?;
        let listener = network.block_on(TcpListener::bind(address)).map_err(|source| Error::Listen { address, source })?;
        let address = listener.local_addr().map_err(Error::Network)?;
        let serving = network.spawn(async move { axum::serve(listener, router(show)).await });
        Ok(Self { network: Some(network), address, serving })
    }

    /// Where the page is.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Whether other machines can see it.
    pub fn is_public(&self) -> bool {
        !self.address.ip().is_loopback()
    }

    /// Waits until the program is ended from outside.
    ///
    /// # Errors
    /// The network failed.
    pub fn wait(mut self) -> Result<(), Error> {
        let Some(network) = &self.network else { return Ok(()) };
        let ended = network.block_on(&mut self.serving);
        ended.map_err(std::io::Error::other).and_then(|served| served).map_err(Error::Network)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(network) = self.network.take() {
            network.shutdown_background();
        }
    }
}

/// All that there is, with its guards.
pub fn router(show: Show) -> Router {
    let app = Arc::new(App {
        show,
        requests: Semaphore::new(MOST_REQUESTS),
        files: Arc::new(Semaphore::new(MOST_FILES)),
        watchers: Arc::new(Semaphore::new(MOST_WATCHERS)),
    });
    Router::new()
        .route("/", get(the_page))
        .route("/api/session", get(session))
        .route("/api/chunks/{index}", get(chunk))
        .route("/api/people/{id}/overview", get(overview))
        .route("/api/people/{id}/files/{format}", get(file))
        .route("/video/{index}", get(video))
        .route("/api/live", get(watch))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

fn refuse(status: StatusCode, sentence: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], sentence.into()).into_response()
}

/// Only reading, only by an address that cannot be somebody else's, only a bounded number at a time.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "this server only answers GET");
    }
    let headers = request.headers();
    if !headers.get(header::HOST).is_some_and(is_ours) {
        return refuse(StatusCode::FORBIDDEN, "this server is asked for by its address or as localhost, not by another name");
    }
    if !comes_from_us(headers) {
        return refuse(StatusCode::FORBIDDEN, "pages of other sites may not read this server");
    }
    let Ok(_place) = app.requests.acquire().await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server stops");
    };
    let mut response = match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
    };
    let headers = response.headers_mut();
    for (name, value) in page::HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Names can be turned to our address by anybody; addresses and `localhost` cannot.
fn is_ours(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    // "[::1]:8080", "127.0.0.1:8080", "localhost"
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Browsers name the page that asks for a WebSocket, or for anything across sites.
fn comes_from_us(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://")).is_some_and(|origin| Some(origin) == host)
}

async fn the_page() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY)];
    (headers, page::html()).into_response()
}

async fn session(State(app): State<Arc<App>>) -> Response {
    let text = match &app.show {
        Show::Clip { clip, videos } => serde_json::to_string(&clip.session(videos)),
        Show::Live(feed) => serde_json::to_string(&feed.session()),
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn numbers(bytes: Option<Vec<u8>>) -> Response {
    match bytes {
        Some(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

async fn chunk(State(app): State<Arc<App>>, UrlPath(index): UrlPath<usize>) -> Response {
    match &app.show {
        Show::Clip { clip, .. } => numbers(clip.chunk(index)),
        Show::Live(_) => numbers(None),
    }
}

async fn overview(State(app): State<Arc<App>>, UrlPath(id): UrlPath<u64>) -> Response {
    match &app.show {
        Show::Clip { clip, .. } => numbers(clip.overview(id)),
        Show::Live(_) => numbers(None),
    }
}

async fn file(State(app): State<Arc<App>>, UrlPath((id, format)): UrlPath<(u64, String)>) -> Response {
    let Ok(place) = app.files.clone().acquire_owned().await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server stops");
    };
    let for_task = app.clone();
    let made = tokio::task::spawn_blocking(move || {
        let _place = place; // held as long as the work goes on, even if nobody waits for it any more
        match &for_task.show {
            Show::Clip { clip, .. } => clip.person(id).map(|person| download::make(person, &format)),
            Show::Live(_) => None,
        }
    });
    match made.await {
        Ok(Some(Ok((name, bytes)))) => {
            // what a header cannot carry of a name is replaced
            let safe: String =
                name.chars().map(|c| if c.is_ascii_graphic() && !"\"\\".contains(c) || c == ' ' { c } else { '_' }).collect();
            let disposition = format!("attachment; filename=\"{safe}\"");
            ([(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_DISPOSITION, disposition)], bytes)
                .into_response()
        }
        Ok(Some(Err(error @ download::Error::Unknown(_)))) => refuse(StatusCode::NOT_FOUND, error.to_string()),
        Ok(Some(Err(error))) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "there is no such person"),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A video that was given, whole or the range that is asked for.
async fn video(State(app): State<Arc<App>>, UrlPath(index): UrlPath<usize>, request: Request) -> Response {
    let Show::Clip { videos, .. } = &app.show else { return refuse(StatusCode::NOT_FOUND, "there is nothing here") };
    let Some(video) = videos.get(index) else { return refuse(StatusCode::NOT_FOUND, "there is nothing here") };
    // it cannot fail: what it meets becomes an answer
    match ServeFile::new(&video.path).oneshot(request).await {
        Ok(response) => response.map(Body::new).into_response(),
        Err(never) => match never {},
    }
}

async fn watch(State(app): State<Arc<App>>, upgrade: WebSocketUpgrade) -> Response {
    let Show::Live(feed) = &app.show else { return refuse(StatusCode::NOT_FOUND, "there is nothing live here") };
    let Ok(place) = app.watchers.clone().try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{MOST_WATCHERS} browsers are watching already: close one"));
    };
    let feed = feed.clone();
    upgrade.max_message_size(1 << 10).on_upgrade(|socket| async move {
        feed.send_to(socket).await;
        drop(place);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_ours() {
        for ours in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "192.168.1.7:8080", "[::1]:8080", "[::1]", "127.0.0.1"] {
            assert!(is_ours(&HeaderValue::from_static(ours)), "{ours}");
        }
        for other in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "",
            ":80",
            "localhost:80:80",
            "127.0.0.1:x",
        ] {
            assert!(!is_ours(&HeaderValue::from_static(other)), "{other}");
        }
    }
}
