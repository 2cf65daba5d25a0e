//! Clients of a server, and servers for them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use pose::{ImageSize, Keypoints17, joint_map::Source, normalise::Normalisation};
use runtime::{
    EngineOptions, Error, LiftStream, Lifter, StreamCore, StreamOptions, StreamPose, StreamSettings,
    serve::{Give, JOINT_BYTES, Limits, Model, ModelCard, POSE_BYTES, RECORD_HEAD, Server, Settings},
};
use serde_json::{Value, json};
use tungstenite::{Error as WsError, Message, WebSocket, client::IntoClientRequest as _};

use super::common::{metadata, rooted};

pub const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx");
/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Frames in a window of [`lifter`].
pub const FRAMES: usize = 9;

/// A model that costs nothing, and gives the same in a batch of any size.
pub fn lifter() -> Arc<Lifter> {
    static LIFTER: OnceLock<Arc<Lifter>> = OnceLock::new();
    LIFTER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            Arc::new(Lifter::open(small_model(folder.path()), &EngineOptions { threads: 1, ..Default::default() }).unwrap())
        })
        .clone()
}

/// The file of [`lifter`].
pub fn small_model(folder: &Path) -> PathBuf {
    let metadata = metadata(FRAMES, Normalisation::PersonBox, 30.0);
    rooted(-1, FRAMES as i64, 3).metadata(&metadata).write(folder, "small.onnx")
}

/// The shipped model.
pub fn shipped() -> Arc<Lifter> {
    Arc::new(Lifter::open(SHIPPED, &EngineOptions { threads: 1, ..Default::default() }).unwrap())
}

/// On any free port of this machine.
pub fn settings(limits: Limits) -> Settings {
    Settings { port: 0, limits, ..Default::default() }
}

/// A server of [`lifter`].
pub fn serve(settings: Settings) -> Server {
    serve_model(settings, lifter())
}

pub fn serve_model(settings: Settings, lifter: Arc<Lifter>) -> Server {
    Server::start(settings, Box::new(move || Ok(Box::new(Shared(lifter.clone())) as Box<dyn Model>))).unwrap()
}

/// One lifter for many servers.
struct Shared(Arc<Lifter>);

impl Model for Shared {
    fn card(&self) -> ModelCard {
        self.0.card()
    }

    fn stream_core(&self, image: ImageSize, options: StreamOptions) -> Result<StreamCore, Error> {
        self.0.stream_core(image, options)
    }

    fn run_due(&self, streams: &mut [&mut StreamCore], give: Give<'_>) -> usize {
        runtime::run_due(&self.0, streams, give)
    }

    fn infer(&self, input: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, Error> {
        self.0.infer(input, shape)
    }
}

/// What comes from a server.
#[derive(Debug)]
pub enum Reply {
    Json(Value),
    Binary(Vec<u8>),
    /// Code and reason of the close frame, where there was one.
    Closed(Option<(u16, String)>),
}

pub struct Client {
    pub socket: WebSocket<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address, &[]).unwrap()
    }

    /// The status that the server answers with instead of a WebSocket.
    pub fn try_connect(address: SocketAddr, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = format!("ws://{address}/v1/stream").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(tungstenite::HandshakeError::Failure(WsError::Http(response))) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub fn send(&mut self, value: &Value) {
        self.socket.send(Message::text(value.to_string())).unwrap();
    }

    pub fn send_binary(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::binary(bytes)).unwrap();
    }

    pub fn next(&mut self) -> Reply {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Reply::Json(serde_json::from_str(&text).unwrap()),
                Ok(Message::Binary(bytes)) => return Reply::Binary(bytes.to_vec()),
                Ok(Message::Close(frame)) => {
                    self.socket.flush().ok();
                    return Reply::Closed(frame.map(|frame| (frame.code.into(), frame.reason.to_string())));
                }
                Ok(_) => {}
                Err(WsError::Io(error)) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    panic!("nothing came for {PATIENCE:?}")
                }
                Err(_) => return Reply::Closed(None),
            }
        }
    }

    /// The next text.
    pub fn json(&mut self) -> Value {
        match self.next() {
            Reply::Json(value) => value,
            other => panic!("expected JSON, found {other:?}"),
        }
    }

    /// The next text with this field; poses before it are passed over.
    pub fn json_with(&mut self, field: &str) -> Value {
        loop {
            match self.next() {
                Reply::Json(value) if value.get(field).is_some() => return value,
                Reply::Json(value) if value.get("error").is_some() => panic!("expected {field}, found {value}"),
                Reply::Closed(reason) => panic!("expected {field}, found the end: {reason:?}"),
                _ => {}
            }
        }
    }

    /// Opens a stream: its number.
    pub fn open(&mut self, id: &str, settings: &StreamSettings, form: &str) -> u32 {
        self.send(&open_text(id, settings, form));
        let opened = self.json_with("opened");
        assert_eq!(opened["id"], id);
        u32::try_from(opened["opened"]["stream"].as_u64().unwrap()).unwrap()
    }

    pub fn frame(&mut self, id: &str, time_s: f64, joints: &[[f32; 3]]) {
        self.send(&json!({ "id": id, "time_s": time_s, "keypoints": joints }));
    }

    pub fn end(&mut self, id: &str) {
        self.send(&json!({ "id": id, "end": true }));
    }

    /// Poses and other messages until the stream has ended, which is the last of them.
    pub fn until_ended(&mut self, id: &str) -> (Vec<Value>, Vec<Value>) {
        let (mut poses, mut others) = (Vec::new(), Vec::new());
        loop {
            let value = self.json();
            if value["id"] != id {
                continue;
            }
            if value.get("camera_mm").is_some() {
                poses.push(value);
                continue;
            }
            others.push(value);
            if others.last().is_some_and(|value| value.get("ended").is_some()) {
                return (poses, others);
            }
        }
    }

    /// The close frame; what comes before it is passed over.
    pub fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            if let Reply::Closed(reason) = self.next() {
                return reason;
            }
        }
    }
}

