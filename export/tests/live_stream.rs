//! A stream of a live model is its clip: pixels and time stamps in, frame by frame, against the sequence graph over the whole; on both
//! engines, many streams in a batch, joining and leaving. And no frame's pose depends on what comes later than the look-ahead.

mod common;

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use common::drawn_live_weights;
use export::{lifter, live::Form};
use formats::Value;
use network::{Checkpoint, LiveConfig, ModelConfig, Overrides};
use pose::{ImageSize, Keypoint, KeypointClip, Keypoints17, metadata::ModelMetadata, normalise::Normalisation};
use proptest::prelude::*;
use prost::Message as _;
use runtime::{Backend, EngineOptions, LiftOptions, LiftStream, LiftedClip, Lifter, StreamCore, StreamOptions, StreamPose, run_due};

const IMAGE: ImageSize = ImageSize { width_px: 1280, height_px: 720 };
const LOOK_AHEADS: [usize; 2] = [0, 3];
const FPS: f64 = 30.0;

/// One model as a sequence and as a step, on one engine, with one look-ahead.
struct Pair {
    sequence: Lifter,
    step: Arc<Lifter>,
    what: String,
}

static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let config = LiveConfig {
        n_layers: 2,
        dim_feat: 16,
        dim_rep: 24,
        num_heads: 4,
        d_state: 8,
        look_aheads: LOOK_AHEADS.to_vec(),
        ..LiveConfig::xs()
    };
    let checkpoint = checkpoint(&config);
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = Vec::new();
    for backend in [Backend::Ort, Backend::Tract] {
        for look_ahead in LOOK_AHEADS {
            let open = |form: Form| {
                let mut metadata = lifter::metadata(&checkpoint, "tiny", form).unwrap();
                metadata.look_ahead = look_ahead;
                let path = folder.path().join(format!("{look_ahead}-{form:?}.onnx"));
                write(&path, &lifter::model(&checkpoint, &metadata, form).unwrap());
                Lifter::open(&path, &EngineOptions { backend, threads: 1, ..Default::default() }).unwrap()
            };
            let what = format!("{backend}, look-ahead {look_ahead}");
            pairs.push(Pair { sequence: open(Form::Sequence), step: Arc::new(open(Form::Step)), what });
        }
    }
    pairs
});

