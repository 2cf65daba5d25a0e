//! The command line, as a user meets it.
#![allow(missing_docs, clippy::print_stdout)]

mod common;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use assert_cmd::{Command, assert::Assert};
use common::{FLOAT, Graph, metadata, rooted, scanning, walk};
use formats::{Data, Tensor};
use pose::{Keypoint, normalise::Normalisation};

fn runtime() -> Command {
    let mut command = Command::cargo_bin("runtime").unwrap();
    command.timeout(Duration::from_secs(60)).env_remove("RUST_LOG");
    command
}

/// One sentence on standard error, exit code 1.
#[track_caller]
fn refused(assert: Assert, expected: &[&str]) {
    let output = assert.code(1).get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1, "{message}");
    for expected in expected {
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
    assert!(message.matches("os error").count() <= 1, "said twice: {message}");
    assert!(output.stdout.is_empty());
}

struct Files {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let graph = rooted(-1, -1, 3).metadata(&metadata(27, Normalisation::PersonBox, 50.0));
        let model = graph.write(folder.path(), "model.onnx");
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn npy(&self, name: &str, shape: &[usize], data: Data) -> PathBuf {
        let path = self.path(name);
        formats::npy::write(&path, &Tensor::new(shape, data).unwrap()).unwrap();
        path
    }

    fn keypoints(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        formats::keypoints::write_json(&path, &walk(60, 25.0)).unwrap();
        path
    }

    fn run(&self, model: &Path, input: &Path) -> Command {
        let mut command = runtime();
        command.arg("run").arg(model).arg("--input").arg(input).arg("--output").arg(self.path("y.npy"));
        command
    }

    fn lift(&self, keypoints: &Path, output: &str) -> Command {
        let mut command = runtime();
        command.arg("lift").arg(&self.model).arg("--keypoints").arg(keypoints).arg("--output").arg(self.path(output));
        command
    }
}

#[test]
fn run_answers_raw_tensors() {
    let files = Files::new();
    let x: Vec<f32> = (0..2 * 5 * 51).map(|i| (i as f32).sin()).collect();
    let input = files.npy("x.npy", &[2, 5, 17, 3], Data::F32(x.clone()));
    files.run(&files.model, &input).args(["--threads", "1", "--device", "cpu"]).assert().success();
    let y = formats::npy::read(&files.path("y.npy")).unwrap();
    assert_eq!(y.shape, [2, 5, 17, 3]);
    let Data::F32(y) = y.data else { panic!("f32") };
    assert!((y[3] - (x[3] - x[0])).abs() < 1e-6);

    let output = files.run(&files.model, &input).arg("--json").output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["output_shape"], serde_json::json!([2, 5, 17, 3]));
}

#[test]
fn run_takes_the_body_when_told() {
    let files = Files::new();
    let x: Vec<f32> = (0..51).map(|i| i as f32).collect();
    let input = files.npy("x.npy", &[1, 1, 17, 3], Data::F32(x.clone()));
    let model = scanning(true).write(files.folder.path(), "scan.onnx");
    files.run(&model, &input).arg("--no-custom-op").assert().success();
    assert_eq!(formats::npy::read(&files.path("y.npy")).unwrap().to_f32(), x);
}

#[test]
fn run_refuses_what_does_not_fit() {
    let files = Files::new();
    let good = files.npy("good.npy", &[1, 1, 17, 3], Data::F32(vec![0.0; 51]));
    let nan = files.npy("nan.npy", &[1, 1, 17, 3], Data::F32(vec![f32::NAN; 51]));
    let flat = files.npy("flat.npy", &[17, 3], Data::F32(vec![0.0; 51]));
    let double = files.npy("double.npy", &[1, 1, 17, 3], Data::F64(vec![0.0; 51]));
    let coco = files.npy("coco.npy", &[1, 1, 16, 3], Data::F32(vec![0.0; 48]));
    let text = files.path("text.onnx");
    std::fs::write(&text, "hello").unwrap();
    let no_lifter = Graph::default()
        .input("x", FLOAT, &[1, 10])
        .node("Neg", &["x"], "y")
        .output("y", FLOAT, &[1, 10])
        .write(files.folder.path(), "no_lifter.onnx");

    let model = &files.model;
    refused(files.run(model, &nan).assert(), &["NaN", "every number must be finite"]);
    refused(files.run(model, &flat).assert(), &["flat.npy", "expected the shape (B, T, 17, C), found [17, 3]"]);
    refused(files.run(model, &double).assert(), &["double.npy", "expected f32, found F64"]);
    refused(files.run(model, &coco).assert(), &["(batch, frames, 17, 3)", "[1, 1, 16, 3]"]);
    refused(files.run(model, &text).assert(), &["text.onnx"]);
    refused(files.run(model, &files.path("absent.npy")).assert(), &["absent.npy"]);
    refused(files.run(&text, &good).assert(), &["text.onnx", "not an ONNX file"]);
    refused(files.run(&no_lifter, &good).assert(), &["this ONNX file is no lifter: expected", "x f32 (1, 10)"]);
    refused(files.run(&files.path("absent.onnx"), &good).assert(), &["absent.onnx", "No such file"]);
    refused(files.run(model, &good).args(["--device", "cuda:99"]).assert(), &["the device cuda:99 was asked for, but"]);
    refused(runtime().args(["run"]).arg(model).arg("--input").arg(&good).args(["--output", "/no/such/y.npy"]).assert(), &["/no/such"]);
    assert!(!files.path("y.npy").exists());
}

