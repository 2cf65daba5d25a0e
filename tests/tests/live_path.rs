//! The live family from a recipe to a stream: train, evaluate, export as sequence and step, lift frame by frame, on both engines.

mod common;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use common::{Trained, binary, fails, succeeds, text, walking_keypoints};
use serde_json::Value;

const RECIPE: &str = r#"
name = "tiny-live"
trained_on = "synthetic walks"

[model]
family = "live"
n_layers = 2
dim_in = 3
dim_feat = 16
dim_rep = 24
mlp_ratio = 2
num_heads = 4
d_state = 8
d_conv = 4
look_aheads = [0, 2]

[data]
normalisation = "person_box"
fps = 30.0
sequence_frames = 32
stride = 16
noise = false

[data.gaps]
rate = 0.02
frames = [1, 6]

[data.augmentation]
fps = [25.0, 35.0]

[train]
epochs = 3
batch_size = 8
learning_rate = 5e-3
sequence_parts = [1, 2, 4]

[train.optimiser]
kind = "adamw"
weight_decay = 0.01

[train.loss]
mpjpe = 1.0
n_mpjpe = 0.5
velocity = 2.0
"#;

/// Poses (17 x 3 each) of a field over all frames.
fn poses(value: &Value) -> Vec<f64> {
    value.as_array().expect("frames").iter().flat_map(|frame| frame.as_array().expect("joints")).flat_map(numbers).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|number| number.as_f64().expect("a number")).collect()
}

/// `runtime lift --stream` on these lines; one JSON value a line.
fn stream(model: &std::path::Path, engine: &str, lines: &str) -> Vec<Value> {
    let mut command: Command = binary("runtime");
    command.arg("lift").arg(model).args(["--stream", "--image-size", "1280x720", "--engine", engine]);
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    running.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("written");
    let output = running.wait_with_output().expect("ended");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn from_a_recipe_to_a_stream() {
    let work = Trained::new(RECIPE);
    succeeds(&mut work.train());
    let errors = work.validation();
    assert!(errors.len() == 3 && errors[2] < errors[0], "validation MPJPE falls: {errors:?} mm");

    // what it costs to wait less, and how good the first frames are
    let checkpoint = work.path("run/best.pth");
    let mut look_ahead = binary("trainer");
    look_ahead.arg("look-ahead").arg(&checkpoint).arg("--data").arg(work.folder.path()).arg("--out").arg(work.path("figures"));
    succeeds(look_ahead.args(["--threads", "1"]));
    let figures: Value = serde_json::from_slice(&std::fs::read(work.path("figures/look_ahead.json")).expect("read")).expect("JSON");
    let rows = figures[0]["look_aheads"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| row["look_ahead"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(2)]);
    assert!(rows.iter().all(|row| row["mpjpe_root_depth_mm"].as_f64().is_some_and(|error| error > 1.0 && error < 1000.0)));
    assert!(figures[0]["since_start"].as_array().is_some_and(|since| since.len() > 3));
    assert!(work.path("figures/look_ahead.png").metadata().expect("a picture").len() > 5_000);
    // the same rows once more, without the model
    let mut again = binary("trainer");
    again.arg("look-ahead").arg("--rows").arg(work.path("figures/look_ahead.json")).arg("--data").arg(work.folder.path());
    succeeds(again.arg("--out").arg(work.path("again")));
    let table = |folder: &str| std::fs::read_to_string(work.path(folder).join("look_ahead.md")).expect("read");
    assert_eq!(table("again"), table("figures"));

    // both graphs, with either look-ahead
    let export = |arguments: &[&str]| {
        let mut command = binary("export");
        command.arg("onnx").arg(&checkpoint).args(arguments);
        command
    };
    let said = text(&succeeds(&mut export(&[])).stdout);
    assert!(said.contains("frame by frame against the whole sequence"), "{said}");
    succeeds(&mut export(&["--step"]));
    let late = work.path("run/late.step.onnx");
    succeeds(&mut export(&["--step", "--look-ahead", "2", "--out", late.to_str().expect("a path")]));
    fails(&mut export(&["--look-ahead", "1"]), "it was trained for 0, 2");
    let (sequence, step) = (work.path("run/best.onnx"), work.path("run/best.step.onnx"));

    // a clip at once, and its frames as lines
    let keypoints = work.path("walk.json");
    let frames = walking_keypoints(&keypoints);
    let lifted = work.path("walk.3d.json");
    succeeds(binary("runtime").arg("lift").arg(&sequence).arg("--keypoints").arg(&keypoints).arg("--output").arg(&lifted));
    let lifted: Value = serde_json::from_slice(&std::fs::read(&lifted).expect("read")).expect("JSON");
    let whole = poses(&lifted["pose25"]);
    let clip = formats::keypoints::read(&keypoints).expect("read");
    let lines: String = clip
        .frames
        .iter()
        .zip(&clip.times_s)
        .map(|(frame, time_s)| {
            let joints: Vec<[f32; 3]> = frame.iter().map(|k| [k.x_px, k.y_px, k.confidence]).collect();
            serde_json::json!({ "time_s": time_s, "keypoints": joints }).to_string() + "\n"
        })
        .collect();
    for engine in ["ort", "tract"] {
        let lines = stream(&step, engine, &lines);
        assert_eq!(lines.len(), frames, "a pose for every frame");
        let live: Vec<f64> = lines.iter().flat_map(|line| line["pose25"].as_array().expect("joints").iter().flat_map(numbers)).collect();
        let apart = live.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(live.len() == whole.len() && apart < 1e-4, "{engine}: stream and clip differ by {apart:.1e}");
    }
    let late = stream(&late, "ort", &lines);
    assert!(late.len() == frames && late[10]["delay_s"].as_f64().is_some_and(|delay_s| delay_s > 0.03), "two frames are waited for");

    // a sequence graph remembers nothing between calls
    let mut wrong = binary("runtime");
    wrong.arg("lift").arg(&sequence).args(["--stream", "--image-size", "1280x720"]).stdin(Stdio::null());
    fails(&mut wrong, "export onnx --step");
    // and recipes say what is wrong with them
    for (setting, expected) in [
        ("data.sequence_frames=0", "data.sequence_frames"),
        ("train.sequence_parts=[3]", "divisors of data.sequence_frames"),
        ("data.kind=clip-folder", "train on motion"),
        ("model.look_aheads=[2,0]", "each above the one before it"),
        ("model.n_layer=2", "did you mean `n_layers`"),
        ("model.family=dead", "expected \"live\""),
    ] {
        fails(work.train().args(["--set", setting, "--set", "name=other"]), &expected.to_lowercase());
    }
}
