//! `--ui`: the page, and what it needs beside `/v1/stream`: `/v1/watch`, every pose of every stream for those who look on.
//!
//! Poses are told to watchers as they are made. A watcher who is slow misses some; nobody waits for one, and without any nothing is done.

use std::sync::Arc;
use std::time::Instant;

use axum::{
    extract::{
        FromRequestParts as _, Request, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use formats::keypoints::StreamId;
use pose::{ImageSize, JOINTS, Pose3, camera::Extrinsics, world::ScaleSource};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{interval, timeout},
};

use super::{App, http, listen::Connection};
use crate::{StreamPose, page};

/// Poses that wait for a watcher; more drop the oldest.
const WAITING: usize = 256;
/// A watcher says nothing but pongs.
const MAX_MESSAGE_BYTES: usize = 1 << 10;
/// The subprotocol that is answered to a page that sends its token in another one.
pub(super) const PROTOCOL: &str = "poselift";
const GOING_AWAY: u16 = 1001;

/// Where poses are told.
#[derive(Debug)]
pub(super) struct Watchers {
    told: broadcast::Sender<Arc<Told>>,
    started: Instant,
}

/// Whose poses they are.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// As the client named the stream.
    pub name: Option<StreamId>,
    /// Size of the picture.
    pub image: ImageSize,
}

/// A pose, for the page: docs/server.md.
#[derive(Debug, Serialize)]
struct Told {
    /// Seconds since the server began, for all streams alike.
    time_s: f64,
    delay_ms: Delay,
    image: Image,
    people: [Person; 1],
    world_from_camera: Extrinsics,
}

#[derive(Debug, Serialize)]
struct Delay {
    look_ahead: f64,
}

#[derive(Debug, Serialize)]
struct Image {
    width: u32,
    height: u32,
}

#[derive(Debug, Serialize)]
struct Person {
    /// The stream's number, of all that there were.
    id: u64,
    label: String,
    keypoints_px: [[f32; 2]; JOINTS],
    confidence: [f32; JOINTS],
    world_mm: Pose3,
    held: bool,
    height_m: f32,
    scale_source: ScaleSource,
}

impl Watchers {
    pub fn new() -> Self {
        Self { told: broadcast::Sender::new(WAITING), started: Instant::now() }
    }

    /// Tells of a stream's poses. Never waits.
    pub fn tell(&self, key: u64, about: &About, poses: &[StreamPose]) {
        // several of a batch would be told at one time, and the page shows one anyway
        let (Some(pose), true) = (poses.last(), self.told.receiver_count() > 0) else { return };
        let id = key + 1; // people are counted from 1
        let label = match &about.name {
            Some(StreamId::Text(name)) => name.clone(),
            Some(StreamId::Number(name)) => name.to_string(),
            None => format!("Stream {id}"),
        };
        let half = pose.transform.half_size_px;
        let told = Told {
            time_s: self.started.elapsed().as_secs_f64(),
            delay_ms: Delay { look_ahead: 1000.0 * pose.delay_s },
            image: Image { width: about.image.width_px, height: about.image.height_px },
            people: [Person {
                id,
                label,
                keypoints_px: pose.pose25.map(|[x, y, _]| [pose.root_px[0] + half * x, pose.root_px[1] + half * y]),
                confidence: pose.confidence,
                world_mm: pose.world_mm,
                held: pose.held,
                height_m: pose.height_m,
                scale_source: pose.scale_source,
            }],
            world_from_camera: pose.world_from_camera,
        };
        self.told.send(Arc::new(told)).ok(); // the last one may have gone meanwhile
    }
}

fn with_headers(mut response: Response) -> Response {
    for (name, value) in page::HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// The page itself is no secret: what it shows asks for the token.
pub(super) async fn the_page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    with_headers((headers, page::html()).into_response())
}

/// What the page is told first.
pub(super) async fn session(State(app): State<Arc<App>>) -> Response {
    let session = json!({ "kind": "server", "model": app.engine.card().name, "token": app.token.is_some() });
    with_headers(http::json_response(StatusCode::OK, &session))
}

/// A WebSocket that tells of every pose.
pub(super) async fn watch(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    // kept until the last message, so that the connection counts
    let connection = parts.extensions.get::<Connection>().cloned();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &app).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return http::answer(rejection.into_response().status(), "expected a WebSocket: see docs/server.md"),
    };
    upgrade.protocols([PROTOCOL]).max_message_size(MAX_MESSAGE_BYTES).on_upgrade(|socket| async move {
        tell(app, socket).await;
        drop(connection);
    })
}

async fn tell(app: Arc<App>, mut socket: WebSocket) {
    let Some(watchers) = app.engine.watchers() else { return };
    let mut told = watchers.told.subscribe();
    let mut stopping = app.stopping.clone();
    let mut ping = interval((app.limits.idle / 3).max(std::time::Duration::from_millis(10)));
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                Message::Close(Some(CloseFrame { code: GOING_AWAY, reason: "the server stops".into() }))
            }
            said = socket.recv() => match said {
                Some(Ok(Message::Pong(_) | Message::Ping(_))) => {
                    heard = Instant::now();
                    continue;
                }
                // it goes, or says what nobody asked for
                _ => return,
            },
            _ = ping.tick() => Message::Ping(Default::default()),
            told = told.recv() => match told {
                // only maps with keys that are no texts fail, and there are none
                Ok(told) => Message::Text(serde_json::to_string(&*told).unwrap_or_default().into()),
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        let is_last = matches!(message, Message::Close(_)) || heard.elapsed() > app.limits.idle;
        if !matches!(timeout(app.limits.write_timeout, socket.send(message)).await, Ok(Ok(()))) || is_last {
            return;
        }
    }
}
