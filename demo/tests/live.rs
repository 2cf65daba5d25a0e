//! Live sessions with a fake camera: a clip of painted people, a detector that finds painted people (`data/make_detectors.py`), and the live
//! model that the repository ships.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use demo::detect::{self, Detected, Detector, Expected};
use demo::live::{Error, LiveUpdate, Settings, Sink, Source, Summary, Watch, Who, run};
use demo::room::Room;
use opencv::core::{CV_8UC3, Mat, MatTraitConst as _, Point, Scalar, Size};
use opencv::imgproc;
use opencv::videoio::{self, VideoWriterTrait as _, VideoWriterTraitConst as _};
use pose::filter::OneEuro;
use pose::joint_map::Source as Joints;
use runtime::{EngineOptions, Lifter};

const WIDTH: i32 = 640;
const HEIGHT: i32 = 480;
const FPS: f64 = 25.0;
/// How fast the painted people walk to the right.
const SPEED_PX_S: f64 = 60.0;

/// COCO's keypoints of somebody who stands, pixels around the middle of the hips.
const STANDING: [[i32; 2]; 17] = [
    [0, -148],
    [17, -166],
    [-17, -166],
    [36, -156],
    [-36, -156],
    [38, -120],
    [-38, -120],
    [58, -62],
    [-58, -62],
    [66, -8],
    [-66, -8],
    [24, 0],
    [-24, 0],
    [28, 88],
    [-28, 88],
    [30, 170],
    [-30, 170],
];

/// As in `make_detectors.py`.
fn colour(person: usize, joint: usize) -> Scalar {
    let levels = [25.0, 95.0, 165.0, 235.0];
    let all: Vec<[f64; 3]> = (0..64)
        .map(|i| [levels[i / 16], levels[i / 4 % 4], levels[i % 4]])
        .filter(|[red, green, blue]| !(red == green && green == blue))
        .collect();
    let [red, green, blue] = all[17 * person + joint];
    Scalar::new(blue, green, red, 0.0)
}

/// Middle of a person's hips.
fn middle(person: usize, time_s: f64) -> [f64; 2] {
    [140.0 + 220.0 * person as f64 + SPEED_PX_S * time_s, 245.0 + 12.0 * person as f64]
}

/// A clip without loss of so many seconds with these people in it.
fn clip(folder: &Path, seconds: f64, people: &[usize]) -> PathBuf {
    let path = folder.join("people.avi");
    let fourcc = videoio::VideoWriter::fourcc('F', 'F', 'V', '1').expect("a code");
    let mut writer =
        videoio::VideoWriter::new_with_backend(&path, videoio::CAP_FFMPEG, fourcc, FPS, Size::new(WIDTH, HEIGHT), true).expect("a writer");
    assert!(writer.is_opened().expect("an answer"), "OpenCV writes FFV1");
    for i in 0..(seconds * FPS).round() as usize {
        let mut frame = Mat::new_size_with_default(Size::new(WIDTH, HEIGHT), CV_8UC3, Scalar::all(0.0)).expect("a frame");
        for &person in people {
            let [x, y] = middle(person, i as f64 / FPS);
            for (joint, [dx, dy]) in STANDING.into_iter().enumerate() {
                let at = Point::new(x.round() as i32 + dx, y.round() as i32 + dy);
                imgproc::circle(&mut frame, at, 7, colour(person, joint), -1, imgproc::LINE_8, 0).expect("a disc");
            }
        }
        writer.write(&frame).expect("a frame");
    }
    writer.release().expect("a file");
    path
}

/// One session at a time: they run in real time, and would slow each other down.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn detector() -> Box<dyn Detector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/detect-live.onnx");
    detect::open(&path, &detect::Options { threads: 1, ..Default::default() }).expect("a detector")
}

fn lifter() -> Arc<Lifter> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/live-xs.step.onnx");
    Arc::new(Lifter::open(path, &EngineOptions { threads: 1, ..EngineOptions::default() }).expect("the shipped model"))
}

fn settings(source: &str, who: Who) -> Settings {
    Settings {
        source: source.parse().expect("a source"),
        watch: Watch { size: None, patience: Duration::from_millis(600), attempts: 0 },
        who,
        heights_m: Vec::new(),
        room: Room::default(),
        one_euro: Some(OneEuro::default()),
    }
}

/// Keeps every update.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<LiveUpdate>>>);

impl Sink for Kept {
    fn update(&mut self, update: &LiveUpdate, frame: &Mat) -> std::io::Result<()> {
        assert_eq!((frame.cols(), frame.rows()), (WIDTH, HEIGHT));
        self.0.lock().expect("a list").push(update.clone());
        Ok(())
    }
}

impl Kept {
    fn take(&self) -> Vec<LiveUpdate> {
        std::mem::take(&mut self.0.lock().expect("a list"))
    }
}

fn go(settings: &Settings, detector: &mut dyn Detector, stop: &AtomicBool) -> (Result<Summary, Error>, Vec<LiveUpdate>) {
    let kept = Kept::default();
    let result = run(settings, detector, lifter(), &mut [Box::new(kept.clone())], stop);
    (result, kept.take())
}

