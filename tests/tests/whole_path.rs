//! Train, export, run, lift, film: the binaries hand each other real files, with nothing done by hand.

mod common;

use std::path::Path;

use common::{Trained, binary, fails, succeeds, text, walking_keypoints};
use formats::Tensor;

const RECIPE: &str = r#"
name = "test"
trained_on = "synthetic walks"

[model]
n_layers = 1
dim_in = 3
dim_feat = 16
dim_rep = 32
mlp_ratio = 2
num_heads = 4
neighbour_num = 2
n_frames = 9

[model.mamba_gcn]
mamba = "selective"
dropout = 0.0

[data]
normalisation = "person_box"
fps = 30.0
stride = 9
noise = false

[data.augmentation]
fps = [25.0, 35.0]

[train]
epochs = 3
batch_size = 8
learning_rate = 3e-3
layer_scale = 0.1

[train.optimiser]
kind = "adamw"
weight_decay = 0.01

[train.loss]
mpjpe = 1.0
n_mpjpe = 0.5
velocity = 2.0
"#;

#[test]
fn from_motion_to_film_with_nothing_by_hand() {
    let work = Trained::new(RECIPE);

    // trainer train -> best.pth, and validation gets better
    succeeds(&mut work.train());
    let errors = work.validation();
    assert_eq!(errors.len(), 3, "one line of figures for each epoch: {errors:?}");
    assert!(errors[2] < errors[0], "validation MPJPE falls: {errors:?} mm");

    // export onnx best.pth -> best.onnx beside it, checked
    let said = succeeds(binary("export").arg("onnx").arg(work.path("run/best.pth")));
    let said = text(&said.stdout) + &text(&said.stderr);
    assert!(said.contains("selective"), "what was recorded is printed: {said}");
    let model = work.path("run/best.onnx");

    // the same numbers with the kernel and with the file's own function body
    let input: Vec<f32> = (0..2 * 9 * 17 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    formats::npy::write(&work.path("x.npy"), &Tensor::f32([2, 9, 17, 3], input)).expect("written");
    let run = |output: &str, extra: &[&str]| {
        let path = work.path(output);
        succeeds(binary("runtime").arg("run").arg(&model).arg("--input").arg(work.path("x.npy")).arg("--output").arg(&path).args(extra));
        let tensor = formats::npy::read(&path).expect("read");
        assert_eq!(tensor.shape, [2, 9, 17, 3]);
        tensor.to_f32()
    };
    let (kernel, body) = (run("kernel.npy", &[]), run("body.npy", &["--no-custom-op"]));
    let near = kernel.iter().zip(&body).filter(|(a, b)| (*a - *b).abs() <= 1e-4).count();
    assert!(near as f64 >= 0.97 * kernel.len() as f64, "{near} of {} within 1e-4", kernel.len());

    // demo --keypoints -> film, JSON, NPZ
    let keypoints = work.path("walk.json");
    let frames = walking_keypoints(&keypoints);
    succeeds(binary("demo").arg("--keypoints").arg(&keypoints).arg("--model").arg(&model).arg("--out").arg(work.path("out")));
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(work.path("out/walk.3d.json")).expect("read")).expect("JSON");
    assert!(json.to_string().contains("default_height"), "the result says where its scale came from");
    let documented = include_str!("../../docs/formats.md");
    for field in json.as_object().expect("an object").keys() {
        assert!(documented.contains(&format!("`{field}`")), "docs/formats.md does not say what `{field}` is");
    }
    let arrays = formats::npz::read_values(&work.path("out/walk.3d.npz")).expect("read");
    let camera = arrays.get("camera_mm").and_then(|value| value.as_tensor()).expect("camera_mm");
    assert_eq!(camera.shape, [frames, 17, 3]);
    assert!(camera.to_f32().iter().all(|v| v.is_finite()));
    assert!(work.path("out/walk.3d.mp4").metadata().expect("a film").len() > 10_000);

    wrong_input(&work, &model, &keypoints);
}

/// The same files, broken: one sentence each, and nothing left behind.
fn wrong_input(work: &Trained, model: &Path, keypoints: &Path) {
    let export = |file: &str| {
        let mut command = binary("export");
        command.arg("onnx").arg(work.path(file));
        command
    };
    std::fs::write(work.path("text.pth"), "not a checkpoint").expect("written");
    fails(&mut export("text.pth"), "text.pth");
    let whole = std::fs::read(work.path("run/best.pth")).expect("read");
    std::fs::write(work.path("half.pth"), &whole[..whole.len() / 2]).expect("written");
    fails(&mut export("half.pth"), "half.pth");
    fails(&mut export("none.pth"), "none.pth");
    assert!(!work.path("half.onnx").exists());

    let demo = |keypoints: &Path, model: &Path| {
        let mut command = binary("demo");
        command.arg("--keypoints").arg(keypoints).arg("--model").arg(model).arg("--out").arg(work.path("broken"));
        command
    };
    let clip = std::fs::read_to_string(keypoints).expect("read");
    let mut value: serde_json::Value = serde_json::from_str(&clip).expect("JSON");
    for frame in value["frames"].as_array_mut().expect("frames") {
        frame.as_array_mut().expect("joints").pop();
    }
    std::fs::write(work.path("sixteen.json"), value.to_string()).expect("written");
    fails(&mut demo(&work.path("sixteen.json"), model), "16");
    std::fs::write(work.path("empty.json"), "").expect("written");
    fails(&mut demo(&work.path("empty.json"), model), "empty.json");
    fails(&mut demo(&work.path("none.json"), model), "none.json");
    std::fs::write(work.path("text.onnx"), "not a model").expect("written");
    fails(&mut demo(keypoints, &work.path("text.onnx")), "text.onnx");
    assert!(!work.path("broken/sixteen.3d.json").exists());

    fails(binary("trainer").arg("eval").arg(work.path("text.pth")).arg("--data").arg(work.folder.path()), "text.pth");
    let mut nowhere = binary("trainer");
    nowhere
        .arg("train")
        .arg("--config")
        .arg(work.path("recipe.toml"))
        .arg("--data")
        .arg(work.path("nowhere"))
        .arg("--out")
        .arg(work.path("x"));
    fails(&mut nowhere, "nowhere");
}
