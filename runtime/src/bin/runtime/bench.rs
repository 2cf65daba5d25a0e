//! `runtime bench`: what a model costs, as raw windows, as steps of single frames, or under live streams.

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Args;
use pose::JOINTS;
use runtime::{
    AnyEngine, Assumptions, Binding, Engine, EngineOptions, Lifter, StepEngine, StepState, StreamCore, StreamOptions, run_due, trial,
};
use serde_json::json;

use crate::{Report, doctor::proc_kilobytes};

#[derive(Args)]
pub struct BenchArgs {
    /// The lifter, or a live lifter's step graph: then a call is one frame of --batch streams.
    model: PathBuf,
    /// Seconds to measure.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Seconds to run before that, which do not count.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    warm_up: f64,
    /// Windows in one call, or streams in one step of a live model.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "streams")]
    batch: usize,
    /// Frames in a window [default: what the model says].
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Live streams instead of windows back to back: so many, paced as cameras are, their due windows run in batches.
    #[arg(long, value_name = "N")]
    streams: Option<usize>,
    /// Frames a second of each stream [default: the model's rate].
    #[arg(long, value_name = "FPS", requires = "streams")]
    fps: Option<f64>,
    /// Frames that a stream looks ahead [default: 4; of a live model its own].
    #[arg(long, value_name = "N", requires = "streams")]
    look_ahead: Option<usize>,
    /// Frames between two windows of a stream.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "streams")]
    hop: usize,
    /// Each frame arrives up to so many milliseconds late.
    #[arg(long, value_name = "MS", default_value_t = 5.0, requires = "streams")]
    jitter: f64,
    /// So often a minute a stream stalls for 0.3 s, and its frames come at once.
    #[arg(long, value_name = "N", default_value_t = 1.0, requires = "streams")]
    stalls: f64,
}

const STALL_S: f64 = 0.3;
/// Bounds of what is asked for, so that it can be held in memory and ends.
const MOST_STREAMS: usize = 100_000;
const LONGEST_RUN_S: f64 = 86_400.0;
const MOST_NUMBERS: usize = 1 << 28;
/// More latencies than this are thinned to every second one.
const MOST_LATENCIES: usize = 1 << 22;

pub fn bench(args: &BenchArgs, options: &EngineOptions) -> anyhow::Result<Report> {
    for (what, seconds, least) in [("--seconds", args.seconds, 0.01), ("--warm-up", args.warm_up, 0.0)] {
        if !(least..=LONGEST_RUN_S).contains(&seconds) {
            bail!("expected {what} to be {least} to {LONGEST_RUN_S} seconds, found {seconds}");
        }
    }
    let before_mb = memory_mb("VmRSS:");
    let engine = AnyEngine::open(&args.model, options)?;
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let setting =
        Setting { before_mb, threads, device: engine.device().to_string(), binding: engine.binding(), cuda_graph: options.cuda_graph };
    match (args.streams, engine) {
        (Some(streams), engine) => live(args, streams, engine, &setting),
        (None, AnyEngine::Whole(engine)) => windows(args, &engine, &setting),
        (None, AnyEngine::Step(engine)) => steps(args, &engine, &setting),
    }
}

/// What is said of every measurement.
struct Setting {
    /// Resident memory before the model was opened.
    before_mb: Option<f64>,
    threads: usize,
    device: String,
    binding: Binding,
    cuda_graph: bool,
}

impl Setting {
    /// Where it ran, and how.
    fn place(&self) -> String {
        let bound = if self.binding == Binding::On { ", tensors bound" } else { "" };
        let captured = if self.cuda_graph { ", as CUDA graphs" } else { "" };
        format!("{}{bound}{captured}, {} threads", self.device, self.threads)
    }

    fn memory(&self) -> (String, serde_json::Value) {
        let (now_mb, peak_mb) = (memory_mb("VmRSS:"), memory_mb("VmHWM:"));
        let text = match (now_mb, self.before_mb, peak_mb) {
            (Some(now), Some(before), Some(peak)) => {
                format!("memory: {:.0} MB more than before the model was opened, {peak:.0} MB at most in all", now - before)
            }
            _ => "memory: this system does not say".to_owned(),
        };
        (text, json!({ "before_mb": self.before_mb, "resident_mb": now_mb, "peak_mb": peak_mb }))
    }
}

fn memory_mb(name: &str) -> Option<f64> {
    proc_kilobytes("/proc/self/status", name).map(|kb| kb as f64 / 1024.0)
}

