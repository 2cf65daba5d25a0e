//! The engine: what it opens, what it refuses, what it answers.
#![allow(missing_docs)]

mod common;

use common::{FLOAT, Graph, INT64, WEIGHTS, affine, metadata, rooted, scanning};
use pose::{metadata::ModelMetadata, normalise::Normalisation};
use runtime::{Backend, Device, Engine, EngineOptions, Error};

/// Numbers without pattern in -1..1, the same in each run.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn open(graph: Graph) -> Result<Engine, Error> {
    let folder = tempfile::tempdir().unwrap();
    Engine::open(graph.write(folder.path(), "model.onnx"), &EngineOptions::default())
}

/// The error's sentence, which must be one line.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// y = (x - root) WEIGHTS of one pose (17, C).
fn rooted_oracle(input: &[f32], channels: usize) -> Vec<f32> {
    let root = &input[..channels];
    let mut poses = Vec::new();
    for joint in input.chunks_exact(channels) {
        for k in 0..3 {
            poses.push((0..channels).map(|c| (joint[c] - root[c]) * WEIGHTS[c][k]).sum::<f32>());
        }
    }
    poses
}

#[test]
fn runs_batches_of_any_size_and_length() {
    for channels in [2usize, 3] {
        let engine = open(rooted(-1, -1, channels as i64)).unwrap();
        assert_eq!((engine.batch(), engine.frames(), engine.channels()), (None, None, channels));
        assert_eq!(engine.metadata(), None);
        for [batch, frames] in [[1, 1], [2, 5], [3, 1], [1, 40]] {
            let input = noise(batch * frames * 17 * channels);
            let output = engine.run(&input, [batch, frames, 17, channels]).unwrap();
            let expected: Vec<f32> = input.chunks_exact(17 * channels).flat_map(|pose| rooted_oracle(pose, channels)).collect();
            assert_eq!(output.len(), batch * frames * 17 * 3);
            for (a, b) in output.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
    }
}

#[test]
fn fixed_sizes_are_known_and_kept() {
    let engine = open(rooted(2, 9, 3)).unwrap();
    assert_eq!((engine.batch(), engine.frames()), (Some(2), Some(9)));
    assert!(engine.run(&noise(2 * 9 * 51), [2, 9, 17, 3]).is_ok());
    let message = refusal(engine.run(&noise(9 * 51), [1, 9, 17, 3]));
    assert_eq!(message, "the model's input has the shape (2, 9, 17, 3), but [1, 9, 17, 3] was given");
}

#[test]
fn wrong_inputs_are_refused() {
    let engine = open(rooted(-1, -1, 3)).unwrap();
    for (length, shape) in [
        (51, [1, 1, 17, 2]),
        (48, [1, 1, 16, 3]),
        (0, [0, 1, 17, 3]),
        (0, [1, 0, 17, 3]),
        (50, [1, 1, 17, 3]),
        (51, [usize::MAX, 2, 17, 3]),
    ] {
        let message = refusal(engine.run(&vec![0.0; length], shape));
        assert!(message.starts_with("the model's input has the shape (batch, frames, 17, 3), but ["), "{message}");
    }
    let mut input = noise(2 * 5 * 51);
    input[(7 * 17 + 4) * 3 + 1] = f32::NAN; // item 1, frame 2, joint 4
    let message = refusal(engine.run(&input, [2, 5, 17, 3]));
    assert!(message.contains("NaN at batch item 1, frame 2, joint 4"), "{message}");
    input[(7 * 17 + 4) * 3 + 1] = f32::NEG_INFINITY;
    assert!(refusal(engine.run(&input, [2, 5, 17, 3])).contains("-inf"));
}

#[test]
fn files_that_are_no_lifter_are_refused() {
    let lifter_out = |graph: Graph| graph.output("poses", FLOAT, &[-1, -1, 17, 3]);
    let classifier = Graph::default().input("image", FLOAT, &[1, 3, 8, 8]).node("Flatten", &["image"], "y").output("y", FLOAT, &[1, 192]);
    let two_inputs = lifter_out(Graph::default().input("a", FLOAT, &[-1, -1, 17, 3]).input("b", FLOAT, &[-1, -1, 17, 3]).node(
        "Add",
        &["a", "b"],
        "poses",
    ));
    let two_outputs = rooted(-1, -1, 3).node("Neg", &["poses"], "more").output("more", FLOAT, &[-1, -1, 17, 3]);
    let coco = Graph::default().input("x", FLOAT, &[-1, -1, 16, 3]).node("Neg", &["x"], "y").output("y", FLOAT, &[-1, -1, 16, 3]);
    let integers = Graph::default().input("x", INT64, &[-1, -1, 17, 3]).node("Neg", &["x"], "y").output("y", INT64, &[-1, -1, 17, 3]);
    let flat = rooted(-1, -1, 3);
    let flat = Graph::output(flat, "relative", FLOAT, &[-1, -1, 17, 3]); // a second output by an inner name
    for (graph, expected, found) in [
        (classifier, "the input f32 (B, T, 17, 2 or 3)", "image f32 (1, 3, 8, 8)"),
        (two_inputs, "one input", "2 inputs: a f32 (?, ?, 17, 3); b f32 (?, ?, 17, 3)"),
        (two_outputs, "one output", "2 outputs"),
        (flat, "one output", "2 outputs"),
        (coco, "the input f32", "x f32 (?, ?, 16, 3)"),
        (integers, "the input f32", "x i64 (?, ?, 17, 3)"),
    ] {
        let message = refusal(open(graph));
        assert!(message.starts_with("this ONNX file is no lifter: expected"), "{message}");
        assert!(message.contains(expected) && message.contains(found), "{message}");
    }
    let wrong_output = Graph::default().input("x", FLOAT, &[-1, -1, 17, 2]).node("Neg", &["x"], "y").output("y", FLOAT, &[-1, -1, 17, 2]);
    assert!(refusal(open(wrong_output)).contains("expected the output f32 (B, T, 17, 3), found y f32 (?, ?, 17, 2)"));
}

#[test]
fn files_that_are_no_onnx_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let whole = rooted(-1, -1, 3).bytes();
    for (path, expected) in [
        (folder.path().join("absent.onnx"), "cannot read the model"),
        (folder.path().to_owned(), "it is a folder"),
        (file("empty.onnx", b""), "it is empty"),
        (file("text.onnx", b"This is a text file, not a model.\n"), "it is not an ONNX file, or a damaged one"),
        (file("zeros.onnx", &[0; 4096]), "it is not an ONNX file, or a damaged one"),
        (file("half.onnx", &whole[..whole.len() / 2]), "it is not an ONNX file, or a damaged one"),
    ] {
        let message = refusal(Engine::open(&path, &EngineOptions::default()));
        assert!(message.contains(expected) && message.contains(&path.display().to_string()), "{message}");
    }
    #[cfg(unix)]
    {
        let pipe = folder.path().join("pipe.onnx");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(refusal(Engine::open(&pipe, &EngineOptions::default())).contains("it is no regular file"));
    }
    let unknown = Graph::default().input("x", FLOAT, &[-1, -1, 17, 3]).node("Levitate", &["x"], "y").output("y", FLOAT, &[-1, -1, 17, 3]);
    assert!(refusal(open(unknown)).contains("Levitate"));
}

