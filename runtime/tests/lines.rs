//! `runtime lift --stream`, `doctor` and `bench`, as a user meets them: the built program, and the shipped model.
#![allow(missing_docs)]

mod common;

use std::{
    io::{BufRead, BufReader, Write as _},
    process::Stdio,
    time::Duration,
};

use assert_cmd::Command;
use common::walk;
use pose::Keypoints17;
use serde_json::{Value, json};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx");

fn runtime() -> Command {
    let mut command = Command::cargo_bin("runtime").unwrap();
    command.timeout(Duration::from_secs(120)).env_remove("RUST_LOG").args(["--threads", "1"]);
    command
}

fn lift_stream(args: &[&str]) -> Command {
    let mut command = runtime();
    command.args(["lift", SHIPPED, "--stream", "--image-size", "1280x720"]).args(args);
    command
}

fn joints(frame: &Keypoints17) -> Value {
    frame.iter().map(|k| json!([k.x_px, k.y_px, k.confidence])).collect()
}

/// Lines of the program for these lines.
fn answers(args: &[&str], input: &str) -> Vec<Value> {
    let output = lift_stream(args).write_stdin(input).assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One sentence on standard error, exit code 1.
#[track_caller]
fn refused(command: &mut Command, expected: &str) {
    let output = command.write_stdin("").assert().code(1).get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1 && message.contains(expected), "{message}");
    assert!(output.stdout.is_empty());
}

fn frames_of(clip: &pose::KeypointClip, id: Option<&str>) -> Vec<String> {
    let line = |(frame, time_s): (&Keypoints17, &f64)| {
        let mut line = json!({ "time_s": time_s, "keypoints": joints(frame) });
        if let Some(id) = id {
            line["id"] = id.into();
        }
        line.to_string() + "\n"
    };
    clip.frames.iter().zip(&clip.times_s).map(line).collect()
}

#[test]
fn a_pose_for_each_frame_in_order() {
    let clip = walk(40, 30.0);
    let poses = answers(&["--look-ahead", "3", "--height", "1.8"], &frames_of(&clip, None).concat());
    assert_eq!(poses.len(), 40);
    for (t, pose) in poses.iter().enumerate() {
        assert!((pose["time_s"].as_f64().unwrap() - clip.times_s[t]).abs() < 1e-9, "{pose}");
        let late = if t < 37 { 3.0 } else { (39 - t) as f64 };
        assert!((pose["delay_s"].as_f64().unwrap() - late / 30.0).abs() < 1e-6, "{pose}");
        for poses in ["camera_mm", "world_mm", "pose25"] {
            assert_eq!(pose[poses].as_array().unwrap().len(), 17);
        }
        let depth_mm = pose["camera_mm"][0][2].as_f64().unwrap();
        assert!((1000.0..10_000.0).contains(&depth_mm) && pose["scale_source"] == "height", "{pose}");
        assert_eq!((&pose["held"], pose["restarted"] == true), (&json!(false), t == 0));
        assert!(pose.get("id").is_none());
    }
}

