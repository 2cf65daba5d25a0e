//! Train, export, run, lift, film: the binaries hand each other real files, with nothing done by hand.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use datasets::synthetic::walks;
use formats::Tensor;
use pose::Keypoint;

/// A binary of the workspace. `make test` builds them all before the tests.
fn binary(name: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = profile.join(name);
    assert!(path.is_file(), "{} is not built: run `cargo build --workspace` first, as `make test` does", path.display());
    Command::new(path)
}

#[track_caller]
fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// Ends with an exit status other than 0 and one sentence that holds `expected`.
#[track_caller]
fn fails(command: &mut Command, expected: &str) {
    let output = command.output().expect("started");
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{command:?} succeeded: {}", text(&output.stdout));
    assert!(message.to_lowercase().contains(expected), "{command:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

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

/// A folder with a data set of synthetic walks and a recipe; the trained run is in `run`.
struct Trained {
    folder: tempfile::TempDir,
}

impl Trained {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (split, clips, seed) in [("train", 12, 1), ("val", 3, 2), ("test", 3, 3)] {
            let set = walks(split, clips, 120, seed).expect("walks");
            set.save(&folder.path().join(format!("mocap_{split}.npz"))).expect("saved");
        }
        let new = Self { folder };
        std::fs::write(new.path("recipe.toml"), RECIPE).expect("written");
        new
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self) -> Command {
        let mut command = binary("trainer");
        command.arg("train").arg("--config").arg(self.path("recipe.toml")).arg("--data").arg(self.folder.path());
        command.arg("--out").arg(self.path("run")).args(["--threads", "1"]);
        command
    }

    /// Validation MPJPE in mm of each epoch.
    fn validation(&self) -> Vec<f64> {
        let lines = std::fs::read_to_string(self.path("run/metrics.jsonl")).expect("the run's figures");
        lines.lines().map(|line| find_mpjpe(&serde_json::from_str(line).expect("JSON")).expect("an MPJPE")).collect()
    }
}

/// The first number whose key speaks of the MPJPE at the true root depth.
fn find_mpjpe(value: &serde_json::Value) -> Option<f64> {
    match value {
        serde_json::Value::Object(map) => map
            .iter()
            .find_map(|(key, value)| if key.starts_with("mpjpe") { value.as_f64() } else { None })
            .or_else(|| map.values().find_map(find_mpjpe)),
        serde_json::Value::Array(values) => values.iter().find_map(find_mpjpe),
        _ => None,
    }
}

/// A synthetic person walking before a camera at 4 m: what a 2D detector would hand over.
fn walking_keypoints(path: &Path) -> usize {
    let set = walks("probe", 1, 60, 9).expect("walks");
    let image = pose::ImageSize { width_px: 1280, height_px: 720 };
    let frames: Vec<pose::Keypoints17> = set
        .poses(0)
        .iter()
        .map(|pose| {
            std::array::from_fn(|joint| {
                // World: x right, y away, z up; the camera stands 4 m from the first pelvis at 1 m height.
                let [x, y, z] = pose[joint].map(f64::from);
                let [x0, y0, _] = set.poses(0)[0][0].map(f64::from);
                let depth = 4000.0 + (y - y0);
                Keypoint {
                    x_px: (640.0 + 1000.0 * (x - x0) / depth) as f32,
                    y_px: (360.0 - 1000.0 * (z - 1000.0) / depth) as f32,
                    confidence: 1.0,
                }
            })
        })
        .collect();
    let times_s = (0..frames.len()).map(|i| i as f64 / 50.0).collect();
    let count = frames.len();
    formats::keypoints::write_json(path, &pose::KeypointClip { frames, times_s, image }).expect("written");
    count
}

#[test]
fn from_motion_to_film_with_nothing_by_hand() {
    let work = Trained::new();

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
