//! A server under clients that behave and clients that do not, for as long as you like:
//!
//! ```sh
//! cargo build --release -p runtime && cargo run --release -p runtime --example soak -- --seconds 1800 --streams 64
//! ```
//!
//! Good clients send laps of real-time streams and compare every pose with that of a stream alone in this process; bad ones vanish, stall, flood,
//! send garbage, half messages, NaN, wrong joint counts and sizes of 2^31. The verdict is one JSON object: ok when no good pose is wrong or
//! missing, the server's memory stays flat, and it ends with status 0 when told to. Exit status 1 otherwise.
#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use pose::{Keypoint, Keypoints17};
use runtime::{
    AnyEngine, EngineOptions, LiftStream, Lifter, StreamPose, StreamSettings,
    trial::{IMAGE, walker},
};
use serde_json::{Value, json};
use tungstenite::{Error as WsError, Message, WebSocket};

/// How far a good pose may be from that of a stream alone, in 2.5D and in millimetres: the order of a sum depends on the size of the batch.
const TOLERANCE: (f32, f32) = (1e-4, 1.0);
/// The same for a model whose graph of the most similar frames jumps where two are alike.
const TOLERANCE_TOP_K: (f32, f32) = (0.05, 200.0);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Good streams in one connection.
const STREAMS_PER_CLIENT: usize = 8;
/// A good client whose poses are so many frames behind what their look-ahead explains waits, so that a machine that stalls drops nothing.
const MOST_AHEAD: usize = 16;
/// Memory may grow by so much after it has settled.
const MOST_GROWTH_MB: f64 = 8.0;
const MOST_GROWTH_SHARE: f64 = 0.05;

/// Settings of a soak.
#[derive(clap::Parser)]
pub struct Soak {
    /// The built program [default: beside this one].
    #[arg(long)]
    pub server: Option<PathBuf>,
    /// The lifter.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx"))]
    pub model: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Good streams at 30 frames a second; take half of what the machine can do.
    #[arg(long, default_value_t = 32)]
    pub streams: usize,
    /// Bad clients of each kind.
    #[arg(long, default_value_t = 2)]
    pub bad: usize,
    /// Frames of a lap of a good stream.
    #[arg(long, default_value_t = 300)]
    pub lap: usize,
    /// Threads of the server's engine.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
}