pub fn open_text(id: &str, settings: &StreamSettings, form: &str) -> Value {
    let mut open = serde_json::to_value(settings).unwrap();
    open["form"] = form.into();
    json!({ "id": id, "open": open })
}

pub fn triples(frame: &Keypoints17) -> Vec<[f32; 3]> {
    frame.iter().map(|k| [k.x_px, k.y_px, k.confidence]).collect()
}

/// One binary frame record.
pub fn record(stream: u32, time_s: f64, joints: &[[f32; 3]]) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend((joints.len() as u16).to_le_bytes());
    bytes.extend(stream.to_le_bytes());
    bytes.extend(time_s.to_le_bytes());
    bytes.extend(joints.as_flattened().iter().flat_map(|value| value.to_le_bytes()));
    assert_eq!(bytes.len(), RECORD_HEAD + joints.len() * JOINT_BYTES);
    bytes
}

pub fn end_record(stream: u32) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    bytes.extend(stream.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// A binary pose as docs/server.md has it: stream, time, pose25, camera_mm, world_mm.
#[derive(Clone)]
pub struct BinaryPose {
    pub stream: u32,
    pub flags: u8,
    pub time_s: f64,
    pub delay_s: f32,
    pub height_m: f32,
    pub confidence: Vec<f32>,
    pub pose25: Vec<f32>,
    pub camera_mm: Vec<f32>,
    pub world_mm: Vec<f32>,
}

pub fn read_pose(bytes: &[u8]) -> BinaryPose {
    assert_eq!((bytes.len(), bytes[0], &bytes[2..4]), (POSE_BYTES, 0x81, &[17, 0][..]));
    let floats = |from: usize, count: usize| -> Vec<f32> {
        bytes[from..from + 4 * count].chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
    };
    BinaryPose {
        stream: u32::from_le_bytes(bytes[4..8].try_into().unwrap()),
        flags: bytes[1],
        time_s: f64::from_le_bytes(bytes[8..16].try_into().unwrap()),
        delay_s: floats(16, 1)[0],
        height_m: floats(24, 1)[0],
        confidence: floats(96, 17),
        pose25: floats(164, 51),
        camera_mm: floats(368, 51),
        world_mm: floats(572, 51),
    }
}

/// What a stream alone says of these frames.
pub fn alone(lifter: Arc<Lifter>, settings: &StreamSettings, frames: &[(f64, Vec<[f32; 3]>)]) -> Vec<StreamPose> {
    let mut stream = LiftStream::new(lifter, settings.image, settings.options().unwrap()).unwrap();
    let mut poses = Vec::new();
    for (time_s, joints) in frames {
        let keypoints: Vec<pose::Keypoint> = joints.iter().map(|&[x, y, c]| pose::Keypoint::new(x, y, c)).collect();
        poses.extend(stream.push(*time_s, Some(&settings.skeleton.to_h36m(&keypoints).unwrap())).unwrap());
    }
    poses.extend(stream.finish().unwrap());
    poses
}

/// A walk of this skeleton: Human3.6M's own joints, or any that its map takes for them.
pub fn frames_of(source: Source, length: usize, fps: f64, start_s: f64, sway: f32) -> Vec<(f64, Vec<[f32; 3]>)> {
    let walk = super::common::walk(length, fps);
    let frame = |frame: &Keypoints17| match source {
        Source::H36m17 => triples(frame).into_iter().map(|[x, y, c]| [x + sway * (y - 360.0) / 100.0, y, c]).collect(),
        // a person is spread over the joints by their place: no body, but motion that is lifted
        other => (0..other.joints()).map(|j| triples(frame)[j % 17]).map(|[x, y, c]| [x + sway * (y - 360.0) / 100.0, y, c]).collect(),
    };
    walk.frames.iter().zip(&walk.times_s).map(|(f, time_s)| (start_s + time_s, frame(f))).collect()
}

pub fn flat(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

#[track_caller]
pub fn close_to(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "expected {expected}, found {found}");
    }
}

/// The poses of a server against those of a stream alone: 2.5D to 1e-5, millimetres to 0.05.
#[track_caller]
pub fn same_poses(found: &[Value], expected: &[StreamPose]) {
    close_poses(found, expected, 1e-5, 0.05);
}

#[track_caller]
pub fn close_poses(found: &[Value], expected: &[StreamPose], tolerance_25: f32, tolerance_mm: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["time_s"].as_f64().unwrap(), expected.time_s);
        assert_eq!((&found["held"], &found["restarted"]), (&json!(expected.held), &json!(expected.restarted)));
        close_to(&flat(&found["pose25"]), expected.pose25.as_flattened(), tolerance_25);
        close_to(&flat(&found["camera_mm"]), expected.camera_mm.as_flattened(), tolerance_mm);
        close_to(&flat(&found["world_mm"]), expected.world_mm.as_flattened(), tolerance_mm);
    }
}

/// Status, head and body of a request over HTTP/1.1.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    if !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    // a server may answer before it has read all
    stream.write_all((head + "\r\n").as_bytes()).unwrap();
    stream.write_all(body).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), answer[end + 4..].to_vec())
}

pub fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let (status, _, body) = request(address, "GET", path, &[], &[]);
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// A number of `/metrics`.
pub fn metric(address: SocketAddr, name: &str) -> f64 {
    let (status, _, body) = request(address, "GET", "/metrics", &[], &[]);
    assert_eq!(status, 200);
    let text = String::from_utf8(body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.parse().unwrap()
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
