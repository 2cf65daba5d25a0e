//! Videos as they come: cut off in the middle, of variable rate, turned, without frames, of 8K. Needs BlazePose's models, the sample
//! clip and the `ffmpeg` program, and says so where one is absent.

#![allow(clippy::print_stdout, reason = "a test says what it skips")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use demo::observe::Section;
use opencv::videoio::{self, VideoCaptureTraitConst as _};
use serde_json::Value;
use tempfile::TempDir;

const FLAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/flat.onnx");

/// Someone on a roof and a woman who walks by, for two and a half seconds; `None` (said aloud) where that cannot be had.
fn people(folder: &TempDir, arguments: &str, name: &str) -> Option<PathBuf> {
    let native = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.native");
    for needed in ["blazepose/version", "clips/demo.mp4"] {
        if !native.join(needed).exists() {
            println!("skipped: .native/{needed} is absent (scripts/blazepose.sh, scripts/clip.sh)");
            return None;
        }
    }
    let clip = native.join("clips/demo.mp4");
    let arguments = arguments.replace("CLIP", &clip.to_string_lossy()).replace("FOLDER", &folder.path().to_string_lossy());
    ffmpeg(&arguments, &folder.path().join(name))
}

fn ffmpeg(arguments: &str, path: &Path) -> Option<PathBuf> {
    let output = Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments.split(' ')).arg(path).output();
    let Ok(output) = output else {
        println!("skipped: the program ffmpeg is absent");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(path.to_owned())
}

const SHORT: &str = "-ss 1 -i CLIP -t 2.5 -an -vf scale=960:-2 -c:v libx264 -preset veryfast";

/// The program on a video, with the quickest networks.
fn demo(video: &Path, out: &Path, more: &[&str]) -> Output {
    let path = |path: &Path| path.to_str().expect("a path of UTF-8").to_owned();
    let arguments = ["--video", &path(video), "--out", &path(out), "--model", FLAT, "--detector-quality", "lite", "--json"];
    Command::new(env!("CARGO_BIN_EXE_demo")).args(arguments).args(more).output().expect("the program runs")
}

fn summary(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a summary")
}

fn film_property(path: &Path, property: i32) -> f64 {
    let film = videoio::VideoCapture::from_file(path, videoio::CAP_FFMPEG).expect("a film");
    film.get(property).expect("a property")
}

#[test]
fn a_video_that_is_cut_off_gives_what_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments) in [("whole.mp4", format!("{SHORT} -movflags +faststart")), ("whole.mkv", SHORT.to_owned())] {
        let Some(whole) = people(&folder, &arguments, name) else { return };
        let bytes = std::fs::read(&whole).expect("a file");
        let cut = folder.path().join(name.replace("whole", "cut"));
        std::fs::write(&cut, &bytes[..bytes.len() * 6 / 10]).expect("a file");
        let out = folder.path().join("out");
        let output = demo(&cut, &out, &["--person", "all"]);
        let summary = summary(&output);
        let frames = summary["frames"].as_u64().expect("a number");
        assert!((15..70).contains(&frames), "{name}: {frames} of 75 frames");
        let warning = String::from_utf8_lossy(&output.stderr);
        assert!(warning.contains(&format!("only {frames} of the 75 frames")), "{warning}");
        let film = film_property(&out.join("cut.3d.mp4"), videoio::CAP_PROP_FRAME_COUNT);
        assert!((film - frames as f64).abs() <= 1.0, "{name}: {film} frames in the film, {frames} in the clip");
    }
}

#[test]
fn a_video_whose_index_is_lost_or_that_has_no_frames_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(whole) = people(&folder, SHORT, "whole.mp4") else { return };
    let bytes = std::fs::read(&whole).expect("a file");
    let cut = folder.path().join("cut.mp4");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file");
    let Some(empty) = ffmpeg("-f lavfi -i testsrc=s=64x48:d=1 -frames:v 0", &folder.path().join("empty.mp4")) else { return };
    for video in [cut, empty] {
        let output = demo(&video, &folder.path().join("out"), &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("is not a video that FFmpeg can decode"), "{error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
        assert!(!folder.path().join("out").exists(), "nothing was written");
    }
}