#[allow(dead_code)] // a test runs the rest
fn main() -> ExitCode {
    match Soak::parse().run() {
        Ok(verdict) => {
            println!("{verdict:#}");
            if verdict["ok"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What good clients have seen.
#[derive(Default)]
struct Seen {
    laps: AtomicU64,
    frames: AtomicU64,
    poses: AtomicU64,
    wrong: AtomicU64,
    dropped: AtomicU64,
    /// Times that a good client had to wait for the server.
    held_up: AtomicU64,
    worst_25_millionths: AtomicU64,
    worst_mm_thousandths: AtomicU64,
}

/// What is common to all clients.
struct World {
    http: SocketAddr,
    grpc: SocketAddr,
    model: String,
    input: String,
    tolerance: (f32, f32),
    over: AtomicBool,
    seen: Seen,
}

impl World {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

/// The server's process, which does not outlive this one.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok(); // it may have ended
        self.0.wait().ok();
    }
}

impl Soak {
    /// Runs it: the verdict.
    pub fn run(&self) -> anyhow::Result<Value> {
        ensure!(
            self.seconds > 0.0 && self.streams > 0 && self.lap > 30,
            "expected more than 0 seconds and streams, and laps of more than 30 frames"
        );
        let server = match &self.server {
            Some(server) => server.clone(),
            None => std::env::current_exe()?.ancestors().nth(2).unwrap_or(Path::new(".")).join("runtime"),
        };
        let lifter = Arc::new(Lifter::open(&self.model, &EngineOptions { threads: 1, ..Default::default() })?);
        let patterns: Vec<Arc<Pattern>> =
            (0..4).map(|kind| Pattern::new(lifter.clone(), kind, self.lap).map(Arc::new)).collect::<anyhow::Result<_>>()?;

        let mut process = self.start(&server)?;
        let pid = process.0.id();
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().context("the server's output")?).read_line(&mut line)?;
        let about: Value = serde_json::from_str(&line).with_context(|| format!("expected the server's line, found \"{line}\""))?;
        let address =
            |name: &str| about[name].as_str().unwrap_or_default().parse::<SocketAddr>().with_context(|| format!("no address in {line}"));
        let world = Arc::new(World {
            http: address("http")?,
            grpc: address("grpc")?,
            model: lifter.name().to_owned(),
            input: lifter.engine().inputs()[0].name.clone(),
            tolerance: if lifter.engine().metadata().is_some_and(|metadata| metadata.has_top_k_graph) {
                TOLERANCE_TOP_K
            } else {
                TOLERANCE
            },
            over: AtomicBool::new(false),
            seen: Seen::default(),
        });
        drop(lifter);

        let start = Instant::now();
        let clients = self.streams.div_ceil(STREAMS_PER_CLIENT);
        let good: Vec<_> = (0..clients)
            .map(|client| {
                let streams = STREAMS_PER_CLIENT.min(self.streams - client * STREAMS_PER_CLIENT);
                let (world, patterns) = (world.clone(), patterns.clone());
                std::thread::spawn(move || good_client(&world, &patterns, client, streams))
            })
            .collect();
        let bad: Vec<_> = Kind::ALL
            .into_iter()
            .flat_map(|kind| (0..self.bad).map(move |i| (kind, i)))
            .map(|(kind, i)| {
                let world = world.clone();
                (kind, std::thread::spawn(move || bad_client(&world, kind, i as u64)))
            })
            .collect();

        let mut memory: Vec<(f64, f64)> = Vec::new();
        while start.elapsed().as_secs_f64() < self.seconds {
            std::thread::sleep(Duration::from_millis(500).min(Duration::from_secs_f64(self.seconds / 10.0)));
            memory.push((start.elapsed().as_secs_f64() / self.seconds, resident_mb(pid)?));
            if let Some(status) = process.0.try_wait()? {
                bail!("the server has ended by itself: {status}");
            }
        }
        world.over.store(true, Ordering::Relaxed);
        let mut problems = Vec::new();
        for client in good {
            match client.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => problems.push(format!("a good client: {error:#}")),
                Err(_) => problems.push("a good client panicked".to_owned()),
            }
        }
        let mut attempts: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, client) in bad {
            *attempts.entry(format!("{kind:?}").to_lowercase()).or_default() += client.join().unwrap_or_default();
        }
        let elapsed_s = start.elapsed().as_secs_f64();
        let metrics = metrics(world.http)?;
        let exit = stop(&mut process)?;

        let growth = growth_mb(&memory);
        let settled = memory.iter().map(|sample| sample.1).fold(0.0, f64::max) - growth;
        if growth > MOST_GROWTH_MB.max(MOST_GROWTH_SHARE * settled) {
            problems.push(format!("the server's memory grew by {growth:.1} MB after it had settled"));
        }
        if exit != Some(0) {
            problems.push(format!("the server ended with {exit:?}, expected 0"));
        }
        let Seen { laps, frames, poses, wrong, dropped, held_up, worst_25_millionths, worst_mm_thousandths } = &world.seen;
        let [laps, frames, poses, wrong, dropped, held_up, worst_25, worst_mm] =
            [laps, frames, poses, wrong, dropped, held_up, worst_25_millionths, worst_mm_thousandths]
                .map(|count| count.load(Ordering::Relaxed));
        if wrong > 0 || dropped > 0 || poses != frames || laps == 0 {
            problems.push(format!("good streams: {frames} frames, {poses} poses, {wrong} wrong, {dropped} dropped, {laps} laps"));
        }
        let first = memory.first().map_or(0.0, |sample| sample.1);
        let last = memory.last().map_or(0.0, |sample| sample.1);
        let busy_share = metrics.get("poselift_engine_run_seconds_sum").map(|busy| busy / elapsed_s);
        Ok(json!({
            "ok": problems.is_empty(), "problems": problems, "seconds": self.seconds,
            "good": { "streams": self.streams, "laps": laps, "frames": frames, "poses": poses, "wrong": wrong, "dropped": dropped, "held_up": held_up,
                "worst_pose25": worst_25 as f64 / 1e6, "worst_mm": worst_mm as f64 / 1e3, "tolerance": world.tolerance },
            "bad": attempts,
            "memory_mb": { "first": first, "last": last, "peak": memory.iter().map(|sample| sample.1).fold(0.0, f64::max), "growth": growth },
            "engine_busy_share": busy_share,
            "server": metrics, "exit": exit,
        }))
    }

    fn start(&self, server: &Path) -> anyhow::Result<Process> {
        let child = std::process::Command::new(server)
            .args(["--json", "--threads", &self.threads.to_string(), "serve"])
            .arg(&self.model)
            .args(["--port", "0", "--grpc-port", "0", "--idle", "10", "--write-timeout", "3", "--request-timeout", "5"])
            .stdout(Stdio::piped())
            .spawn();
        child.map(Process).with_context(|| format!("cannot start {}: build it with `cargo build -p runtime`", server.display()))
    }
}

