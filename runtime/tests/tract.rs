//! The engine in pure Rust: the same answers as ONNX Runtime, and refusals in words.
#![allow(missing_docs)]
#![cfg(feature = "tract")]

mod common;

use common::{FLOAT, Graph, INT64, affine, metadata, rooted, rooted_plus, scanning};
use pose::normalise::Normalisation;
use runtime::{Backend, Device, Engine, EngineOptions, Error};

fn open(graph: Graph, backend: Backend) -> Result<Engine, Error> {
    let folder = tempfile::tempdir().unwrap();
    Engine::open(graph.write(folder.path(), "model.onnx"), &EngineOptions { backend, ..Default::default() })
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37).sin()).collect()
}

#[test]
fn answers_are_those_of_onnx_runtime() {
    let identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    // The body that the scanning file carries is wrong on purpose: it must not run.
    for graph in [rooted(-1, -1, 3), rooted(-1, 9, 3), affine(identity, [0.5, 0.0, -1.0]), rooted_plus(9, &[1.0, 2.0]), scanning(true)] {
        let (ort, tract) = (open(graph.clone(), Backend::Ort).unwrap(), open(graph, Backend::Tract).unwrap());
        assert_eq!((ort.input(), ort.output()), (tract.input(), tract.output()));
        assert_eq!((ort.backend(), tract.backend()), (Backend::Ort, Backend::Tract));
        for [batch, frames] in [[1, 9], [3, 9], [1, 1], [2, 20]] {
            if ort.batch().is_some_and(|n| n != batch) || ort.frames().is_some_and(|n| n != frames) {
                continue;
            }
            let shape = [batch, frames, 17, 3];
            let input = wave(batch * frames * 51);
            let (a, b) = (ort.run(&input, shape).unwrap(), tract.run(&input, shape).unwrap());
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{shape:?}");
        }
    }
}

#[test]
fn many_shapes_and_threads_take_turns() {
    let engine = open(rooted(-1, -1, 3), Backend::Tract).unwrap();
    std::thread::scope(|scope| {
        for k in 1..5usize {
            let engine = &engine;
            scope.spawn(move || {
                // more shapes than plans are kept
                for frames in (1..20).chain(1..20) {
                    let input = wave(k * frames * 51);
                    let output = engine.run(&input, [k, frames, 17, 3]).unwrap();
                    assert_eq!(output.len(), input.len());
                    let expected = 0.25 * 0.0 + input[3] - input[0]; // joint 1, first axis
                    assert!((output[3] - expected).abs() < 1e-5);
                }
            });
        }
    });
}

#[test]
fn wrong_files_and_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions { backend: Backend::Tract, ..Default::default() };
    let whole = rooted(-1, -1, 3).bytes();
    for (name, content, expected) in [
        ("empty.onnx", &[][..], "it is empty"),
        ("text.onnx", b"This is a text file, not a model.\n", "it is not an ONNX file, or a damaged one"),
        ("zeros.onnx", &[0; 4096], "it is not an ONNX file, or a damaged one"),
        ("half.onnx", &whole[..whole.len() / 2], "it is not an ONNX file, or a damaged one"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let message = refusal(Engine::open(&path, &options));
        assert!(message.contains(expected) && message.contains(name), "{message}");
    }
    // Every file that is cut short is an error or a smaller model, never a panic.
    for length in (0..whole.len()).step_by(7) {
        let path = folder.path().join("cut.onnx");
        std::fs::write(&path, &whole[..length]).unwrap();
        let _ = Engine::open(&path, &options);
    }
    let unknown = Graph::default().input("x", FLOAT, &[-1, -1, 17, 3]).node("Levitate", &["x"], "y").output("y", FLOAT, &[-1, -1, 17, 3]);
    assert!(refusal(open(unknown, Backend::Tract)).contains("Levitate"));
    let dangling = Graph::default().input("x", FLOAT, &[-1, -1, 17, 3]).node("Neg", &["z"], "y").output("y", FLOAT, &[-1, -1, 17, 3]);
    assert!(refusal(open(dangling, Backend::Tract)).contains("\"z\""));
    let nothing = Graph::default().input("x", FLOAT, &[-1, -1, 17, 3]).output("y", FLOAT, &[-1, -1, 17, 3]);
    assert!(refusal(open(nothing, Backend::Tract)).contains("no ONNX model that can be run"));
    let integers = Graph::default().input("x", INT64, &[-1, -1, 17, 3]).node("Neg", &["x"], "y").output("y", INT64, &[-1, -1, 17, 3]);
    assert!(refusal(open(integers, Backend::Tract)).contains("x i64 (?, ?, 17, 3)"));

    let path = scanning(true).write(folder.path(), "scan.onnx");
    let message = refusal(Engine::open(&path, &EngineOptions { custom_op: false, ..options.clone() }));
    assert!(message.contains("tract knows no functions"), "{message}");
    let message = refusal(Engine::open(&path, &EngineOptions { device: Device::Cuda { index: 0 }, ..options }));
    assert!(message.contains("tract runs on the processor alone"), "{message}");
}