#[test]
fn lift_writes_both_forms() {
    let files = Files::new();
    let keypoints = files.keypoints("clip.json");
    files.lift(&keypoints, "out.json").args(["--height", "1.8", "--fov", "50", "--flip"]).assert().success();
    let lifted = runtime::LiftedClip::read_json(&files.path("out.json")).unwrap();
    assert_eq!((lifted.len(), lifted.model.as_str(), lifted.scale_source.name()), (60, "test", "height"));
    assert!((lifted.height_m - 1.8).abs() < 1e-3);

    let assert = files.lift(&keypoints, "out.npz").args(["--json", "--overlap", "3"]).assert().success();
    let output = assert.get_output();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["frames"].as_u64(), report["scale_source"].as_str()), (Some(60), Some("default_height")));
    assert!(formats::npz::read_values(&files.path("out.npz")).unwrap().contains_key("camera_mm"));
}

#[test]
fn lift_refuses_what_it_cannot_lift() {
    let files = Files::new();
    let good = files.keypoints("clip.json");
    let text = std::fs::read_to_string(&good).unwrap();
    let spoil = |name: &str, content: &str| {
        let path = files.path(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let empty = spoil("empty.json", "");
    let half = spoil("half.json", &text[..text.len() / 2]);
    let prose = spoil("prose.json", "no keypoints here");
    let mut nobody = walk(10, 25.0);
    nobody.frames.fill([Keypoint::MISSING; 17]);
    let nobody_path = files.path("nobody.json");
    formats::keypoints::write_json(&nobody_path, &nobody).unwrap();

    refused(files.lift(&empty, "out.json").assert(), &["empty.json"]);
    refused(files.lift(&half, "out.json").assert(), &["half.json"]);
    refused(files.lift(&prose, "out.json").assert(), &["prose.json"]);
    refused(files.lift(&files.path("absent.json"), "out.json").assert(), &["absent.json"]);
    refused(files.lift(&nobody_path, "out.json").assert(), &["no keypoint is confident"]);
    refused(files.lift(&good, "out.bvh").assert(), &["ends in .json or .npz", "out.bvh"]);
    refused(files.lift(&good, "absent/out.json").assert(), &["there is no folder"]);
    refused(files.lift(&good, "out.json").args(["--height", "-1"]).assert(), &["height"]);
    refused(files.lift(&good, "out.json").args(["--height", "nan"]).assert(), &["height"]);
    refused(files.lift(&good, "out.json").args(["--fov", "0"]).assert(), &["field of view"]);
    refused(files.lift(&good, "out.json").args(["--overlap", "27"]).assert(), &["overlap"]);
    refused(files.lift(&good, "out.json").args(["--frames", "9"]).assert(), &["the file says its normalisation"]);
    assert!(!files.path("out.json").exists());
}

#[test]
fn info_tells_what_the_file_says() {
    let files = Files::new();
    let output = runtime().arg("info").arg(&files.model).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in ["keypoints f32 (?, ?, 17, 3)", "poses f32 (?, ?, 17, 3)", "27 frames", "person_box", "50 frames/s"] {
        assert!(text.contains(expected), "{text}");
    }
    let output = runtime().args(["--json", "info"]).arg(&files.model).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["metadata"]["normalisation"], "person_box");
    assert_eq!(report["input"]["shape"], serde_json::json!([null, null, 17, 3]));
    let bare = rooted(1, 9, 3).write(files.folder.path(), "bare.onnx");
    let output = runtime().args(["--json", "info"]).arg(&bare).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["metadata"].is_null());
}