fn write(path: &Path, model: &export::onnx::proto::ModelProto) {
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

fn checkpoint(config: &LiveConfig) -> Checkpoint {
    let metadata = ModelMetadata {
        format: ModelMetadata::FORMAT,
        name: "tiny".into(),
        architecture: "live".into(),
        config_toml: String::new(),
        skeleton: ModelMetadata::SKELETON.into(),
        frames: 32,
        frames_dynamic: true,
        causal: true,
        look_ahead: 0,
        dim_in: 3,
        normalisation: Normalisation::PersonBox,
        fps: FPS as f32,
        output: ModelMetadata::OUTPUT.into(),
        parameters: 0,
        trained_on: "nothing".into(),
        licence: "MIT OR Apache-2.0".into(),
        has_top_k_graph: false,
    };
    let record = Checkpoint::own_record(&ModelConfig::from(config.clone()), &serde_json::to_string(&metadata).unwrap()).unwrap();
    let file = Value::dict([("model", drawn_live_weights(config).to_value()), ("poselift", record)]);
    Checkpoint::from_value(file, &Overrides::default()).unwrap()
}

/// Someone who walks through the picture.
fn person(time_s: f64, who: usize) -> Keypoints17 {
    std::array::from_fn(|j| {
        let (j, t) = (j as f32, time_s as f32 + 0.7 * who as f32);
        let x_px = 400.0 + 60.0 * t + 12.0 * (j * 1.3).cos() * 5.0 + 25.0 * (2.1 * t + j).sin();
        let y_px = 200.0 + 20.0 * j + 15.0 * (3.0 * t + 0.5 * j).cos();
        Keypoint::new(x_px, y_px, 0.5 + 0.4 * (j + t).sin())
    })
}

/// Frames at irregular times, with joints and whole people missing.
#[derive(Clone, Debug)]
struct Filmed {
    times_s: Vec<f64>,
    frames: Vec<Option<Keypoints17>>,
}

impl Filmed {
    fn clip(&self) -> KeypointClip {
        let frames = self.frames.iter().map(|frame| frame.unwrap_or([Keypoint::MISSING; 17])).collect();
        KeypointClip { frames, times_s: self.times_s.clone(), image: IMAGE }
    }
}

/// Cameras of 20 to 70 frames a second, dropped frames, hidden joints, people gone for up to a second.
fn filmed(most: usize) -> impl Strategy<Value = Filmed> {
    let frame = (0.8f64..1.25, 0u8..40, 0u32..1 << 17, 0u8..30);
    (14.0f64..50.0, 0usize..5, prop::collection::vec(frame, 2..most)).prop_map(|(interval_ms, who, frames)| {
        let mut time_s = 100.0;
        let (mut times_s, mut seen, mut gone) = (Vec::new(), Vec::new(), 0);
        for (i, (jitter, pause, hidden, leaves)) in frames.into_iter().enumerate() {
            time_s += interval_ms / 1e3 * jitter * if pause == 0 { 5.0 } else { 1.0 };
            if leaves == 0 && i > 0 {
                gone = 2 + (hidden % 30) as usize;
            }
            let mut keypoints = person(time_s, who);
            // a few joints are missing now and then
            if hidden % 4 == 0 {
                (0..17).filter(|j| hidden >> j & 1 == 1 && j % 3 == 0).for_each(|j| keypoints[j] = Keypoint::MISSING);
            }
            times_s.push(time_s);
            seen.push((gone == 0).then_some(keypoints));
            gone = gone.saturating_sub(1);
        }
        Filmed { times_s, frames: seen }
    })
}

/// Largest difference of pixels, relative to the box, between a stream's poses and the clip's at the same times.
fn apart(poses: &[StreamPose], lifted: &LiftedClip) -> f32 {
    let mut worst = 0f32;
    for pose in poses {
        let t = lifted.times_s.iter().position(|&time_s| time_s == pose.time_s).expect("a pose goes with a frame");
        let of_clip = lifted.pose25[t].as_flattened().iter().zip(pose.pose25.as_flattened());
        worst = of_clip.map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        let (a, b) = (lifted.transforms[t], pose.transform);
        let boxes = [(a.centre_px[0], b.centre_px[0]), (a.centre_px[1], b.centre_px[1]), (a.half_size_px, b.half_size_px)];
        worst = boxes.iter().map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(worst, f32::max);
    }
    worst
}

fn push_all(stream: &mut LiftStream, filmed: &Filmed) -> Vec<StreamPose> {
    let mut poses = Vec::new();
    for (&time_s, frame) in filmed.times_s.iter().zip(&filmed.frames) {
        poses.extend(stream.push(time_s, frame.as_ref()).unwrap());
    }
    poses.extend(stream.finish().unwrap());
    poses
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_stream_is_its_clip(filmed in filmed(70)) {
        for pair in &*PAIRS {
            let lifted = pair.sequence.lift(&filmed.clip(), &LiftOptions::default()).unwrap();
            let mut stream = LiftStream::new(pair.step.clone(), IMAGE, StreamOptions::default()).unwrap();
            let poses = push_all(&mut stream, &filmed);
            let stats = stream.core().stats();
            prop_assert_eq!(stats.frames, stats.poses, "{}: every frame with a person has a pose", &pair.what);
            prop_assert_eq!(stats.frames + stats.empty, filmed.times_s.len() as u64);
            let apart = apart(&poses, &lifted);
            prop_assert!(apart < 1e-4, "{}: stream and clip differ by {:.1e}", pair.what, apart);
            // and the step graph over a clip is the sequence graph
            let stepped = pair.step.lift(&filmed.clip(), &LiftOptions::default()).unwrap();
            let largest = |a: &LiftedClip, b: &LiftedClip| {
                a.pose25.as_flattened().as_flattened().iter().zip(b.pose25.as_flattened().as_flattened()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            prop_assert!(largest(&stepped, &lifted) < 1e-4);
        }
    }

    #[test]
    fn streams_join_and_leave_a_batch(people in prop::collection::vec((filmed(40), 0usize..30), 2..7)) {
        for pair in &*PAIRS {
            let lifted: Vec<LiftedClip> =
                people.iter().map(|(filmed, _)| pair.sequence.lift(&filmed.clip(), &LiftOptions::default()).unwrap()).collect();
            let mut cores: Vec<StreamCore> =
                people.iter().map(|_| pair.step.stream_core(IMAGE, StreamOptions::default()).unwrap()).collect();
            let mut poses: Vec<Vec<StreamPose>> = vec![Vec::new(); people.len()];
            let last = people.iter().map(|(filmed, start)| filmed.times_s.len() + start).max().unwrap();
            for tick in 0..=last {
                for ((filmed, start), core) in people.iter().zip(&mut cores) {
                    let Some(t) = tick.checked_sub(*start) else { continue };
                    match filmed.frames.get(t) {
                        Some(frame) => core.push(filmed.times_s[t], frame.as_ref()).unwrap(),
                        None if t == filmed.frames.len() => core.finish(),
                        None => {}
                    }
                }
                let mut all: Vec<&mut StreamCore> = cores.iter_mut().collect();
                run_due(&pair.step, &mut all, &mut |i, answer| poses[i].extend(answer.unwrap()));
            }
            for (i, (poses, lifted)) in poses.iter().zip(&lifted).enumerate() {
                prop_assert!(!poses.is_empty());
                let apart = apart(poses, lifted);
                prop_assert!(apart < 1e-4, "{}: stream {i} of {} and its clip differ by {:.1e}", pair.what, people.len(), apart);
            }
        }
    }

    #[test]
    fn no_future(filmed in filmed(60), cut in 1usize..60) {
        let cut = cut.min(filmed.times_s.len() - 1);
        // other people, and other times, from there on
        let mut changed = filmed.clone();
        for t in cut..changed.times_s.len() {
            changed.times_s[t] += 0.011 * (t - cut + 1) as f64;
            changed.frames[t] = Some(person(50.0 + t as f64, 3));
        }
        for pair in &*PAIRS {
            let poses = |filmed: &Filmed| {
                let mut stream = LiftStream::new(pair.step.clone(), IMAGE, StreamOptions::default()).unwrap();
                let mut poses = Vec::new();
                for (&time_s, frame) in filmed.times_s[..].iter().zip(&filmed.frames) {
                    poses.extend(stream.push(time_s, frame.as_ref()).unwrap());
                }
                poses
            };
            // made of frames before the cut alone, by what it says itself
            let before = |poses: Vec<StreamPose>, cut_s: f64| -> Vec<StreamPose> {
                poses.into_iter().take_while(|pose| pose.time_s + pose.delay_s < cut_s).collect()
            };
            let cut_s = filmed.times_s[cut];
            prop_assert_eq!(before(poses(&filmed), cut_s), before(poses(&changed), cut_s), "{}", &pair.what);
        }
    }
}

/// The look-ahead is the model's own, and its delay is told.
#[test]
fn the_delay_is_that_of_the_look_ahead() {
    for pair in &*PAIRS {
        let mut stream = LiftStream::new(pair.step.clone(), IMAGE, StreamOptions::default()).unwrap();
        let look_ahead = pair.step.look_ahead();
        assert!((stream.core().delay_s() - look_ahead as f64 / FPS).abs() < 1e-9);
        for t in 0..40 {
            let time_s = f64::from(t) / FPS;
            let poses = stream.push(time_s, Some(&person(time_s, 0))).unwrap();
            assert_eq!(poses.len(), usize::from(t as usize >= look_ahead), "{}, frame {t}", pair.what);
            assert!(poses.iter().all(|pose| (pose.delay_s - look_ahead as f64 / FPS).abs() < 1e-9));
        }
        assert_eq!(stream.finish().unwrap().len(), look_ahead);
    }
}

#[test]
fn what_a_live_model_cannot_do_is_said() {
    let pair = &PAIRS[1];
    let refused = |options: StreamOptions| pair.step.stream_core(IMAGE, options).unwrap_err().to_string();
    assert!(refused(StreamOptions { look_ahead: Some(5), ..Default::default() }).contains("--look-ahead 5"));
    assert!(pair.step.stream_core(IMAGE, StreamOptions { look_ahead: Some(3), ..Default::default() }).is_ok());
    assert!(refused(StreamOptions { hop: 2, ..Default::default() }).contains("every frame"));
    assert!(refused(StreamOptions { flip: true, ..Default::default() }).contains("flip"));
    let whole = pair.sequence.stream_core(IMAGE, StreamOptions::default()).unwrap_err().to_string();
    assert!(whole.contains("export onnx --step"), "{whole}");
}

/// A stream that is fed faster than the engine runs stays bounded, and goes on.
#[test]
fn a_starved_stream_stays_bounded() {
    let pair = &PAIRS[0];
    let mut core = pair.step.stream_core(IMAGE, StreamOptions::default()).unwrap();
    for t in 0..5000 {
        let time_s = f64::from(t) / FPS;
        core.push(time_s, Some(&person(time_s, 0))).unwrap();
    }
    let mut poses = Vec::new();
    let ran = run_due(&pair.step, &mut [&mut core], &mut |_, answer| poses.extend(answer.unwrap()));
    assert_eq!(ran, runtime::MAX_WINDOWS_WAITING);
    let stats = core.stats();
    assert_eq!((stats.poses + stats.dropped, stats.poses), (5000, poses.len() as u64));
    assert!(poses.windows(2).all(|pair| pair[0].time_s < pair[1].time_s) && poses.len() < 400);
    core.push(1000.0, Some(&person(0.0, 1))).unwrap();
    assert_eq!(run_due(&pair.step, &mut [&mut core], &mut |_, answer| assert!(answer.unwrap()[0].restarted)), 1);
}