#[test]
fn metadata_and_failures_are_told() {
    let about = metadata(27, Normalisation::PersonBox, 50.0);
    assert_eq!(open(rooted(-1, -1, 3).metadata(&about), Backend::Tract).unwrap().metadata(), Some(&about));
    let graph = Graph::default()
        .input("x", FLOAT, &[-1, -1, 17, 3])
        .integers("shape", &[1, 1, 17, 3])
        .node("Reshape", &["x", "shape"], "poses")
        .output("poses", FLOAT, &[-1, -1, 17, 3]);
    let engine = open(graph, Backend::Tract).unwrap();
    assert!(refusal(engine.run(&wave(102), [1, 2, 17, 3])).contains("failed while running"));
    assert!(engine.run(&wave(51), [1, 1, 17, 3]).is_ok());
}

#[test]
fn engines_have_names() {
    for backend in [Backend::Ort, Backend::Tract] {
        assert_eq!(backend.to_string().parse(), Ok(backend));
    }
    assert!("onnx".parse::<Backend>().is_err());
}

#[test]
fn the_command_line_chooses_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let model = rooted(-1, -1, 3).metadata(&metadata(9, Normalisation::PersonBox, 50.0)).write(folder.path(), "model.onnx");
    let keypoints = folder.path().join("walk.json");
    formats::keypoints::write_json(&keypoints, &common::walk(20, 50.0)).unwrap();
    let runtime = |engine: &str, arguments: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("runtime").unwrap();
        // with tract, a library that is not there is not missed
        command.env("ORT_DYLIB_PATH", if engine == "tract" { "/nowhere" } else { "" }).args(["--engine", engine]).args(arguments);
        command.timeout(std::time::Duration::from_secs(60)).assert()
    };
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let poses = ["ort", "tract"].map(|engine| {
        let output = folder.path().join(format!("{engine}.json"));
        runtime(engine, &["lift", &text(&model), "--keypoints", &text(&keypoints), "--output", &text(&output)]).success();
        let lifted: serde_json::Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
        lifted["camera_mm"].as_array().unwrap().iter().flat_map(|pose| pose[16].as_array().unwrap().clone()).collect::<Vec<_>>()
    });
    assert!(poses[0].len() == 60 && poses[0].iter().zip(&poses[1]).all(|(a, b)| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 0.1));
    let info = runtime("tract", &["--json", "info", &text(&model)]).success().get_output().stdout.clone();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&info).unwrap()["engine"], "tract");
    runtime("tract", &["bench", &text(&model), "--seconds", "0.05", "--warm-up", "0"]).success();
    runtime("tract", &["doctor", &text(&model)]).success();
    runtime("onnx", &["info", &text(&model)]).failure();
}