#[test]
fn a_line_is_answered_before_the_next_one_comes() {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("runtime"))
        .args(["--threads", "1", "lift", SHIPPED, "--keypoints", "-", "--image-size", "1280x720", "--look-ahead", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || stdout.lines().for_each(|line| drop(sender.send(line.unwrap()))));
    let mut stdin = child.stdin.take().unwrap();
    let clip = walk(5, 30.0);
    for (t, line) in frames_of(&clip, None).iter().enumerate() {
        stdin.write_all(line.as_bytes()).unwrap();
        stdin.flush().unwrap();
        let answer: Value = serde_json::from_str(&lines.recv_timeout(Duration::from_secs(60)).unwrap()).unwrap();
        assert!((answer["time_s"].as_f64().unwrap() - clip.times_s[t]).abs() < 1e-9);
        assert_eq!(answer["delay_s"], 0.0);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert!(lines.recv_timeout(Duration::from_secs(60)).is_err(), "nothing was left");
}

#[test]
fn bad_lines_are_named_and_change_nothing() {
    let clip = walk(12, 30.0);
    let good = frames_of(&clip, None);
    let expected = answers(&[], &good.concat());
    let frame = joints(&clip.frames[0]);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut line = json!({ "time_s": 9.0, "keypoints": frame });
        change(&mut line);
        line.to_string()
    };
    let bad = [
        ("hello".to_owned(), "no valid JSON"),
        ("{\"time_s\": 3".to_owned(), "truncated"),
        ("[1, 2]".to_owned(), "expected a JSON object"),
        ("\u{fffd}\u{0}".to_owned(), "no valid JSON"),
        (with(&|line| line["time_s"] = Value::Null), "'time_s'"),
        (with(&|line| line["time_s"] = json!(-7)), "times must rise"),
        (with(&|line| line["time_s"] = json!(1.7e12)), "in seconds"),
        (with(&|line| drop(line.as_object_mut().unwrap().remove("keypoints"))), "'keypoints'"),
        (with(&|line| line["keypoints"] = json!([[1, 2]])), "expected 17 joints for h36m17, found 1"),
        (with(&|line| line["keypoints"][3] = json!([1e9, 0, 1])), "joint 3: expected finite pixels"),
        (with(&|line| line["keypoints"][3] = json!([0, 0, 7])), "confidence 7"),
        (with(&|line| line["keypoints"][3] = json!("x")), "joint 3"),
        (with(&|line| line["keypoints"][3] = json!([1, 2, 3, 4])), "joint 3"),
        (with(&|line| line["id"] = json!({})), "'id'"),
        (with(&|line| line["id"] = json!("x".repeat(129))), "128 bytes"),
        (with(&|line| line["keypoints"][3] = json!([0.25, 0, 1])).replace("0.25", "NaN"), "NaN"),
        ("{\"end\": true, \"id\": \"nobody\"}".to_owned(), "no such stream"),
        (format!("{{\"keypoints\": \"{}\"}}", "x".repeat(70_000)), "65536 bytes"),
        ("[".repeat(60_000), "JSON"),
    ];
    // an empty line is no line; each bad one stands between two good ones
    let mut input = String::new();
    let mut bad_at = Vec::new();
    for (i, line) in good.iter().enumerate() {
        input += line;
        for (text, expected) in &bad[i * bad.len() / good.len()..(i + 1) * bad.len() / good.len()] {
            input += &format!("\n{text}\n");
            bad_at.push((input.lines().count() as u64, *expected));
        }
    }
    assert_eq!(bad_at.len(), bad.len());
    let (errors, poses): (Vec<Value>, Vec<Value>) = answers(&[], &input).into_iter().partition(|line| line.get("error").is_some());
    assert!(poses == expected, "{} poses and not {}, or others", poses.len(), expected.len());
    for (error, (line, expected)) in errors.iter().zip(&bad_at) {
        let message = error["error"].as_str().unwrap();
        assert!(message.contains(expected) && !message.contains('\n') && message.len() < 400, "{message} lacks {expected}");
        assert_eq!(error["line"], *line, "{message}");
    }
    assert_eq!(errors.len(), bad.len());
}

#[test]
fn several_streams_are_told_apart_and_bounded() {
    let (one, other) = (walk(10, 30.0), walk(10, 25.0));
    let mut input = String::new();
    for (a, b) in frames_of(&one, Some("left")).iter().zip(frames_of(&other, None)) {
        input += a;
        input += &b.replace("\"time_s\"", "\"id\": 7, \"time_s\"");
    }
    let poses = answers(&["--look-ahead", "2"], &input);
    let of = |id: Value| poses.iter().filter(|pose| pose["id"] == id).map(|pose| pose["time_s"].as_f64().unwrap()).collect::<Vec<_>>();
    let close =
        |found: &[f64], expected: &[f64]| found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-9);
    assert!(close(&of(json!("left")), &one.times_s) && close(&of(json!(7)), &other.times_s));

    // a third of at most two; then one ends, and there is room
    let third = frames_of(&one, Some("third"));
    let input = format!("{input}{}{{\"end\": true, \"id\": \"left\"}}\n{}", third[0], third[1]);
    let lines = answers(&["--look-ahead", "2", "--max-streams", "2"], &input);
    let errors: Vec<&Value> = lines.iter().filter(|line| line.get("error").is_some()).collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0]["id"] == "third" && errors[0]["error"].as_str().unwrap().contains("--max-streams") && errors[0]["line"] == 21);
    assert_eq!(lines.iter().filter(|line| line["id"] == "third" && line.get("error").is_none()).count(), 1);
}

#[test]
fn people_come_and_go_and_filters_and_skeletons_are_taken() {
    let clip = walk(30, 30.0);
    let mut lines = frames_of(&clip, None);
    for (t, line) in lines.iter_mut().enumerate().skip(10).take(8) {
        *line = json!({ "time_s": clip.times_s[t], "keypoints": null }).to_string() + "\n";
    }
    let poses = answers(&["--hold", "0.1", "--one-euro", "--constant-bones", "--blend", "0.05", "--hop", "2", "--flip"], &lines.concat());
    assert_eq!(poses.len(), 25, "three of the eight are held, the first seven were seen before");
    assert_eq!(poses.iter().filter(|pose| pose["held"] == true).count(), 3);
    assert_eq!(poses.iter().filter(|pose| pose["restarted"] == true).count(), 2);

    let coco: Vec<Value> = (0..17).map(|j| json!([600.0 + 5.0 * f64::from(j), 100.0 + 30.0 * f64::from(j), 0.9])).collect();
    let line = json!({ "time_s": 0, "keypoints": coco }).to_string();
    assert_eq!(answers(&["--skeleton", "coco17", "--one-euro", "2,0.02"], &line).len(), 1);
}