#[test]
fn the_film_of_a_variable_rate_lasts_as_long_as_the_clip() {
    let folder = tempfile::tempdir().expect("a folder");
    if people(&folder, SHORT, "whole.mp4").is_none() {
        return;
    }
    // 30 frames a second for a second, then ten.
    let thinned = "-i FOLDER/whole.mp4 -vf select=lt(n\\,30)+not(mod(n\\,3)) -vsync vfr";
    let Some(video) = people(&folder, thinned, "variable.mp4") else { return };
    let out = folder.path().join("out");
    let summary = summary(&demo(&video, &out, &[]));
    assert_eq!(summary["frames"], 45);
    assert_eq!(summary["people"][0]["frames_seen"], 45);
    let film = out.join("variable.3d.mp4");
    let [count, fps] = [videoio::CAP_PROP_FRAME_COUNT, videoio::CAP_PROP_FPS].map(|property| film_property(&film, property));
    assert!((count / fps - 2.5).abs() < 0.12, "{count} frames at {fps}");
}

#[test]
fn people_in_a_phones_turned_video_stand_upright() {
    let folder = tempfile::tempdir().expect("a folder");
    if people(&folder, "-ss 1 -i CLIP -t 0.6 -an -vf scale=960:-2,transpose=clock -c:v libx264 -preset veryfast", "lying.mp4").is_none() {
        return;
    }
    let Some(video) = people(&folder, "-i FOLDER/lying.mp4 -c copy -metadata:s:v:0 rotate=90", "phone.mp4") else { return };
    let out = folder.path().join("out");
    let summary = summary(&demo(&video, &out, &[]));
    assert_eq!(summary["frames_seen"], 18);
    let json: Value = serde_json::from_slice(&std::fs::read(out.join("phone.3d.json")).expect("a file")).expect("JSON");
    assert_eq!((json["image"]["width_px"].as_u64(), json["image"]["height_px"].as_u64()), (Some(960), Some(540)));
    let y = |joint: usize| json["keypoints_px"][9][joint][1].as_f64().expect("a pixel");
    assert!(y(10) + 60.0 < y(0) && y(0) + 40.0 < y(3), "head {}, pelvis {}, foot {}", y(10), y(0), y(3));
}

#[test]
#[cfg(target_os = "linux")]
fn a_video_of_8k_works_in_bounded_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let huge = "-ss 1 -i CLIP -frames:v 8 -an -vf scale=8192:4320:flags=neighbor,setsar=1 -c:v libx264 -preset ultrafast";
    let Some(video) = people(&folder, huge, "8k.mp4") else { return };
    let out = folder.path().join("out");
    let program = env!("CARGO_BIN_EXE_demo");
    // The shell asks the system again and again for the program's largest memory so far.
    let watch = "\"$@\" & child=$!; peak=0; while kill -0 $child 2>/dev/null; do \
                 now=$(sed -n 's/^VmHWM: *\\([0-9]*\\).*/\\1/p' /proc/$child/status 2>/dev/null); peak=${now:-$peak}; sleep 0.05; done; \
                 wait $child && echo $peak >&2";
    let arguments = ["-c", watch, "sh", program, "--model", FLAT, "--detector-quality", "lite", "--json", "--threads", "2"];
    let output = Command::new("sh").args(arguments).arg("--video").arg(&video).arg("--out").arg(&out).output().expect("sh");
    assert_eq!(summary(&output)["frames_seen"], 8);
    let peak_kib: u64 = String::from_utf8_lossy(&output.stderr).trim().parse().expect("a number");
    // Five pictures of 106 MB, and those that the codec holds.
    assert!(peak_kib < 2 << 20, "{peak_kib} KiB");
    assert_eq!(film_property(&out.join("8k.3d.mp4"), videoio::CAP_PROP_FRAME_HEIGHT), 720.0);
}