/// SIGTERM, and the status that the server ends with.
fn stop(process: &mut Process) -> anyhow::Result<Option<i32>> {
    std::process::Command::new("kill").args(["-TERM", &process.0.id().to_string()]).status().context("kill")?;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = process.0.try_wait()? {
            return Ok(status.code());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the server does not end")
}

fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the server's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// How much higher the last fifth reaches than the fifth after the first: peaks of equal length, once caches are warm.
fn growth_mb(memory: &[(f64, f64)]) -> f64 {
    let peak =
        |from: f64, to: f64| memory.iter().filter(|sample| (from..to).contains(&sample.0)).map(|sample| sample.1).fold(0.0, f64::max);
    let (early, late) = (peak(0.2, 0.4), peak(0.8, 2.0));
    if early == 0.0 { 0.0 } else { late - early }
}

/// The server's counters and sums.
fn metrics(address: SocketAddr) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let lines = text.lines().filter(|line| line.starts_with("poselift_") && !line.contains("_bucket"));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')).filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// Frames of a lap, and what a stream alone makes of them.
struct Pattern {
    settings: StreamSettings,
    frames: Vec<(f64, Keypoints17)>,
    poses: Vec<StreamPose>,
    /// Frames that a pose is late by.
    late: usize,
}

impl Pattern {
    fn new(lifter: Arc<Lifter>, kind: usize, length: usize) -> anyhow::Result<Self> {
        let is_live = matches!(lifter.engine(), AnyEngine::Step(_)); // with a look-ahead of its own
        let settings = StreamSettings {
            look_ahead: if is_live { None } else { Some([0, 2, 4, 8][kind % 4]) },
            height_m: (kind == 1).then_some(1.8),
            constant_bones: kind == 2,
            ..StreamSettings::new(IMAGE)
        };
        let fps = [30.0, 30.0, 25.0, 29.5][kind % 4];
        let frames: Vec<(f64, Keypoints17)> =
            (0..length).map(|t| t as f64 / fps).map(|time_s| (time_s, walker(time_s, kind as f64))).collect();
        let mut stream = LiftStream::new(lifter, IMAGE, settings.options()?)?;
        let mut poses = Vec::with_capacity(length);
        for (time_s, keypoints) in &frames {
            poses.extend(stream.push(*time_s, Some(keypoints))?);
        }
        let late = length - poses.len();
        poses.extend(stream.finish()?);
        ensure!(poses.len() == length, "a pose for each frame");
        Ok(Self { settings, frames, poses, late })
    }
}

type Socket = WebSocket<TcpStream>;

fn connect(address: SocketAddr) -> anyhow::Result<Socket> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    match tungstenite::client(format!("ws://{address}/v1/stream"), stream) {
        Ok((socket, _)) => Ok(socket),
        Err(error) => bail!("no WebSocket: {error}"),
    }
}