#[test]
fn wrong_settings_are_refused_before_anything_is_read() {
    refused(runtime().args(["lift", SHIPPED, "--stream"]), "--image-size");
    refused(&mut lift_stream(&["--look-ahead", "27"]), "window of 27 frames");
    refused(&mut lift_stream(&["--hop", "0"]), "hop");
    refused(&mut lift_stream(&["--hold", "-1"]), "pause to hold over");
    refused(&mut lift_stream(&["--height", "170"]), "height of the person");
    refused(&mut lift_stream(&["--fov", "0"]), "field of view");
    refused(&mut lift_stream(&["--one-euro=-1,0"]), "cutoff frequency");
    refused(&mut lift_stream(&["--max-streams", "0"]), "--max-streams");
    refused(&mut lift_stream(&["--fps", "30"]), "the file says");
    refused(runtime().args(["lift", "/no/model.onnx", "--stream", "--image-size", "10x10"]), "cannot read the model");
    // and by clap, with its own words
    for args in [["--image-size", "10"], ["--skeleton", "cat"], ["--one-euro", "x"], ["--output", "x.json"], ["--keypoints", "x.json"]] {
        let output = lift_stream(&[]).args(args).write_stdin("").assert().failure().get_output().clone();
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    let help = String::from_utf8(runtime().args(["lift", "--help"]).output().unwrap().stdout).unwrap();
    assert!(help.contains("\"time_s\"") && help.contains("--look-ahead") && help.contains("delay_s"), "{help}");
}

#[test]
fn doctor_says_what_is_here_and_what_mends_the_rest() {
    let output = runtime().args(["doctor", SHIPPED, "--json"]).assert().success().get_output().clone();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["can_run"], true);
    let findings = report["findings"].as_array().unwrap();
    let finding = |what: &str| findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}: {report}"));
    assert!(finding("model")["found"].as_str().unwrap().contains("27 frames in"));
    assert!(finding("ONNX Runtime")["found"].as_str().unwrap().contains("onnxruntime"));
    for finding in findings {
        assert!(finding["here"] == true || !finding["mend"].as_str().unwrap().is_empty(), "{finding}");
    }

    // a model that is none, and no library
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.onnx");
    std::fs::write(&text, "hello").unwrap();
    let output = runtime().arg("doctor").arg(&text).assert().code(1).get_output().clone();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("MISSING model") && said.contains("not an ONNX file") && said.contains("export onnx"), "{said}");
    let output = runtime().args(["doctor", "--onnxruntime", "/no/such"]).assert().code(1).get_output().clone();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("MISSING ONNX Runtime") && said.contains("scripts/native.sh onnxruntime") && said.contains("cannot be run"),
        "{said}"
    );
}

#[test]
fn bench_measures_windows_and_streams() {
    let report = |args: &[&str]| -> Value {
        let output = runtime().args(["bench", SHIPPED, "--warm-up", "0.1", "--json"]).args(args).assert().success().get_output().clone();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let number = |report: &Value, key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    let windows = report(&["--seconds", "0.3", "--batch", "2"]);
    assert_eq!(windows["input_shape"], json!([2, 27, 17, 3]));
    assert!(number(&windows, "p50_ms") > 0.0 && number(&windows, "p50_ms") <= number(&windows, "p99_ms"));
    assert!((number(&windows, "frames_per_s") / number(&windows, "clips_per_s") - 27.0).abs() < 1e-6);
    assert!((number(&windows, "clips_per_s") - 2.0 * number(&windows, "calls") / number(&windows, "seconds")).abs() < 1e-6);

    let live = report(&["--seconds", "1", "--streams", "3", "--fps", "15", "--look-ahead", "0", "--jitter", "2", "--stalls", "60"]);
    assert!(number(&live, "poses") > 10.0 && number(&live, "p50_ms") > 0.0 && number(&live, "busy_share") <= 1.01, "{live}");
    assert!(number(&live, "poses_per_s") <= 1.2 * number(&live, "expected_poses_per_s"), "{live}");

    for (args, expected) in [
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "NaN"], "--seconds"),
        (["--batch", "0"], "1 or more"),
        (["--batch", "99999999999"], "fit into memory"),
        (["--streams", "0"], "1 to 100000 streams"),
        (["--frames", "26"], "26"),
    ] {
        refused(runtime().args(["bench", SHIPPED, "--warm-up", "0"]).args(args), expected);
    }
    refused(runtime().args(["bench", "/no/model.onnx"]), "cannot read the model");
}