#[test]
fn everyone_has_files_of_their_own_and_one_film_and_one_world() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(video) = people(&folder, SHORT, "two.mp4") else { return };
    let out = folder.path().join("out");
    let summary_of_all = summary(&demo(&video, &out, &["--person", "all", "--height", "1.8,1.65", "--format", "trc"]));
    let mut names: Vec<String> = std::fs::read_dir(&out)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected = ["person1.3d.json", "person1.3d.npz", "person1.3d.trc", "person2.3d.json", "person2.3d.npz", "person2.3d.trc"];
    assert_eq!(names, ["3d.mp4"].iter().chain(&expected).map(|end| format!("two.{end}")).collect::<Vec<_>>());
    let people = summary_of_all["people"].as_array().expect("a list");
    assert_eq!(people.len(), 2);
    assert!(people[0]["first_s"].as_f64() < people[1]["first_s"].as_f64(), "numbers are in the order of appearance");
    let files: Vec<Value> = [1, 2]
        .map(|id| serde_json::from_slice(&std::fs::read(out.join(format!("two.person{id}.3d.json"))).expect("a file")).expect("JSON"))
        .into();
    for (file, (id, height_m)) in files.iter().zip([(1, 1.8), (2, 1.65)]) {
        assert_eq!((&file["person"], &file["format"]), (&Value::from(id), &Value::from("poselift-3d-1")));
        assert!((file["height_m"].as_f64().expect("a height") - height_m).abs() < 1e-3);
    }
    assert_eq!(files[0]["world_from_camera"], files[1]["world_from_camera"]);
    // He stands on a roof at the left, she walks into the picture from the right.
    let x = |file: &Value, frame: usize| file["keypoints_px"][frame][0][0].as_f64().expect("a pixel");
    assert!(x(&files[0], 0) < 420.0 && x(&files[1], 0) > 500.0);

    let second = summary(&demo(&video, &out, &["--person", "2", "--no-video"]));
    assert_eq!(second["people"][0]["json"], Value::Null);
    assert!(second["json"].as_str().expect("a path").ends_with("two.3d.json"));
    let error = demo(&video, &out, &["--person", "7", "--no-video"]);
    assert!(String::from_utf8_lossy(&error.stderr).contains("there is no person 7"), "{error:?}");
    for (flag, value) in [("--person", "0"), ("--person", "nobody"), ("--most-people", "0"), ("--most-people", "100")] {
        assert!(!demo(&video, &out, &[flag, value]).status.success(), "{flag} {value}");
    }
}

#[test]
fn who_stops_listening_ends_the_decoder() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(video) = ffmpeg("-f lavfi -i testsrc=s=320x240:d=3:r=30 -pix_fmt yuv420p", &folder.path().join("long.mp4")) else { return };
    let section = Section { start_s: 0.0, duration_s: f64::INFINITY };
    let mut decoder = demo::decode::Decoder::section(&video, section).expect("a video");
    assert_eq!(decoder.expected_frames(), Some(90));
    let first = decoder.take().expect("a frame").expect("a frame");
    assert_eq!(first.time_s, 0.0);
    decoder.recycle(first);
    assert!(!decoder.finish().reached_end);

    let mut decoder = demo::decode::Decoder::section(&video, Section { start_s: 1.0, duration_s: 0.5 }).expect("a video");
    let mut times_s = Vec::new();
    while let Some(picture) = decoder.take().expect("a frame") {
        times_s.push(picture.time_s);
        decoder.recycle(picture);
    }
    assert_eq!(times_s.len(), 15);
    assert!((times_s[0] - 1.0).abs() < 1e-3 && times_s.windows(2).all(|pair| pair[1] > pair[0]));
}
