//! `export onnx` as a user meets it.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use assert_cmd::Command;
use common::{checkpoint_file, golden};
use export::onnx::proto::ModelProto;
use formats::{Tensor, Value};
use pose::{metadata::ModelMetadata, normalise::Normalisation};
use prost::Message as _;

fn export(arguments: &[&str]) -> Output {
    Command::cargo_bin("export").unwrap().arg("onnx").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A copy of a reference checkpoint in a folder of its own.
fn copied(model: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint_file(&golden(model));
    let copy = folder.path().join(source.file_name().unwrap());
    fs::copy(&source, &copy).unwrap();
    (folder, copy)
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn read_model(path: &Path) -> ModelProto {
    ModelProto::decode(fs::read(path).unwrap().as_slice()).unwrap()
}

fn metadata(model: &ModelProto) -> ModelMetadata {
    let json = model.metadata_props.iter().find(|property| property.key.as_deref() == Some("poselift")).unwrap();
    serde_json::from_str(json.value.as_deref().unwrap()).unwrap()
}

/// Fails with one sentence that holds `expected`, and leaves nothing behind.
#[track_caller]
fn fails(checkpoint: &Path, arguments: &[&str], expected: &str) {
    let before = files_in(checkpoint.parent().unwrap());
    let output = export(&[&[checkpoint.to_str().unwrap()], arguments].concat());
    assert!(!output.status.success(), "{}", text(&output.stdout));
    let message = text(&output.stderr);
    assert!(message.contains(expected), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(files_in(checkpoint.parent().unwrap()), before);
}

#[test]
fn writes_beside_the_checkpoint_with_metadata() {
    let (folder, checkpoint) = copied("tiny/official");
    let output = export(&[checkpoint.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    for expected in [
        "num_heads        8            defaulted",
        "n_frames         27           inferred",
        "exactly 27 frames",
        "Checked in ONNX Runtime",
    ] {
        assert!(report.contains(expected), "{report}");
    }
    assert_eq!(files_in(folder.path()), ["best_epoch.onnx", "best_epoch.pth.tr"]);
    let model = read_model(&folder.path().join("best_epoch.onnx"));
    let metadata = metadata(&model);
    assert_eq!((metadata.frames, metadata.frames_dynamic, metadata.dim_in, metadata.parameters), (27, false, 3, 96_791));
    assert_eq!((metadata.name.as_str(), metadata.architecture.as_str()), ("best_epoch", "MotionAGFormer"));
    assert!(metadata.trained_on.starts_with("unknown"));
    assert_eq!(metadata.licence, "unknown: see where the checkpoint came from");
    assert!(metadata.has_top_k_graph);
    assert!(metadata.config_toml.contains("num_heads = 8"), "{}", metadata.config_toml);
    assert!(model.functions.is_empty(), "it has no scan");
    assert!(model.metadata_props.iter().any(|property| property.key.as_deref() == Some("architecture")));
}

#[test]
fn a_selective_model_carries_one_function() {
    let (folder, checkpoint) = copied("tiny/original_mamba_gcn_fixed");
    let out = folder.path().join("model.onnx");
    let output =
        export(&[checkpoint.to_str().unwrap(), "--mamba", "selective", "--out", out.to_str().unwrap(), "--threads", "1", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["settings"]["mamba"]["value"], "selective");
    assert_eq!(report["settings"]["mamba"]["origin"], "set");
    assert_eq!(report["settings"]["num_heads"]["origin"], "defaulted");
    assert_eq!(report["check"]["has_scan"], true);
    assert!(report["check"]["largest_difference"].as_f64().unwrap() < 1e-4);
    let model = read_model(&out);
    assert_eq!(model.functions.len(), 1);
    let function = &model.functions[0];
    assert_eq!((function.name.as_deref(), function.domain.as_deref()), (Some("SelectiveScan"), Some("poselift.ssm")));
    assert_eq!(function.input, ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"]); // the bias of delta's linear map is the operator's
    assert_eq!(function.output, ["y"]);
    assert_eq!(metadata(&model).architecture, "MotionAGFormer+MambaGCN (selective scan)");
}

#[test]
fn what_the_file_does_not_say_is_noted() {
    let (_folder, checkpoint) = copied("tiny/original_mamba_gcn_legacy");
    let output = export(&[checkpoint.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    assert!(report.contains("global-mean  defaulted") && report.contains("Note: the checkpoint does not say with which Mamba"), "{report}");
}

#[test]
fn settings_come_from_the_command_line_and_from_a_file() {
    let (folder, checkpoint) = copied("tiny/official");
    let config = folder.path().join("config.yaml");
    fs::write(&config, "num_heads: 8\nneighbour_num: 3\nepochs: 90\n").unwrap();
    let output = export(&[checkpoint.to_str().unwrap(), "--config", config.to_str().unwrap(), "--set", "num_heads=4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    assert!(report.contains("num_heads        4            set"), "{report}");
    assert!(report.contains("neighbour_num    3            from the configuration file"), "{report}");
}

#[test]
fn our_own_metadata_goes_into_the_model() {
    let (folder, checkpoint) = copied("tiny/original_mamba_gcn_fixed");
    let read = common::read_checkpoint(&golden("tiny/original_mamba_gcn_fixed"), Some(network::MambaForm::Selective));
    let ours = ModelMetadata {
        name: "clip-xs".into(),
        normalisation: Normalisation::PersonBox,
        fps: 25.0,
        trained_on: "motion capture".into(),
        licence: "MIT OR Apache-2.0".into(),
        ..export::lifter::metadata(&read, "x", export::live::Form::Sequence).unwrap()
    };
    let record = network::Checkpoint::own_record(&read.config, &serde_json::to_string(&ours).unwrap()).unwrap();
    let file = Value::dict([("model", read.state.to_value()), ("poselift", record)]);
    formats::pth::write(&checkpoint, &file).unwrap();
    let output = export(&[checkpoint.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("mamba            selective    recorded in the checkpoint"), "{}", text(&output.stdout));
    assert_eq!(metadata(&read_model(&folder.path().join("best_mamba_gcn.onnx"))), ours);
}

#[test]
fn wrong_checkpoints_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fails(&at("absent.pth"), &[], "absent.pth");

    fs::write(at("text.pth"), "these are not weights\n").unwrap();
    fails(&at("text.pth"), &[], "text.pth");

    let whole = fs::read(checkpoint_file(&golden("tiny/official"))).unwrap();
    fs::write(at("cut.pth"), &whole[..whole.len() / 2]).unwrap();
    fails(&at("cut.pth"), &[], "cut.pth");

    let resnet = Value::dict([("model", Value::dict([("fc.weight", Value::Tensor(Tensor::f32(vec![2, 2], vec![0.0; 4])))]))]);
    formats::pth::write(&at("resnet.pth"), &resnet).unwrap();
    fails(&at("resnet.pth"), &[], "not of a lifter that poselift knows");

    fs::write(at("empty.pth"), "").unwrap();
    fails(&at("empty.pth"), &[], "empty.pth");

    let hierarchical = checkpoint_file(&golden("tiny/option_hierarchical"));
    fs::copy(&hierarchical, at("hierarchical.pth.tr")).unwrap();
    fails(&at("hierarchical.pth.tr"), &[], "option `hierarchical`");
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut read = common::read_checkpoint(&golden("tiny/official_with_optimizer"), None);
    let entries = read.state.iter().map(|(name, tensor)| {
        let mut tensor = tensor.clone();
        if name == "head.bias" {
            tensor = Tensor::f32(tensor.shape.clone(), vec![f32::NAN; tensor.len()]);
        }
        (name.to_owned(), tensor)
    });
    read.state = formats::StateDict::new(entries.collect::<Vec<_>>());
    let path = folder.path().join("diverged.pth");
    formats::pth::write(&path, &Value::dict([("model", read.state.to_value())])).unwrap();
    fails(&path, &[], "are the weights of the checkpoint finite?");
}

#[test]
fn wrong_settings_are_named() {
    let (_folder, checkpoint) = copied("tiny/official");
    fails(&checkpoint, &["--set", "heads=4"], "no such key");
    fails(&checkpoint, &["--set", "num_heads=5"], "num_heads");
    fails(&checkpoint, &["--set", "dim_feat=64"], "the shapes of the weights say 32");
    fails(&checkpoint, &["--config", "/nowhere/config.yaml"], "/nowhere/config.yaml");
    let output = export(&[checkpoint.to_str().unwrap(), "--set", "num_heads"]);
    assert!(!output.status.success() && text(&output.stderr).contains("expected KEY=VALUE"));
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let (folder, checkpoint) = copied("tiny/official_with_optimizer");
    let taken = folder.path().join("taken.onnx");
    fs::create_dir(&taken).unwrap();
    fails(&checkpoint, &["--out", folder.path().join("missing/model.onnx").to_str().unwrap()], "missing/model.onnx");
    fails(&checkpoint, &["--out", checkpoint.join("model.onnx").to_str().unwrap()], "model.onnx");
    fails(&checkpoint, &["--out", taken.to_str().unwrap()], "taken.onnx");
    fails(&checkpoint, &["--out", checkpoint.to_str().unwrap()], "is the checkpoint itself");
}

#[test]
fn a_missing_engine_is_one_sentence() {
    let (folder, checkpoint) = copied("tiny/official_with_optimizer");
    let before = files_in(folder.path());
    let output = Command::cargo_bin("export")
        .unwrap()
        .args(["onnx", checkpoint.to_str().unwrap()])
        .env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = text(&output.stderr);
    assert!(
        message.contains("ONNX Runtime") && message.contains("/nowhere/libonnxruntime.so") && !message.contains("panicked"),
        "{message}"
    );
    assert_eq!(files_in(folder.path()), before);
}

fn inspect(arguments: &[&str]) -> Output {
    Command::cargo_bin("export").unwrap().arg("inspect").args(arguments).output().unwrap()
}

#[test]
fn a_model_is_inspected() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx");
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = inspect(&[&[model, "--json"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (one, four) = (json(&[]), json(&["--size", "batch=4"]));
    let total = |report: &serde_json::Value| report["total_macs"].as_u64().unwrap();
    assert_eq!(total(&four), 4 * total(&one), "the work grows with the batch");
    assert_eq!(one["contents"]["metadata"]["skeleton"], "h36m17");
    let scans = one["contents"]["operators"]["poselift.ssm.SelectiveScan"].as_u64().unwrap();
    let config: toml::Table = one["contents"]["metadata"]["config_toml"].as_str().unwrap().parse().unwrap();
    let size = |key: &str| config[key].as_integer().unwrap() as u64;
    assert_eq!(scans, size("n_layers"));
    let frames = one["contents"]["metadata"]["frames"].as_u64().unwrap();
    let by_hand = 4 * scans * 17 * frames * 2 * size("dim_feat") * 16; // 17 sequences, E = 2 C channels, 16 states
    assert_eq!(one["macs"]["by_operator"]["poselift.ssm.SelectiveScan"], by_hand);

    let output = inspect(&[model]);
    assert!(text(&output.stdout).contains("Multiply-accumulates"), "{}", text(&output.stdout));
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    for (arguments, expected) in
        [(vec![readme], "no ONNX model"), (vec!["absent.onnx"], "cannot read absent.onnx"), (vec![model, "--size", "batch=x"], "NAME=SIZE")]
    {
        let output = inspect(&arguments);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

#[test]
fn a_triton_repository_is_made_and_not_overwritten() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx");
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    let library = folder.path().join("libposelift_ops.so");
    fs::write(&library, "a library").unwrap();
    let triton = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("export").unwrap();
        command.args(["triton", "--repository"]).arg(&repository).args(arguments).output().unwrap()
    };
    let made = triton(&[model, "--operators", library.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert_eq!(files_in(&repository.join("clip-xs")), ["1", "config.pbtxt", "libposelift_ops.so"]);
    assert_eq!(fs::read(repository.join("clip-xs/1/model.onnx")).unwrap(), fs::read(model).unwrap());
    let frames = metadata(&read_model(Path::new(model))).frames;
    let configuration = fs::read_to_string(repository.join("clip-xs/config.pbtxt")).unwrap();
    let expected = format!(
        "name: \"clip-xs\"\nbackend: \"onnxruntime\"\nmax_batch_size: 64\n\
         input [{{ name: \"keypoints\" data_type: TYPE_FP32 dims: [ {frames}, 17, 3 ] }}]\n\
         output [{{ name: \"poses\" data_type: TYPE_FP32 dims: [ {frames}, 17, 3 ] }}]\n\
         dynamic_batching {{ max_queue_delay_microseconds: 2000 }}\n\
         model_operations {{ op_library_filename: [ \"libposelift_ops.so\" ] }}\n"
    );
    assert_eq!(configuration, expected);

    assert!(triton(&[model, "--version", "2"]).status.success());
    let detector = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    for (arguments, expected) in [
        (vec![model], "exists"),
        (vec![detector], "no ONNX model"),
        (vec![model, "--name", "../up"], "cannot be a model's name"),
        (vec![model, "--version", "0"], "--version"),
        (vec![model, "--name", "other", "--operators", "absent.so"], "absent.so"),
    ] {
        let output = triton(&arguments);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

#[test]
fn a_missing_checkpoint_is_told_once() {
    let output = export(&["absent.pth"]);
    assert!(!output.status.success());
    let message = text(&output.stderr);
    assert_eq!(message.matches("No such file").count(), 1, "{message}");
}
