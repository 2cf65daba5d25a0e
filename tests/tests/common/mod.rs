//! What the tests of whole paths share.
#![allow(dead_code)] // each test file uses its part

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use datasets::synthetic::walks;
use pose::Keypoint;

/// A binary of the workspace. `make test` builds them all before the tests.
pub fn binary(name: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = profile.join(name);
    assert!(path.is_file(), "{} is not built: run `cargo build --workspace` first, as `make test` does", path.display());
    Command::new(path)
}

#[track_caller]
pub fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// Ends with an exit status other than 0 and one sentence that holds `expected`.
#[track_caller]
pub fn fails(command: &mut Command, expected: &str) {
    let output = command.output().expect("started");
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{command:?} succeeded: {}", text(&output.stdout));
    assert!(message.to_lowercase().contains(expected), "{command:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a data set of synthetic walks and a recipe; the trained run is in `run`.
pub struct Trained {
    pub folder: tempfile::TempDir,
}

impl Trained {
    pub fn new(recipe: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (split, clips, seed) in [("train", 12, 1), ("val", 3, 2), ("test", 3, 3)] {
            let set = walks(split, clips, 120, seed).expect("walks");
            set.save(&folder.path().join(format!("mocap_{split}.npz"))).expect("saved");
        }
        let new = Self { folder };
        std::fs::write(new.path("recipe.toml"), recipe).expect("written");
        new
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn train(&self) -> Command {
        let mut command = binary("trainer");
        command.arg("train").arg("--config").arg(self.path("recipe.toml")).arg("--data").arg(self.folder.path());
        command.arg("--out").arg(self.path("run")).args(["--threads", "1"]);
        command
    }

    /// Validation MPJPE in mm of each epoch.
    pub fn validation(&self) -> Vec<f64> {
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
pub fn walking_keypoints(path: &Path) -> usize {
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