#[test]
fn metadata_is_read_and_checked() {
    let about = metadata(27, Normalisation::PersonBox, 50.0);
    assert_eq!(open(rooted(-1, -1, 3).metadata(&about)).unwrap().metadata(), Some(&about));
    assert_eq!(open(rooted(-1, 27, 3).metadata(&about)).unwrap().metadata(), Some(&about));

    let spoilt = |spoil: fn(&mut ModelMetadata)| {
        let mut about = about.clone();
        spoil(&mut about);
        refusal(open(rooted(-1, 27, 3).metadata(&about)))
    };
    assert!(spoilt(|m| m.format = 2).contains("use a newer poselift"));
    assert!(spoilt(|m| m.skeleton = "coco133".into()).contains("coco133"));
    assert!(spoilt(|m| m.dim_in = 2).contains("it says 2 numbers per joint, but the graph takes 3"));
    assert!(spoilt(|m| m.frames = 81).contains("it says windows of 81 frames, but the graph takes 27"));
    for damaged in ["", "{", "[]", "{\"format\": 1}"] {
        let message = refusal(open(rooted(-1, -1, 3).property("poselift", damaged)));
        assert!(message.starts_with("the metadata in ") && message.contains("expected the JSON"), "{message}");
    }
}

#[test]
fn the_scan_runs_as_our_operator_or_as_the_body_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = scanning(true).write(folder.path(), "scan.onnx");
    let frames = 4;
    let input = noise(frames * 51);

    // The operator: y by the definition of the scan, sequence (frame) by sequence; 17 steps, 3 channels, 2 states.
    let mut expected = vec![0f32; input.len()];
    for (t, frame) in input.chunks_exact(51).enumerate() {
        let mut state = [[0f64; 2]; 3];
        for step in 0..17 {
            let u: [f64; 3] = std::array::from_fn(|d| f64::from(frame[step * 3 + d]));
            for d in 0..3 {
                for n in 0..2 {
                    let (a, b) = ([-1.0, -2.0][n], u[n]); // B = C = the first two channels of u
                    let delta = u[d].abs();
                    state[d][n] = (delta * a).exp() * state[d][n] + delta * u[d] * b;
                }
                expected[t * 51 + step * 3 + d] = (0..2).map(|n| u[n] * state[d][n]).sum::<f64>() as f32;
            }
        }
    }
    let engine = Engine::open(&path, &EngineOptions::default()).unwrap();
    for (a, b) in engine.run(&input, [1, frames, 17, 3]).unwrap().iter().zip(&expected) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    // The body of this test's file returns u.
    let engine = Engine::open(&path, &EngineOptions { custom_op: false, ..Default::default() }).unwrap();
    assert_eq!(engine.run(&input, [1, frames, 17, 3]).unwrap(), input);

    let path = scanning(false).write(folder.path(), "no_body.onnx");
    assert!(Engine::open(&path, &EngineOptions::default()).is_ok());
    let message = refusal(Engine::open(&path, &EngineOptions { custom_op: false, ..Default::default() }));
    assert!(message.contains("it carries no function for its operator SelectiveScan"), "{message}");
}