fn open_text(id: usize, settings: &StreamSettings, form: &str) -> anyhow::Result<Message> {
    let mut open = serde_json::to_value(settings)?;
    open["form"] = form.into();
    Ok(Message::text(json!({ "id": id, "open": open }).to_string()))
}

fn frame_text(id: usize, time_s: f64, keypoints: &[Keypoint]) -> Message {
    let joints: Vec<[f32; 3]> = keypoints.iter().map(|k| [k.x_px, k.y_px, k.confidence]).collect();
    Message::text(json!({ "id": id, "time_s": time_s, "keypoints": joints }).to_string())
}

fn frame_bytes(stream: u32, time_s: f64, keypoints: &[Keypoint]) -> Message {
    let mut bytes = vec![1, 0];
    bytes.extend((keypoints.len() as u16).to_le_bytes());
    bytes.extend(stream.to_le_bytes());
    bytes.extend(time_s.to_le_bytes());
    bytes.extend(keypoints.iter().flat_map(|k| [k.x_px, k.y_px, k.confidence]).flat_map(f32::to_le_bytes));
    Message::binary(bytes)
}

/// One stream of a good client over one lap.
struct Lap {
    pattern: Arc<Pattern>,
    binary: bool,
    /// Of the server.
    number: u32,
    /// Poses so far.
    next: usize,
    ended: bool,
}

/// Laps of several streams over one connection, at the pace of cameras, until it is over.
fn good_client(world: &World, patterns: &[Arc<Pattern>], client: usize, streams: usize) -> anyhow::Result<()> {
    let mut socket = connect(world.http)?;
    while world.goes_on() {
        let mut laps: Vec<Lap> = (0..streams)
            .map(|i| Lap {
                pattern: patterns[(client + i) % patterns.len()].clone(),
                binary: i % 2 == 0,
                number: u32::MAX,
                next: 0,
                ended: false,
            })
            .collect();
        for (i, lap) in laps.iter().enumerate() {
            socket.send(open_text(i, &lap.pattern.settings, if lap.binary { "binary" } else { "json" })?)?;
        }
        while laps.iter().any(|lap| lap.number == u32::MAX) {
            hear(world, &mut socket, &mut laps, None)?;
        }
        let start = Instant::now();
        let length = patterns[0].frames.len();
        for t in 0..length {
            let is_behind = |laps: &[Lap]| laps.iter().any(|lap| t > lap.next + lap.pattern.late + MOST_AHEAD);
            if is_behind(&laps) {
                world.seen.held_up.fetch_add(1, Ordering::Relaxed);
            }
            while is_behind(&laps) {
                hear(world, &mut socket, &mut laps, None)?;
            }
            for (i, lap) in laps.iter().enumerate() {
                let (time_s, keypoints) = &lap.pattern.frames[t];
                socket.send(if lap.binary { frame_bytes(lap.number, *time_s, keypoints) } else { frame_text(i, *time_s, keypoints) })?;
            }
            world.seen.frames.fetch_add(streams as u64, Ordering::Relaxed);
            let next = start + Duration::from_secs_f64((t + 1) as f64 / 30.0);
            while Instant::now() < next {
                hear(world, &mut socket, &mut laps, Some(next))?;
            }
        }
        for i in 0..streams {
            socket.send(Message::text(json!({ "id": i, "end": true }).to_string()))?;
        }
        while laps.iter().any(|lap| !lap.ended) {
            hear(world, &mut socket, &mut laps, None)?;
        }
        world.seen.laps.fetch_add(streams as u64, Ordering::Relaxed);
    }
    socket.close(None)?;
    Ok(())
}

