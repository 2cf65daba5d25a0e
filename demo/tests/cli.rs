//! The program from outside: what comes out of a real clip, and one clear sentence for everything that is wrong.
//!
//! Tests that need BlazePose's models or the sample clip say so and pass where they are absent (scripts/blazepose.sh and
//! scripts/clip.sh fetch them). `data/flat.onnx` is a lifter that gives depth 0: see `data/flat.py`.

#![allow(clippy::print_stdout, reason = "a test says what it skips")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use opencv::core::{CV_8UC3, Mat, MatTraitConst as _, Scalar, Size};
use opencv::videoio::{self, VideoCaptureTrait as _, VideoCaptureTraitConst as _, VideoWriterTrait as _};
use serde_json::Value;

const FLAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/flat.onnx");

fn native(path: &str, script: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.native").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is absent (scripts/{script} fetches it)", path.display());
    None
}

fn clip() -> Option<PathBuf> {
    native("blazepose/version", "blazepose.sh")?;
    native("clips/demo.mp4", "clip.sh")
}

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    demo(arguments).output().expect("the program runs")
}

/// The error, which must be one line.
fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(output.stdout.is_empty());
    error
}

/// Names in a folder, hidden ones too.
fn list(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Half a second of grey.
fn grey_video(path: &Path) {
    let size = Size::new(320, 240);
    let fourcc = videoio::VideoWriter::fourcc('a', 'v', 'c', '1').expect("a code");
    let mut writer = videoio::VideoWriter::new(path, fourcc, 30.0, size, true).expect("a writer");
    let grey = Mat::new_size_with_default(size, CV_8UC3, Scalar::all(120.0)).expect("a picture");
    (0..15).for_each(|_| writer.write(&grey).expect("a frame"));
    writer.release().expect("a file");
}

/// A standing person as H36M keypoints, `frames` times, waving the left hand.
fn keypoint_file(path: &Path, frames: usize, joints: usize) {
    let person = [
        [320., 240.],
        [300., 240.],
        [300., 330.],
        [300., 410.],
        [340., 240.],
        [340., 330.],
        [340., 410.],
        [320., 195.],
        [320., 150.],
        [320., 130.],
        [320., 105.],
        [352., 150.],
        [375., 190.],
        [390., 225.],
        [288., 150.],
        [265., 190.],
        [250., 225.],
    ];
    let frame = |t: usize| {
        let mut joints: Vec<Value> = person.iter().take(joints).map(|[x, y]| serde_json::json!([x, y, 0.9])).collect();
        if let Some(hand) = joints.get_mut(13) {
            *hand = serde_json::json!([390.0, 225.0 - 40.0 * (t as f64 * 0.2).sin(), 0.9]);
        }
        Value::Array(joints)
    };
    let frames: Vec<Value> = (0..frames).map(frame).collect();
    let file = serde_json::json!({
        "format": "poselift-keypoints/1", "skeleton": "h36m17", "image": {"width": 640, "height": 480}, "fps": 25, "frames": frames
    });
    std::fs::write(path, file.to_string()).expect("a file");
}

fn str(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

#[test]
fn a_clip_becomes_a_film_and_two_files() {
    let Some(clip) = clip() else { return };
    let out = tempfile::tempdir().expect("a folder");
    let arguments = ["--video", str(&clip), "--model", FLAT, "--out", str(out.path()), "--start", "0.5", "--duration", "1", "--json"];
    let output = run(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(list(out.path()), ["demo.3d.json", "demo.3d.mp4", "demo.3d.npz"]);

    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!(summary["frames"], 30);
    assert_eq!(summary["frames_seen"], 30);
    assert_eq!(summary["detector"], "blazepose-heavy");
    assert_eq!(summary["scale_source"], "default_height");
    assert!(summary["stage_fps"]["detect"].as_f64().expect("a rate") > 0.0);

    // The film: H.264 at the clip's rate, as long as the section.
    let mut film = videoio::VideoCapture::from_file(out.path().join("demo.3d.mp4"), videoio::CAP_FFMPEG).expect("a film");
    let get = |film: &videoio::VideoCapture, property| film.get(property).expect("a property");
    assert_eq!(get(&film, videoio::CAP_PROP_FPS), 30.0);
    assert_eq!(get(&film, videoio::CAP_PROP_FRAME_COUNT), 30.0);
    assert_eq!((get(&film, videoio::CAP_PROP_FOURCC) as u32).to_le_bytes(), *b"avc1");
    let mut frame = Mat::default();
    assert!(film.read(&mut frame).expect("a frame"));
    assert_eq!((frame.cols(), frame.rows()), (2000, 720));

    // The JSON is also what `runtime` reads, and agrees with the NPZ.
    let json_path = out.path().join("demo.3d.json");
    let lifted = runtime::LiftedClip::read_json(&json_path).expect("a lifted clip");
    let json: Value = serde_json::from_slice(&std::fs::read(&json_path).expect("a file")).expect("JSON");
    assert_eq!(json["frame"].as_array().expect("a list").len(), 30);
    assert!((json["times_s"][0].as_f64().expect("a time") - 0.5).abs() < 1e-3);
    let npz = formats::npz::read_values(&out.path().join("demo.3d.npz")).expect("an NPZ");
    let array = |name: &str| npz[name].as_tensor().unwrap_or_else(|| panic!("{name}"));
    assert_eq!(array("camera_mm").to_f32(), pose::values_from_poses(&lifted.camera_mm));
    assert_eq!(array("keypoints_px").shape, [30, 17, 2]);
    assert_eq!(array("person_found").shape, [30]);

    // The man faces the camera: his left is at the picture's right, his head above his feet, his ankles near the floor.
    let (keypoints, world) = (array("keypoints_px").to_f32(), array("world_mm").to_f32());
    let keypoint = |joint: usize, axis: usize| keypoints[joint * 2 + axis];
    assert!(keypoint(11, 0) > keypoint(14, 0) + 10.0, "shoulders");
    assert!(keypoint(10, 1) + 100.0 < keypoint(3, 1), "head and foot");
    assert!(world[10 * 3 + 2] > 1400.0 && world[3 * 3 + 2].abs() < 400.0, "head and ankle over the floor");
}

/// He somersaults from a roof while a woman walks by, and the detector loses him in the air.
#[test]
fn the_tracker_stays_with_one_person() {
    let Some(clip) = clip() else { return };
    let out = tempfile::tempdir().expect("a folder");
    let arguments =
        ["--video", str(&clip), "--model", FLAT, "--out", str(out.path()), "--duration", "7", "--detector-quality", "full", "--no-video"];
    let output = run(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(list(out.path()), ["demo.3d.json", "demo.3d.npz"]);
    let file = std::fs::read(out.path().join("demo.3d.json")).expect("a file");
    let json: Value = serde_json::from_slice(&file).expect("JSON");
    let hip_at = |time_s: f64| {
        let times = json["times_s"].as_array().expect("times");
        let t = times.iter().position(|t| t.as_f64().expect("a time") >= time_s - 1e-3).expect("a frame at that time");
        let number = |axis: usize| json["keypoints_px"][t][0][axis].as_f64().expect("a pixel");
        [number(0), number(1)]
    };
    // On the roof, in the air, on the ground; she walks from right to left at a height of 630 and is at x = 400 at 6.5 s.
    for (time_s, [x, y]) in [(1.0, [640.0, 270.0]), (5.0, [775.0, 260.0]), (6.5, [1055.0, 808.0])] {
        let [found_x, found_y] = hip_at(time_s);
        assert!((found_x - x).hypot(found_y - y) < 60.0, "{time_s} s: {found_x} {found_y}");
    }
    let seen = json["person_found"].as_array().expect("flags").iter().filter(|flag| flag.as_bool() == Some(true)).count();
    assert!(seen >= 195, "seen in {seen} of 210 frames");
}

#[test]
fn keypoints_need_no_detector() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wave.json");
    keypoint_file(&file, 60, 17);
    let output = run(&["--keypoints", str(&file), "--model", FLAT, "--height", "1.9", "--flip"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(list(folder.path()), ["wave.3d.json", "wave.3d.mp4", "wave.3d.npz", "wave.json"]);
    let json: Value = serde_json::from_slice(&std::fs::read(folder.path().join("wave.3d.json")).expect("a file")).expect("JSON");
    assert_eq!(json["scale_source"], "height");
    assert_eq!(json["fps"], 25.0);
    assert_eq!(json["frames_without_person"], serde_json::json!([]));
}

#[test]
fn wrong_videos_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text.mp4");
    std::fs::write(&text, "this is no video at all\n".repeat(100)).expect("a file");
    let empty = folder.path().join("empty.mp4");
    std::fs::write(&empty, "").expect("a file");
    let absent = folder.path().join("absent.mp4");
    for (path, sentence) in [(&absent, "cannot read the video"), (&text, "is not a video"), (&empty, "is not a video")] {
        let error = refusal(&["--video", str(path), "--model", FLAT]);
        assert!(error.contains(sentence) && error.contains(str(path)), "{error}");
    }
    let error = refusal(&["--video", str(folder.path()), "--model", FLAT]);
    assert!(error.contains("is not a video"), "{error}");
    assert_eq!(list(folder.path()), ["empty.mp4", "text.mp4"], "nothing was written");
}

#[test]
fn a_video_without_a_person_is_said_to_be_one() {
    if native("blazepose/version", "blazepose.sh").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let video = folder.path().join("grey.mp4");
    grey_video(&video);
    let error = refusal(&["--video", str(&video), "--model", FLAT, "--detector-quality", "lite"]);
    assert!(error.contains("no person was found in any of the 15 frames"), "{error}");
    let error = refusal(&["--video", str(&video), "--model", FLAT, "--detector-quality", "lite", "--start", "9"]);
    assert!(error.contains("has no frames after 9 s"), "{error}");
    assert_eq!(list(folder.path()), ["grey.mp4"], "nothing was left behind");
}

#[test]
fn wrong_keypoints_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path
    };
    let sixteen = folder.path().join("sixteen.json");
    keypoint_file(&sixteen, 3, 16);
    let none = folder.path().join("none.json");
    keypoint_file(&none, 0, 17);
    let infinite = folder.path().join("infinite.json");
    keypoint_file(&infinite, 3, 17);
    let text = std::fs::read_to_string(&infinite).expect("a file").replacen("320.0", "NaN", 1);
    std::fs::write(&infinite, text).expect("a file");
    let cases = [
        (sixteen, "16"),
        (none, "no frames"),
        (infinite, "infinite.json"),
        (file("empty.json", ""), "empty"),
        (file("text.json", "hello"), "text.json"),
        (folder.path().join("absent.json"), "absent.json"),
    ];
    for (path, word) in cases {
        let error = refusal(&["--keypoints", str(&path), "--model", FLAT]);
        assert!(error.contains(word), "{}: {error}", path.display());
    }
}

#[test]
fn wrong_models_and_settings_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let keypoints = folder.path().join("wave.json");
    keypoint_file(&keypoints, 5, 17);
    let text = folder.path().join("text.onnx");
    std::fs::write(&text, "not a model").expect("a file");
    let with = |extra: &[&str]| {
        let mut arguments = vec!["--keypoints", str(&keypoints)];
        arguments.extend_from_slice(extra);
        refusal(&arguments)
    };
    assert!(with(&["--model", str(&text)]).contains("text.onnx"));
    assert!(with(&["--model", str(&folder.path().join("absent.onnx"))]).contains("absent.onnx"));
    assert!(with(&["--model", FLAT, "--height", "17"]).contains("0.3 to 3 metres"));
    assert!(with(&["--model", FLAT, "--fov", "200"]).contains("1 to 179 degrees"));
    assert!(with(&["--model", FLAT, "--out", &format!("{}/below/a/file", str(&text))]).contains("cannot write into the folder"));
    if let Some(detector) = native("blazepose/detector.onnx", "blazepose.sh") {
        assert!(with(&["--model", str(&detector)]).contains("detector.onnx"));
    }
    assert_eq!(list(folder.path()), ["text.onnx", "wave.json"], "nothing was written");

    assert!(!run(&[]).status.success());
    assert!(!run(&["--keypoints", str(&keypoints), "--video", "a.mp4"]).status.success());
    assert!(!run(&["--keypoints", str(&keypoints), "--device", "tpu"]).status.success());
}

/// Runs the program where no file may be larger: as good as a full disk, since writes fail in the middle.
#[cfg(unix)]
fn refusal_with_file_limit(limit_bytes: usize, arguments: &[&str]) -> String {
    let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", limit_bytes / 512);
    let program = ["-c", &limited, "sh", env!("CARGO_BIN_EXE_demo")];
    let output = Command::new("sh").args(program).args(arguments).output().expect("sh");
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(!output.status.success(), "{limit_bytes} bytes were enough");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let keypoints = folder.path().join("wave.json");
    keypoint_file(&keypoints, 250, 17);
    let error = refusal_with_file_limit(32 << 10, &["--keypoints", str(&keypoints), "--model", FLAT]);
    assert!(error.contains("cannot write"), "{error}");
    assert_eq!(list(folder.path()), ["wave.json"], "nothing was left behind");
}

/// OpenCV does not say that a frame could not be written.
#[test]
#[cfg(unix)]
fn a_film_that_does_not_fit_is_noticed() {
    let Some(clip) = clip() else { return };
    let out = tempfile::tempdir().expect("a folder");
    let section = ["--start", "1", "--duration", "0.2", "--detector-quality", "lite"];
    let mut arguments = vec!["--video", str(&clip), "--model", FLAT, "--out", str(out.path())];
    arguments.extend(section);
    let error = refusal_with_file_limit(48 << 10, &arguments);
    assert!(error.contains("was not written completely"), "{error}");
    assert!(list(out.path()).is_empty(), "nothing was left behind");
}

#[test]
#[cfg(unix)]
fn an_interruption_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let keypoints = folder.path().join("wave.json");
    keypoint_file(&keypoints, 5000, 17);
    let mut child = demo(&["--keypoints", str(&keypoints), "--model", FLAT]).spawn().expect("the program runs");
    let start = Instant::now();
    let is_drawing = || {
        let hidden = list(folder.path()).into_iter().find(|name| name.ends_with(".partial"));
        hidden.is_some_and(|name| folder.path().join(name).join("wave.3d.mp4").exists())
    };
    while !is_drawing() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(interrupted.success());
    let status = child.wait().expect("an end");
    assert_eq!(status.code(), Some(130));
    assert_eq!(list(folder.path()), ["wave.json"]);
}