#[test]
fn everyone_before_a_fake_camera_is_lifted() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let clip = clip(folder.path(), 2.0, &[0, 1]);
    let settings = settings(&format!("fake:{}", clip.display()), Who::All { most: 4 });
    let start = Instant::now();
    let (summary, updates) = go(&settings, &mut *detector(), &AtomicBool::new(false));
    let summary = summary.expect("a session");
    assert!(start.elapsed() >= Duration::from_millis(1900), "a camera does not hurry: {:?}", start.elapsed());
    assert_eq!((summary.people, summary.frames), (2, updates.len() as u64), "every frame that is worked on is told of, the last ones too");
    assert_eq!(summary.frames + summary.dropped, 50);
    assert_eq!(summary.detector, "detect-live");
    assert!(summary.frames >= 6, "{summary:?}");

    assert!(updates.windows(2).all(|pair| pair[0].time_s < pair[1].time_s), "in the order of time");
    let with_both = updates.iter().filter(|update| update.people.len() == 2).count();
    assert!(with_both * 2 >= updates.len(), "{with_both} of {}", updates.len());
    for update in &updates {
        for person in &update.people {
            // Ids are in the order of appearance, which is the same for both: tell them apart by their place.
            let hips = person.keypoints_px[0];
            let off = |who: usize| (f64::from(hips[0]) - middle(who, update.time_s)[0]).abs();
            let who = usize::from(off(1) < off(0));
            // Some frames of the camera's clock (a busy machine stamps them late), and the disc's pixels.
            assert!(off(who) < 8.0 * SPEED_PX_S / FPS + 3.0, "{} s: {hips:?}", update.time_s);
            assert!(person.world_mm.iter().flatten().all(|v| v.is_finite()));
            // Somebody upright: the head over the feet, in one world.
            assert!(person.world_mm[10][2] > person.world_mm[3][2] + 1000.0, "{:?}", person.world_mm);
        }
        let Some(at) = (update.people.len() == 2).then(|| [0, 1].map(|i| update.people[i].id)) else { continue };
        assert_eq!(at, [1, 2]);
    }
    let last = updates.last().expect("an update");
    assert!(last.fps > 0.5 && last.lag_ms > 0.0 && last.delay_ms.total >= last.delay_ms.detect, "{last:?}");
    // as the page reads it
    let json = serde_json::to_value(last).expect("JSON");
    for key in ["time_s", "delay_ms", "dropped", "fps", "image", "people", "world_from_camera", "lag_ms"] {
        assert!(json.get(key).is_some(), "{key} is missing in {json}");
    }
    assert_eq!(json["image"], serde_json::json!({"width": WIDTH, "height": HEIGHT}));
    assert_eq!(json["people"][0]["world_mm"].as_array().map(Vec::len), Some(17));
}

#[test]
fn one_person_is_followed_and_a_height_is_kept() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let clip = clip(folder.path(), 2.0, &[0]);
    let source = format!("fake:{}", clip.display());
    let settings = Settings { heights_m: vec![1.9], ..settings(&source, Who::Largest) };
    let (summary, updates) = go(&settings, &mut *detector(), &AtomicBool::new(false));
    assert_eq!(summary.expect("a session").people, 1);
    let last = updates.last().and_then(|update| update.people.first()).expect("somebody");
    assert!((last.height_m - 1.9).abs() < 0.02, "{}", last.height_m);
    // nobody with another id
    let (_, updates) = go(&self::settings(&source, Who::Only { id: 2, most: 4 }), &mut *detector(), &AtomicBool::new(false));
    assert!(!updates.is_empty() && updates.iter().all(|update| update.people.is_empty()));
}

/// Stops the session at a time.
struct StopAfter {
    seconds: f64,
    stop: Arc<AtomicBool>,
}

impl Sink for StopAfter {
    fn update(&mut self, update: &LiveUpdate, _: &Mat) -> std::io::Result<()> {
        self.stop.store(update.time_s > self.seconds, Ordering::Relaxed);
        Ok(())
    }
}

/// Takes its time.
struct Slow(Box<dyn Detector>, Duration);

impl Detector for Slow {
    fn name(&self) -> String {
        "slow".to_owned()
    }
    fn joints(&self) -> Joints {
        self.0.joints()
    }
    fn detect(&mut self, frame: &Mat, time_s: f64, expected: &[Expected], most: usize) -> anyhow::Result<Vec<Detected>> {
        std::thread::sleep(self.1);
        self.0.detect(frame, time_s, expected, most)
    }
}

#[test]
fn who_is_slow_drops_frames_and_does_not_fall_behind() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let clip = clip(folder.path(), 3.0, &[0]);
    let mut slow = Slow(detector(), Duration::from_millis(200));
    let (summary, updates) = go(&settings(&format!("fake:{}", clip.display()), Who::Largest), &mut slow, &AtomicBool::new(false));
    let summary = summary.expect("a session");
    assert!(summary.dropped >= 40, "{summary:?}");
    assert!((2..=16).contains(&summary.frames), "{summary:?}");
    // Had frames queued, the last one would be told of 12 s late. Here it is the frame itself, and one before it.
    let late_ms = updates.iter().map(|update| update.delay_ms.total).fold(0.0, f32::max);
    assert!(late_ms < 3000.0, "{late_ms} ms");
    assert_eq!(updates.last().map(|update| update.dropped), Some(summary.dropped));
}