/// One message, or nothing until then.
fn hear(world: &World, socket: &mut Socket, laps: &mut [Lap], until: Option<Instant>) -> anyhow::Result<()> {
    let patience = until.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    socket.get_mut().set_read_timeout(Some(patience))?;
    let message = match socket.read() {
        Ok(message) => message,
        Err(WsError::Io(error))
            if until.is_some() && matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error).context("nothing came, or the connection broke"),
    };
    match message {
        Message::Binary(bytes) => {
            ensure!(bytes.len() == runtime::serve::POSE_BYTES, "a pose of {} bytes", bytes.len());
            let number = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let floats: Vec<f32> =
                bytes[164..].chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]])).collect();
            let lap = laps.iter_mut().find(|lap| lap.number == number).context("a pose of a stream that is not open")?;
            compare(world, lap, &floats[..51], &floats[51..102], &floats[102..]);
        }
        Message::Text(text) => {
            let value: Value = serde_json::from_str(&text)?;
            let id = value["id"].as_u64().and_then(|id| usize::try_from(id).ok());
            let lap = id.and_then(|id| laps.get_mut(id)).with_context(|| format!("expected a message about a stream, found {value}"))?;
            if value.get("camera_mm").is_some() {
                compare(world, lap, &flat(&value["pose25"]), &flat(&value["camera_mm"]), &flat(&value["world_mm"]));
            } else if let Some(opened) = value.get("opened") {
                lap.number = opened["stream"].as_u64().and_then(|number| u32::try_from(number).ok()).context("a stream's number")?;
            } else if value.get("ended").is_some() {
                lap.ended = true;
            } else if let Some(dropped) = value["dropped"].as_object() {
                world.seen.dropped.fetch_add(dropped.values().filter_map(Value::as_u64).sum(), Ordering::Relaxed);
            } else {
                bail!("{value}");
            }
        }
        Message::Close(frame) => bail!("the connection was closed: {frame:?}"),
        _ => {}
    }
    Ok(())
}

fn flat(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        number => number.as_f64().map(|number| number as f32).into_iter().collect(),
    }
}

fn compare(world: &World, lap: &mut Lap, pose25: &[f32], camera_mm: &[f32], world_mm: &[f32]) {
    world.seen.poses.fetch_add(1, Ordering::Relaxed);
    // no distance at all is worse than any
    let apart = |found: &[f32], expected: &[f32]| match found.len() == expected.len() {
        true => found
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, |worst: f32, d| if d > worst || d.is_nan() { d } else { worst }),
        false => f32::INFINITY,
    };
    let (apart_25, apart_mm) = match lap.pattern.poses.get(lap.next) {
        None => (f32::INFINITY, f32::INFINITY),
        Some(expected) => (
            apart(pose25, expected.pose25.as_flattened()),
            apart(camera_mm, expected.camera_mm.as_flattened()).max(apart(world_mm, expected.world_mm.as_flattened())),
        ),
    };
    world.seen.worst_25_millionths.fetch_max((apart_25 * 1e6) as u64, Ordering::Relaxed);
    world.seen.worst_mm_thousandths.fetch_max((apart_mm * 1e3) as u64, Ordering::Relaxed);
    let is_right = apart_25 <= world.tolerance.0 && apart_mm <= world.tolerance.1;
    lap.next += 1;
    if !is_right {
        world.seen.wrong.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a client is bad.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Vanish,
    Stall,
    Flood,
    Garbage,
    Half,
    Frames,
    Sizes,
}

impl Kind {
    const ALL: [Self; 7] = [Self::Vanish, Self::Stall, Self::Flood, Self::Garbage, Self::Half, Self::Frames, Self::Sizes];
}