#[test]
fn a_library_that_is_missing_is_one_sentence() {
    let files = Files::new();
    let info = || {
        let mut command = runtime();
        command.arg("info").arg(&files.model);
        command
    };
    refused(info().args(["--onnxruntime", "/no/such/lib.so"]).assert(), &["there is no ONNX Runtime library at /no/such/lib.so", "make"]);
    refused(info().env("ORT_DYLIB_PATH", "/no/such").assert(), &["there is no ONNX Runtime library at /no/such"]);
    refused(info().arg("--onnxruntime").arg(files.folder.path()).assert(), &["there is no ONNX Runtime library at"]);
    let text = files.path("libonnxruntime.so");
    std::fs::write(&text, "not a library").unwrap();
    refused(info().arg("--onnxruntime").arg(&text).assert(), &["cannot be used as the ONNX Runtime library", "pip install onnxruntime"]);
}

/// Somewhere without the workspace above it, with nothing in the environment.
#[test]
#[cfg(target_os = "linux")]
fn a_machine_without_the_library_says_so() {
    let files = Files::new();
    let program = files.path("runtime");
    std::fs::copy(assert_cmd::cargo::cargo_bin("runtime"), &program).unwrap();
    let mut command = Command::new(&program);
    command.timeout(Duration::from_secs(60)).current_dir(files.folder.path());
    command.env_remove("ORT_DYLIB_PATH").env_remove("LD_LIBRARY_PATH").env_remove("RUST_LOG");
    let assert = command.arg("info").arg(&files.model).assert();
    if assert.get_output().status.success() {
        println!("skipped: this system has ONNX Runtime in its own library folder");
        return;
    }
    refused(assert, &["the ONNX Runtime library is not installed", "make", "ORT_DYLIB_PATH"]);
}

/// Libraries that are ONNX Runtime by name, made with the C compiler.
#[test]
#[cfg(target_os = "linux")]
fn a_library_that_is_too_old_is_one_sentence() {
    let files = Files::new();
    let library = |name: &str, code: &str| {
        let (source, library) = (files.path(&format!("{name}.c")), files.path(&format!("{name}.so")));
        std::fs::write(&source, code).unwrap();
        let status = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        status.is_ok_and(|status| status.success()).then_some(library)
    };
    let old = "static const char *version(void) { return \"1.18.1\"; }\n\
               static const void *api(unsigned v) { return v <= 18 ? (void *)version : 0; }\n\
               static struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { api, version };\n\
               void *OrtGetApiBase(void) { return &base; }\n";
    let (Some(old), Some(other)) = (library("old", old), library("other", "int nothing(void) { return 0; }\n")) else {
        println!("skipped: there is no C compiler");
        return;
    };
    let info = |library: &Path| runtime().arg("info").arg(&files.model).arg("--onnxruntime").arg(library).assert();
    refused(info(&old), &["is ONNX Runtime 1.18.1, but 1.31 or newer is needed"]);
    refused(info(&other), &["cannot be used as the ONNX Runtime library (it is another library)"]);
}

#[test]
fn bench_says_how_it_ran() {
    let files = Files::new();
    let step = common::summing(-1).write(files.folder.path(), "step.onnx");
    let bench = |model: &Path| {
        let mut command = runtime();
        command.arg("bench").arg(model).args(["--seconds", "0.05", "--warm-up", "0", "--threads", "1"]);
        command
    };
    for model in [&files.model, &step] {
        for (options, binding) in [(&[][..], "off"), (&["--binding", "on"], "on"), (&["--binding", "off"], "off")] {
            let assert = bench(model).arg("--json").args(options).assert().success();
            let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
            assert_eq!((&report["device"], &report["binding"], &report["cuda_graph"]), (&"cpu".into(), &binding.into(), &false.into()));
        }
        refused(bench(model).arg("--cuda-graph").assert(), &["a CUDA graph was asked for, but the model runs on the processor"]);
        let assert = bench(model).args(["--binding", "on"]).assert().success();
        assert!(String::from_utf8_lossy(&assert.get_output().stdout).contains("on cpu, tensors bound, 1 threads"));
    }
}