#[test]
fn a_camera_that_hangs_is_told_of_in_one_sentence() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let clip = clip(folder.path(), 1.0, &[0]);
    let start = Instant::now();
    let (result, updates) =
        go(&settings(&format!("fake-hang:{}", clip.display()), Who::Largest), &mut *detector(), &AtomicBool::new(false));
    let error = result.expect_err("an error").to_string();
    assert!(error.contains("people.avi has delivered no frame for 0.6 s") && error.lines().count() == 1, "{error}");
    assert!(start.elapsed() < Duration::from_secs(8));
    assert!(updates.len() >= 3 && updates.iter().any(|update| !update.people.is_empty()), "what came before is told");
}

#[test]
fn a_session_ends_when_it_is_told_to() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let clip = clip(folder.path(), 0.4, &[0]);
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = StopAfter { seconds: 1.0, stop: stop.clone() };
    let kept = Kept::default();
    let start = Instant::now();
    let settings = settings(&format!("fake-loop:{}", clip.display()), Who::Largest);
    let summary = run(&settings, &mut *detector(), lifter(), &mut [Box::new(kept.clone()), Box::new(stopper)], &stop);
    let updates = kept.take();
    let summary = summary.expect("a session");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(summary.seconds > 0.8, "it went round: {summary:?}");
    assert!(updates.windows(2).all(|pair| pair[0].time_s < pair[1].time_s));
}

#[test]
fn what_is_not_there_is_said_in_one_sentence() {
    let _alone = alone();
    let refuse = |source: &str| {
        let settings = Settings {
            watch: Watch { patience: Duration::from_secs(2), ..settings(source, Who::Largest).watch },
            ..settings(source, Who::Largest)
        };
        let start = Instant::now();
        let error = go(&settings, &mut *detector(), &AtomicBool::new(false)).0.expect_err("an error").to_string();
        assert!(error.lines().count() == 1 && start.elapsed() < Duration::from_secs(6), "{error} after {:?}", start.elapsed());
        error
    };
    assert!(refuse("97").contains("camera 97 cannot be opened"));
    assert!(refuse("/dev/no-such-camera").contains("/dev/no-such-camera"));
    assert!(refuse("rtsp://user:secret@127.0.0.1:9/none").contains("rtsp://***@127.0.0.1:9/none"));
    assert!(refuse("fake:absent.mp4").contains("absent.mp4"));
    assert!("clip.mp4".parse::<Source>().is_err());

    let folder = tempfile::tempdir().expect("a folder");
    let clip = clip(folder.path(), 0.2, &[0]);
    let source = format!("fake:{}", clip.display());
    let bad = |settings: Settings| go(&settings, &mut *detector(), &AtomicBool::new(false)).0.expect_err("an error").to_string();
    let settings = || settings(&source, Who::Largest);
    assert!(bad(Settings { heights_m: vec![170.0], ..settings() }).contains("170"));
    assert!(bad(Settings { room: Room { fov_deg: Some(300.0), ..Room::default() }, ..settings() }).contains("300"));
}

#[test]
fn the_program_writes_lines_and_ends_as_it_should() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let clip = clip(folder.path(), 1.0, &[0]);
    let detector = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/detect-live.onnx");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/live-xs.step.onnx");
    let demo = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_demo"));
        let output = command.args(["--detector", detector, "--model", model]).args(arguments).output().expect("the program runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let camera = |kind: &str| format!("{kind}:{}", clip.display());

    let (success, out, log) = demo(&["--camera", &camera("fake"), "--ndjson", "-"]);
    assert!(success, "{log}");
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("nothing but JSON")).collect();
    assert!(lines.len() >= 3 && lines.iter().any(|line| line["people"][0]["id"] == 1), "{out}");
    assert!(log.contains("poses of 1 person"), "the summary goes where the lines do not: {log}");

    let file = folder.path().join("lines.ndjson");
    let arguments = ["--camera", &camera("fake-hang"), "--patience", "0.5", "--ndjson", file.to_str().expect("a path"), "--json"];
    let (success, out, log) = demo(&arguments);
    assert!(!success && out.is_empty() && log.contains("has delivered no frame for 0.5 s"), "{log}");
    assert!(std::fs::read_to_string(&file).expect("a file").lines().count() >= 3, "what came before is there");

    for (arguments, expected) in [
        (vec!["--camera", "0", "--out", "x"], "--out is for clips"),
        (vec!["--video", "x.mp4", "--ndjson", "-"], "--ndjson is for live sessions"),
        (vec!["--camera", "0", "--detector-quality", "full"], "--detector-quality is BlazePose's"),
    ] {
        let (success, _, log) = demo(&arguments);
        assert!(!success && log.contains(expected), "{arguments:?}: {log}");
    }
}