/// Windows back to back.
fn windows(args: &BenchArgs, engine: &Engine, setting: &Setting) -> anyhow::Result<Report> {
    let frames = match args.frames.or(engine.frames()).or(engine.metadata().map(|metadata| metadata.frames)) {
        Some(frames) => frames,
        None => bail!("{} does not say how many frames its windows have: give --frames", args.model.display()),
    };
    let shape = [args.batch, frames, JOINTS, engine.channels()];
    let numbers = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).filter(|&n| (1..=MOST_NUMBERS).contains(&n));
    let Some(numbers) = numbers else { bail!("expected a batch and frames of 1 or more that fit into memory, found {shape:?}") };
    let input: Vec<f32> = (0..numbers).map(|i| 0.5 * (i as f32 * 0.37).sin()).collect();

    let mut poses = Vec::new();
    let measured = measure(args, || Ok(engine.run_into(&input, shape, &mut poses)?))?;
    Ok(report(args, &shape, &measured, setting))
}

/// Steps of a live model back to back, each stream going on from its own state.
fn steps(args: &BenchArgs, engine: &StepEngine, setting: &Setting) -> anyhow::Result<Report> {
    if args.frames.is_some_and(|frames| frames != 1) {
        bail!("expected no --frames: {} takes one frame at a time", args.model.display());
    }
    if !(1..=engine.max_batch()).contains(&args.batch) {
        bail!("expected --batch to be 1 to {}, found {}", engine.max_batch(), args.batch);
    }
    let mut states = vec![StepState::default(); args.batch];
    let mut t = 0u32;
    let measured = measure(args, || {
        t += 1;
        let numbers = args.batch * JOINTS * engine.channels();
        let input: Vec<f32> = (0..numbers).map(|i| 0.5 * (i as f32 * 0.37 + t as f32 * 0.1).sin()).collect();
        let mut states: Vec<&mut StepState> = states.iter_mut().collect();
        Ok(engine.advance(&input, &mut states).map(drop)?)
    })?;
    Ok(report(args, &[args.batch, 1, JOINTS, engine.channels()], &measured, setting))
}

/// Calls back to back.
struct Measured {
    latencies: Latencies,
    first_ms: f64,
    calls: u64,
    elapsed_s: f64,
}