#[test]
fn a_failure_while_running_is_an_error() {
    // MatMul of wrong sizes, hidden from the checks at loading behind free dimensions.
    let graph = Graph::default()
        .input("x", FLOAT, &[-1, -1, 17, 3])
        .integers("shape", &[1, -1, 17, 3])
        .node("Reshape", &["x", "shape"], "poses")
        .output("poses", FLOAT, &[-1, -1, 17, 3]);
    let engine = open(graph).unwrap();
    assert!(engine.run(&noise(51), [1, 1, 17, 3]).is_ok());
    let message = refusal(engine.run(&noise(102), [2, 1, 17, 3]));
    assert!(
        message.contains("expected an output of shape [2, 1, 17, 3] for an input of shape [2, 1, 17, 3], found [1, 2, 17, 3]"),
        "{message}"
    );

    let graph = Graph::default()
        .input("x", FLOAT, &[-1, -1, 17, 3])
        .integers("shape", &[1, 1, 17, 3])
        .node("Reshape", &["x", "shape"], "poses")
        .output("poses", FLOAT, &[-1, -1, 17, 3]);
    let message = refusal(open(graph).unwrap().run(&noise(102), [1, 2, 17, 3]));
    assert!(message.contains("failed while running"), "{message}");
}

#[test]
fn several_threads_may_call_one_engine() {
    let engine = open(affine([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.5, 0.0, 0.0])).unwrap();
    std::thread::scope(|scope| {
        for k in 1..5usize {
            let engine = &engine;
            scope.spawn(move || {
                for _ in 0..50 {
                    let output = engine.run(&vec![k as f32; k * 51], [1, k, 17, 3]).unwrap();
                    assert_eq!(output.len(), k * 51);
                    assert!(output.chunks_exact(3).all(|xyz| xyz == [k as f32 + 0.5, k as f32, k as f32]));
                }
            });
        }
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = rooted(-1, -1, 3).write(folder.path(), "model.onnx");
    // No machine has a hundred GPUs; the usual library has no CUDA at all.
    let options = EngineOptions { device: Device::Cuda { index: 99 }, ..Default::default() };
    let message = refusal(Engine::open(&path, &options));
    assert!(message.starts_with("the device cuda:99 was asked for, but"), "{message}");
    let options = EngineOptions { device: Device::TensorRt { index: 99 }, ..Default::default() };
    let message = refusal(Engine::open(&path, &options));
    assert!(message.starts_with("the device tensorrt:99 was asked for, but"), "{message}");
}

#[test]
fn the_automatic_device_is_one_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = rooted(-1, -1, 3).write(folder.path(), "model.onnx");
    let options = EngineOptions { device: Device::Auto, ..Default::default() };
    let engine = Engine::open(&path, &options).unwrap();
    assert!(matches!(engine.device(), Device::Cpu | Device::Cuda { index: 0 }), "{}", engine.device());
    assert_eq!(engine.run(&[0.5; 17 * 3], [1, 1, 17, 3]).unwrap().len(), 17 * 3);
    let options = EngineOptions { backend: Backend::Tract, ..options };
    assert_eq!(Engine::open(&path, &options).unwrap().device(), Device::Cpu, "tract has no other");
}

#[test]
fn devices_have_names() {
    for (text, device) in [
        ("cpu", Device::Cpu),
        ("cuda", Device::Cuda { index: 0 }),
        ("cuda:3", Device::Cuda { index: 3 }),
        ("tensorrt", Device::TensorRt { index: 0 }),
        ("auto", Device::Auto),
    ] {
        assert_eq!(text.parse(), Ok(device));
    }
    assert_eq!(Device::Cuda { index: 3 }.to_string(), "cuda:3");
    for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "auto:1", "tensorrt:x"] {
        assert!(wrong.parse::<Device>().is_err(), "{wrong}");
    }
}

#[test]
fn onnx_runtime_is_loaded_once() {
    runtime::init_onnxruntime(None).unwrap();
    let library = runtime::loaded_library().unwrap();
    runtime::init_onnxruntime(Some(&library)).unwrap();
    runtime::init_onnxruntime(library.parent()).unwrap();
    let other = tempfile::NamedTempFile::new().unwrap();
    let message = refusal(runtime::init_onnxruntime(Some(other.path())));
    assert!(message.starts_with("ONNX Runtime is already loaded from"), "{message}");
}