/// Is bad again and again: how often. What the server says to it is no matter, as long as others do not notice.
fn bad_client(world: &World, kind: Kind, seed: u64) -> u64 {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed * 7 + kind as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
    let mut attempts = 0;
    while world.goes_on() {
        let attempt = match kind {
            Kind::Vanish => vanish(world, &mut random),
            Kind::Stall => stall(world),
            Kind::Flood => flood(world),
            Kind::Garbage => garbage(world, &mut random),
            Kind::Half => half(world, &mut random),
            Kind::Frames => bad_frames(world, &mut random),
            Kind::Sizes => sizes(world, &mut random),
        };
        drop(attempt); // being cut off is what it is about
        attempts += 1;
        std::thread::sleep(Duration::from_millis(20 + random.below(200)));
    }
    attempts
}

fn plain() -> StreamSettings {
    StreamSettings::new(IMAGE)
}

fn vanish(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let mut socket = connect(world.http)?;
    let streams = 1 + random.below(4) as usize;
    for i in 0..streams {
        socket.send(open_text(i, &plain(), "json")?)?;
    }
    for t in 0..random.below(20) {
        let time_s = t as f64 / 30.0;
        for i in 0..streams {
            socket.send(frame_text(i, time_s, &walker(time_s, i as f64)))?;
        }
        std::thread::sleep(Duration::from_millis(random.below(33)));
    }
    Ok(()) // and away, without a word
}