fn measure(args: &BenchArgs, mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Measured> {
    let start = Instant::now();
    call()?;
    let first_ms = start.elapsed().as_secs_f64() * 1e3;
    let warm_until = Instant::now() + Duration::from_secs_f64(args.warm_up);
    while Instant::now() < warm_until {
        call()?;
    }
    let mut latencies = Latencies::default();
    let (start, mut calls) = (Instant::now(), 0u64);
    while start.elapsed().as_secs_f64() < args.seconds {
        let one = Instant::now();
        call()?;
        latencies.add(one.elapsed().as_secs_f64());
        calls += 1;
    }
    Ok(Measured { latencies, first_ms, calls, elapsed_s: start.elapsed().as_secs_f64() })
}

fn report(args: &BenchArgs, shape: &[usize; 4], measured: &Measured, setting: &Setting) -> Report {
    let Measured { latencies, first_ms, calls, elapsed_s } = measured;
    let frames = shape[1];
    let clips_per_s = *calls as f64 * args.batch as f64 / elapsed_s;
    let (memory_text, memory) = setting.memory();
    let ms = latencies.percentiles_ms();
    let text = format!(
        "{} on {}: input {shape:?}, {calls} calls in {elapsed_s:.1} s\n\
         a call: p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms; the first one {first_ms:.1} ms\n\
         {clips_per_s:.1} clips/s, {:.0} frames/s\n{memory_text}",
        args.model.display(),
        setting.place(),
        ms[0],
        ms[1],
        ms[2],
        clips_per_s * frames as f64,
    );
    let json = json!({
        "model": args.model, "device": setting.device, "binding": setting.binding.to_string(), "cuda_graph": setting.cuda_graph, "threads": setting.threads, "input_shape": shape,
        "calls": calls, "seconds": elapsed_s, "first_ms": first_ms,
        "p50_ms": ms[0], "p95_ms": ms[1], "p99_ms": ms[2],
        "clips_per_s": clips_per_s, "frames_per_s": clips_per_s * frames as f64, "memory": memory,
    });
    (text, json.to_string())
}

/// One camera: frames are taken at a steady rate and arrive late, in bursts after a stall.
struct Camera {
    core: StreamCore,
    /// When the next frame is taken and when it arrives, seconds since the start.
    next_s: f64,
    arrives_s: f64,
    stalled_until_s: f64,
    random: Random,
    /// (Time stamp, arrival) of frames that no pose has been made of yet.
    arrived: VecDeque<(f64, f64)>,
}

impl Camera {
    fn schedule(&mut self, interval_s: f64, args: &BenchArgs) {
        self.next_s += interval_s;
        if self.next_s >= self.stalled_until_s && self.random.uniform() < args.stalls / 60.0 * interval_s {
            self.stalled_until_s = self.next_s + STALL_S;
        }
        let late_s = self.random.uniform() * args.jitter / 1e3;
        let arrives_s = if self.next_s < self.stalled_until_s { self.stalled_until_s } else { self.next_s + late_s };
        self.arrives_s = arrives_s.max(self.arrives_s);
    }

    /// When the newest frame of a pose arrived.
    fn arrival_of(&mut self, newest_s: f64) -> Option<f64> {
        while self.arrived.front().is_some_and(|frame| frame.0 < newest_s - 1e-9) {
            self.arrived.pop_front();
        }
        self.arrived.front().map(|frame| frame.1)
    }
}

/// Streams paced by the clock. A pose's latency counts from the moment when its newest frame arrived, or should have: work that is
/// late makes the frames behind it late too, and that is counted.
fn live(args: &BenchArgs, streams: usize, engine: AnyEngine, setting: &Setting) -> anyhow::Result<Report> {
    if !(1..=MOST_STREAMS).contains(&streams) {
        bail!("expected 1 to {MOST_STREAMS} streams, found {streams}");
    }
    for (what, value, most) in [("--jitter", args.jitter, 1e4), ("--stalls", args.stalls, 1e4)] {
        if !(0.0..=most).contains(&value) {
            bail!("expected {what} to be 0 to {most}, found {value}");
        }
    }
    // a file that does not say its rate is taken to have the streams' own
    let assumed_fps = if engine.metadata().is_none() { args.fps.map(|fps| fps as f32) } else { None };
    let assumptions = Assumptions { frames: args.frames, fps: assumed_fps, normalisation: None };
    let lifter = Lifter::new(engine, &assumptions)?;
    let options = StreamOptions { look_ahead: args.look_ahead, hop: args.hop, ..Default::default() };
    let first = lifter.stream_core(trial::IMAGE, options)?;
    let look_ahead = (first.delay_s() * first.model().fps).round() as usize + 1 - args.hop;
    let fps = args.fps.unwrap_or(first.model().fps);
    if !(fps > 0.0 && fps <= 1000.0) {
        bail!("expected --fps above 0, up to 1000, found {fps}");
    }
    let interval_s = 1.0 / fps;
    let camera = |i: usize| {
        let next_s = interval_s * i as f64 / streams as f64; // their shutters are spread evenly
        let random = Random(0x9e37_79b9_7f4a_7c15 ^ (i as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        Camera { core: first.clone(), next_s, arrives_s: next_s, stalled_until_s: 0.0, random, arrived: VecDeque::new() }
    };
    let mut cameras: Vec<Camera> = (0..streams).map(camera).collect();

    let (mut latencies, mut late, mut poses, mut windows, mut rounds) = (Latencies::default(), 0u64, 0u64, 0u64, 0u64);
    let (mut busy_s, mut failure) = (0.0, None);
    let end_s = args.warm_up + args.seconds;
    let start = Instant::now();
    loop {
        let now_s = start.elapsed().as_secs_f64();
        if now_s >= end_s || failure.is_some() {
            break;
        }
        let mut due: Vec<usize> = Vec::new();
        for (i, camera) in cameras.iter_mut().enumerate() {
            while camera.arrives_s <= now_s {
                camera.core.push(camera.next_s, Some(&trial::walker(camera.next_s, i as f64)))?;
                camera.arrived.push_back((camera.next_s, camera.arrives_s));
                camera.schedule(interval_s, args);
            }
            if camera.core.is_due() {
                due.push(i);
            }
        }
        if due.is_empty() {
            let next_s = cameras.iter().map(|camera| camera.arrives_s).fold(end_s, f64::min);
            std::thread::sleep(Duration::from_secs_f64((next_s - now_s).clamp(0.0, 0.1)));
            continue;
        }
        let work_s = start.elapsed().as_secs_f64();
        let counted = work_s >= args.warm_up;
        let mut cores: Vec<&mut StreamCore> = Vec::with_capacity(due.len());
        let mut arrivals: Vec<Vec<(f64, f64)>> = vec![Vec::new(); due.len()];
        cores.extend(cameras.iter_mut().filter(|camera| camera.core.is_due()).map(|camera| &mut camera.core));
        let ran = run_due(&lifter, &mut cores, &mut |i, answer| match answer {
            Ok(new) => {
                let done_s = start.elapsed().as_secs_f64();
                arrivals[i].extend(new.iter().map(|pose| (pose.time_s + pose.delay_s, done_s)));
            }
            Err(error) => failure = Some(error),
        });
        for (&i, done) in due.iter().zip(&arrivals) {
            for &(newest_s, done_s) in done {
                let Some(arrived_s) = cameras[i].arrival_of(newest_s) else { continue };
                if counted {
                    poses += 1;
                    late += u64::from(done_s - arrived_s > interval_s);
                    latencies.add(done_s - arrived_s);
                }
            }
        }
        if counted {
            busy_s += start.elapsed().as_secs_f64() - work_s;
            windows += ran as u64;
            rounds += 1;
        }
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    if poses == 0 {
        bail!("no pose came within {} s: give more --seconds", args.seconds);
    }
    let seconds = start.elapsed().as_secs_f64() - args.warm_up;
    let dropped: u64 = cameras.iter().map(|camera| camera.core.stats().dropped).sum();
    let expected = streams as f64 * fps * seconds;
    let (memory_text, memory) = setting.memory();
    let ms = latencies.percentiles_ms();
    let text = format!(
        "{} on {}: {streams} streams at {fps} frames/s, look-ahead {}, hop {}, jitter {} ms, {} stalls a minute, {seconds:.1} s\n\
         from a frame's arrival to the pose that it completes: p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms; \
         {:.2} % took longer than a frame ({:.1} ms)\n\
         {:.0} poses/s of {:.0} expected, {dropped} frames dropped; {:.1} runs of the model a batch; busy {:.0} % of the time\n{memory_text}",
        args.model.display(),
        setting.place(),
        look_ahead,
        args.hop,
        args.jitter,
        args.stalls,
        ms[0],
        ms[1],
        ms[2],
        100.0 * late as f64 / poses as f64,
        1e3 * interval_s,
        poses as f64 / seconds,
        expected / seconds,
        windows as f64 / rounds.max(1) as f64,
        100.0 * busy_s / seconds,
    );
    let json = json!({
        "model": args.model, "device": setting.device, "binding": setting.binding.to_string(), "cuda_graph": setting.cuda_graph, "threads": setting.threads, "streams": streams, "fps": fps,
        "look_ahead": look_ahead, "hop": args.hop, "jitter_ms": args.jitter, "stalls_per_minute": args.stalls, "seconds": seconds,
        "p50_ms": ms[0], "p95_ms": ms[1], "p99_ms": ms[2], "late_share": late as f64 / poses as f64,
        "poses": poses, "poses_per_s": poses as f64 / seconds, "expected_poses_per_s": expected / seconds, "dropped": dropped,
        "windows_per_batch": windows as f64 / rounds.max(1) as f64, "busy_share": busy_s / seconds, "memory": memory,
    });
    Ok((text, json.to_string()))
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    /// 0..1.
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Times of many calls, at a bounded cost of memory.
#[derive(Default)]
struct Latencies {
    seconds: Vec<f64>,
    /// One of so many is kept; 0 and 1 = all.
    every: u64,
    seen: u64,
}

impl Latencies {
    fn add(&mut self, seconds: f64) {
        self.seen += 1;
        if self.seen.is_multiple_of(self.every.max(1)) {
            self.seconds.push(seconds);
        }
        if self.seconds.len() >= MOST_LATENCIES {
            let mut keep = false;
            self.seconds.retain(|_| {
                keep = !keep;
                keep
            });
            self.every = self.every.max(1) * 2;
        }
    }

    /// p50, p95, p99, milliseconds.
    fn percentiles_ms(&self) -> [f64; 3] {
        let mut sorted = self.seconds.clone();
        [0.5, 0.95, 0.99].map(|q| 1e3 * pose::smooth::quantile(&mut sorted, q))
    }
}
