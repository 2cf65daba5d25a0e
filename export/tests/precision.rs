//! `export onnx --precision`: what the smaller models say, cost and weigh.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use assert_cmd::Command;
use export::onnx::proto::{ModelProto, tensor_proto::DataType};
use prost::Message as _;
use runtime::{AnyEngine, Engine, EngineOptions};
use serde_json::{Value, json};

const FRAMES: usize = 90;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/clip-xs.pth")
}

fn export(arguments: &[&str]) -> Output {
    Command::cargo_bin("export").unwrap().arg("onnx").args(arguments).output().unwrap()
}

/// Somebody who walks on the spot, arms and legs in opposite phase, as a keypoint file.
fn walker(folder: &Path, phase: f32) -> String {
    let frames: Vec<Value> = (0..FRAMES)
        .map(|t| {
            let swing = 60.0 * (t as f32 * 0.12 + phase).sin();
            let at = |x: f32, y: f32| json!([960.0 + x, 540.0 + y, 0.9]);
            json!([
                at(0.0, 0.0),
                at(-25.0, 0.0),
                at(-25.0 + 0.5 * swing, 110.0),
                at(-25.0 + swing, 220.0),
                at(25.0, 0.0),
                at(25.0 - 0.5 * swing, 110.0),
                at(25.0 - swing, 220.0),
                at(0.0, -60.0),
                at(0.0, -125.0),
                at(8.0, -150.0),
                at(0.0, -185.0),
                at(45.0, -120.0),
                at(50.0 + 0.5 * swing, -60.0),
                at(52.0 + swing, -5.0),
                at(-45.0, -120.0),
                at(-50.0 - 0.5 * swing, -60.0),
                at(-52.0 - swing, -5.0),
            ])
        })
        .collect();
    let file = folder.join(format!("walk{phase}.json"));
    let clip = json!({ "format": "poselift-keypoints/1", "skeleton": "h36m17", "image": { "width": 1920, "height": 1080 }, "fps": 50, "frames": frames });
    fs::write(&file, clip.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The shipped model in that precision: its report and its file.
fn smaller(folder: &Path, precision: &str, more: &[&str]) -> (Value, PathBuf) {
    let out = folder.join(format!("{precision}.onnx"));
    let arguments = [shipped().to_str().unwrap(), "--precision", precision, "--out", out.to_str().unwrap(), "--threads", "1", "--json"]
        .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let output = export(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (serde_json::from_slice(&output.stdout).unwrap(), out)
}

fn poses(path: &Path, custom_op: bool) -> Vec<f32> {
    let engine = Engine::open(path, &EngineOptions { threads: 1, custom_op, ..EngineOptions::default() }).unwrap();
    let shape = [2, 27, 17, 3];
    let input: Vec<f32> =
        (0..shape.iter().product::<usize>()).map(|i| if i % 3 == 2 { 0.9 } else { (i as f32 * 0.37).sin() * 0.6 }).collect();
    engine.run(&input, shape).unwrap()
}

fn mean_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

fn model(path: &Path) -> ModelProto {
    ModelProto::decode(fs::read(path).unwrap().as_slice()).unwrap()
}

#[test]
fn int8_is_near_and_a_third_of_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (walker(folder.path(), 0.0), walker(folder.path(), 1.3));
    let (report, path) = smaller(folder.path(), "int8", &["--calibrate", &first, &second, "--measure", &second]);
    assert_eq!(report["precision"], "int8");
    assert_eq!(report["cost"]["frames"], FRAMES);
    let cost_mm = report["cost"]["mean_mm"].as_f64().unwrap();
    assert!((0.01..12.0).contains(&cost_mm), "{cost_mm} mm");
    let in_f32 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/clip-xs.onnx");
    let (bytes, whole) = (fs::metadata(&path).unwrap().len(), fs::metadata(&in_f32).unwrap().len());
    assert!(bytes * 5 < whole * 2, "{bytes} of {whole} bytes");

    let model = model(&path);
    let graph = model.graph.as_ref().unwrap();
    let count = |op: &str| graph.node.iter().filter(|node| node.op_type.as_deref() == Some(op)).count();
    let weights =
        graph.initializer.iter().filter(|tensor| tensor.data_type == Some(DataType::Int8 as i32) && tensor.dims.len() == 2).count();
    assert!(weights > 60, "{weights} weights in 8 bits");
    // A product with a bias after it is one of whole numbers; the others are in the form with DequantizeLinear.
    assert!(count("MatMulInteger") > 40 && count("DequantizeLinear") > 20);
    assert_eq!(graph.output.len() + graph.input.len(), 2);
    // Plain engines run it too; the function body adds in another order, so a rounding may fall the other way.
    assert!(mean_difference(&poses(&path, true), &poses(&path, false)) < 5e-3);
}

#[test]
fn f16_is_nearer_and_half_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let clip = walker(folder.path(), 0.4);
    let (report, path) = smaller(folder.path(), "f16", &["--measure", &clip]);
    let cost_mm = report["cost"]["mean_mm"].as_f64().unwrap();
    assert!((1e-4..2.0).contains(&cost_mm), "{cost_mm} mm");
    let model = model(&path);
    let graph = model.graph.as_ref().unwrap();
    // What is left in f32 belongs to the scan: A, D and the bias of delta.
    let is_f32 = |tensor: &&export::onnx::proto::TensorProto| tensor.data_type == Some(DataType::Float as i32);
    let scans: Vec<_> = graph.node.iter().filter(|node| node.op_type.as_deref() == Some("SelectiveScan")).collect();
    for tensor in graph.initializer.iter().filter(is_f32) {
        assert!(scans.iter().any(|scan| scan.input.contains(tensor.name.as_ref().unwrap())), "{:?}", tensor.name);
    }
    let in_f32 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/clip-xs.onnx");
    let (bytes, whole) = (fs::metadata(&path).unwrap().len(), fs::metadata(&in_f32).unwrap().len());
    assert!(bytes * 5 < whole * 3, "{bytes} of {whole} bytes");
    assert!(mean_difference(&poses(&path, true), &poses(&path, false)) < 2e-3);
    let to_f32 = mean_difference(&poses(&path, true), &poses(&in_f32, true));
    assert!((1e-7..1e-2).contains(&to_f32), "{to_f32}");
}

#[test]
fn a_live_step_in_f16_keeps_its_states_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/live-xs.pth");
    let out = folder.path().join("step.onnx");
    let output = export(&[checkpoint.to_str().unwrap(), "--step", "--precision", "f16", "--out", out.to_str().unwrap(), "--threads", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let AnyEngine::Step(engine) = AnyEngine::open(&out, &EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap() else {
        panic!("a step graph")
    };
    assert!(engine.inputs().iter().all(|port| port.element == "f32"), "{:?}", engine.inputs());
}

#[test]
fn what_cannot_be_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let clip = walker(folder.path(), 0.0);
    let checkpoint = shipped();
    let live = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/live-xs.pth");
    let fails = |checkpoint: &Path, arguments: &[&str], expected: &str| {
        let out = folder.path().join("none.onnx");
        let output = export(&[&[checkpoint.to_str().unwrap(), "--out", out.to_str().unwrap(), "--threads", "1"], arguments].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(expected), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        assert!(!out.exists());
    };
    fails(&checkpoint, &["--precision", "int8"], "give keypoint files with --calibrate");
    fails(&checkpoint, &["--precision", "f16", "--calibrate", &clip], "--calibrate is for --precision int8");
    fails(&checkpoint, &["--measure", &clip], "f32 costs nothing");
    fails(&checkpoint, &["--precision", "int8", "--calibrate", "absent.json"], "absent.json");
    fails(&live, &["--step", "--precision", "int8", "--calibrate", &clip], "int8 is for windows and sequences");
}