#[test]
fn the_motion_in_files_of_other_tools() {
    let folder = tempfile::tempdir().expect("a folder");
    let keypoints = folder.path().join("wave.json");
    keypoint_file(&keypoints, 60, 17);
    let out = folder.path().join("out");
    let formats = "bvh,glb,trc,c3d,csv,ndjson,angles";
    let output = run(&["--keypoints", str(&keypoints), "--model", FLAT, "--no-video", "--json", "--format", formats, "--out", str(&out)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = ["angles.csv", "bvh", "c3d", "csv", "glb", "json", "ndjson", "npz", "trc"];
    assert_eq!(list(&out), expected.map(|end| format!("wave.3d.{end}")));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!(summary["motion_files"].as_array().expect("a list").len(), 7);
    let lines = std::fs::read_to_string(out.join("wave.3d.ndjson")).expect("a file");
    assert_eq!(lines.lines().count(), 60);
}

#[test]
fn impossible_cameras_and_people_are_refused_before_the_video_is_looked_at() {
    for (arguments, words) in
        [(["--height", "17"], "0.3 to 3 metres"), (["--height", "NaN"], "0.3 to 3 metres"), (["--fov", "200"], "1 to 179 degrees")]
    {
        let error = refusal(&[["--video", "absent.mp4"], arguments].concat());
        assert!(error.contains(words), "{error}");
    }
}