fn stall(world: &World) -> anyhow::Result<()> {
    let mut socket = connect(world.http)?;
    socket.get_mut().set_write_timeout(Some(Duration::from_millis(200)))?;
    for i in 0..4 {
        socket.send(open_text(i, &plain(), "json")?)?;
    }
    let start = Instant::now();
    for t in 0..900 {
        let time_s = f64::from(t) / 30.0;
        for i in 0..4 {
            socket.send(frame_text(i, time_s, &walker(time_s, i as f64)))?; // and never reads
        }
        if !world.goes_on() || start.elapsed() > Duration::from_secs(20) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn flood(world: &World) -> anyhow::Result<()> {
    let mut socket = connect(world.http)?;
    socket.get_mut().set_write_timeout(Some(Duration::from_millis(500)))?;
    socket.send(open_text(0, &plain(), "binary")?)?;
    let start = Instant::now();
    for t in 0..5000 {
        let time_s = f64::from(t) / 30.0;
        socket.send(frame_bytes(0, time_s, &walker(time_s, 0.0)))?;
        if t % 16 == 0 {
            socket.get_mut().set_read_timeout(Some(Duration::from_millis(1)))?;
            while socket.read().is_ok() {}
        }
        if !world.goes_on() || start.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    Ok(())
}

fn garbage(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let bytes = |random: &mut Random| -> Vec<u8> { (0..random.below(2000)).map(|_| random.below(256) as u8).collect() };
    match random.below(4) {
        // to either port, without a protocol
        0 | 1 => {
            let address = if random.below(2) == 0 { world.http } else { world.grpc };
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            stream.write_all(&bytes(random))?;
            let mut answer = [0; 4096];
            let _whatever = stream.read(&mut answer)?;
        }
        2 => {
            let mut socket = connect(world.http)?;
            socket.get_mut().write_all(&bytes(random))?;
            socket.read()?;
        }
        _ => {
            let mut socket = connect(world.http)?;
            loop {
                socket.send(Message::binary(bytes(random)))?;
                let text: String = bytes(random).iter().map(|&byte| char::from(byte % 96 + 32)).collect();
                socket.send(Message::text(text))?;
                socket.read()?;
            }
        }
    }
    Ok(())
}

fn half(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let infer = format!("POST /v2/models/{}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{{\"inputs\": [", world.model);
    let halves = ["GET /v2/health", "GET /metrics HTTP/1.1\r\nhost:", &infer, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""];
    let half = halves[random.below(halves.len() as u64) as usize];
    if random.below(2) == 0 {
        let address = if half.starts_with("PRI") { world.grpc } else { world.http };
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(half.as_bytes())?;
        std::thread::sleep(Duration::from_millis(random.below(3000)));
        return Ok(());
    }
    let mut socket = connect(world.http)?;
    socket.send(open_text(0, &plain(), "binary")?)?;
    let Message::Binary(frame) = frame_bytes(0, 0.0, &walker(0.0, 0.0)) else { return Ok(()) };
    let mut message = vec![0x82, 0xfe];
    message.extend((frame.len() as u16).to_be_bytes());
    message.extend([0; 4]);
    message.extend(&frame[..random.below(frame.len() as u64) as usize]);
    socket.get_mut().write_all(&message)?;
    std::thread::sleep(Duration::from_millis(random.below(3000)));
    Ok(())
}

fn bad_frames(world: &World, random: &mut Random) -> anyhow::Result<()> {
    let mut socket = connect(world.http)?;
    socket.send(open_text(0, &plain(), "json")?)?;
    for t in 0..200u32 {
        let time_s = f64::from(t) / 30.0;
        let mut person = walker(time_s, 0.0).to_vec();
        let bad = [f32::NAN, f32::INFINITY, f32::MAX, -1e30][random.below(4) as usize];
        let message = match random.below(6) {
            0 => {
                person[random.below(17) as usize].x_px = bad;
                frame_bytes(0, time_s, &person)
            }
            1 => frame_bytes(0, time_s, &person[..random.below(17) as usize]),
            2 => frame_bytes(0, f64::from(bad), &person),
            3 => frame_text(0, -time_s, &person),
            4 => frame_text(0, time_s, &person.repeat(20)),
            _ => Message::text(json!({ "id": 0, "time_s": time_s, "keypoints": [[null, "x", {}]] }).to_string()),
        };
        socket.send(message)?;
        socket.read()?;
    }
    Ok(())
}

fn sizes(world: &World, random: &mut Random) -> anyhow::Result<()> {
    const HUGE: u64 = 1 << 31;
    match random.below(5) {
        0 => {
            let mut socket = connect(world.http)?;
            let mut head = vec![0x82, 0xff];
            head.extend([HUGE, 1 << 63, u64::MAX][random.below(3) as usize].to_be_bytes());
            head.extend([0; 4]);
            socket.get_mut().write_all(&head)?;
            socket.read()?;
        }
        1 => {
            let mut socket = connect(world.http)?;
            socket.send(open_text(0, &plain(), "json")?)?;
            let mut record = vec![1, 0, 0xff, 0xff];
            record.extend([0; 12]);
            socket.send(Message::binary(record))?;
            socket.send(Message::text(
                json!({ "id": 1, "open": { "image": { "width": HUGE, "height": HUGE }, "look_ahead": HUGE } }).to_string(),
            ))?;
            socket.read()?;
            socket.send(Message::binary(vec![0; 1 << 20]))?;
            while socket.read().is_ok() {}
        }
        2 => {
            let mut stream = TcpStream::connect(world.http)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "POST /v2/models/{}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {HUGE}\r\n\r\n", world.model)?;
            let chunk = vec![b' '; 1 << 16];
            while stream.write_all(&chunk).is_ok() {}
        }
        3 => {
            let body =
                json!({ "inputs": [{ "name": world.input, "shape": [HUGE, HUGE, 17, 3], "datatype": "FP32", "data": [1.0] }] }).to_string();
            let mut stream = TcpStream::connect(world.http)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "POST /v2/models/{}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", world.model, body.len())?;
            let mut answer = [0; 4096];
            let _whatever = stream.read(&mut answer)?;
        }
        // an HTTP/2 frame of 2^24 bytes
        _ => {
            let mut stream = TcpStream::connect(world.grpc)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\xff\xff\xff\x00\x00\x00\x00\x00\x01")?;
            let mut answer = [0; 4096];
            while stream.read(&mut answer)? > 0 {}
        }
    }
    Ok(())
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    /// 0..end; `end` above 0.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1)
    }
}
