//! The camera and the room as the user knows them, and results compared, from outside.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A lifter that gives depth 0: see `data/flat.py`.
const FLAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/flat.onnx");

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demo")).args(arguments).output().expect("the program runs")
}

/// The error, which must be one line.
fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn str(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

/// A standing person as H36M keypoints who sways sideways, 640 x 480 px.
fn keypoint_file(path: &Path, start_s: f64) {
    const PERSON: [[f64; 2]; 17] = [
        [320., 240.],
        [300., 240.],
        [300., 330.],
        [300., 410.],
        [340., 240.],
        [340., 330.],
        [340., 410.],
        [320., 195.],
        [320., 150.],
        [320., 130.],
        [320., 105.],
        [352., 150.],
        [375., 190.],
        [390., 225.],
        [288., 150.],
        [265., 190.],
        [250., 225.],
    ];
    let frame = |t: i32| PERSON.map(|[x, y]| json!([x + 20.0 * (f64::from(t) * 0.1).sin() * (410.0 - y) / 300.0, y, 0.9]));
    let times_s: Vec<f64> = (0..60).map(|t| start_s + f64::from(t) / 25.0).collect();
    let frames: Vec<_> = (0..60).map(frame).collect();
    let file = json!({
        "format": "poselift-keypoints/1", "skeleton": "h36m17", "image": {"width": 640, "height": 480}, "times_s": times_s, "frames": frames
    });
    std::fs::write(path, file.to_string()).expect("a file");
}

/// Lifts a keypoint file of this name and returns its result.
fn lift(folder: &Path, name: &str, options: &[&str]) -> Value {
    let output = run(&[&["--keypoints", str(&folder.join(format!("{name}.json"))), "--model", FLAT, "--no-video"], options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.3d.json"))).expect("a file")).expect("JSON")
}

#[test]
fn the_lens_and_the_camera_are_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    keypoint_file(&folder.join("a.json"), 0.0);
    let lens = folder.join("lens.json");
    let calibration = |size: [u32; 2]| {
        json!({"focal_px": [1600, 1610], "principal_px": [650, 470], "image_size_px": size, "distortion": [-0.1, 0.02]}).to_string()
    };
    std::fs::write(&lens, calibration([1280, 960])).expect("a file");
    let found = lift(folder, "a", &["--intrinsics", str(&lens), "--camera-pitch", "-10", "--camera-height", "1.2"]);
    assert_eq!(found["intrinsics"], json!({"focal_px": [800.0, 805.0], "centre_px": [325.0, 235.0]}));
    assert_eq!(found["world_from_camera"]["translation_mm"][2], 1200.0);
    let away_up = found["world_from_camera"]["rotation"][2][2].as_f64().expect("a number");
    assert!((away_up - 10f64.to_radians().sin()).abs() < 1e-4, "it looks up: {away_up}");
    // what was seen is written as it was seen, and what was lifted is without distortion
    assert_eq!(found["keypoints_px"][0][3], json!([300.0, 410.0]));
    assert!(found["contact"].as_array().is_some_and(|contact| contact.len() == 60));

    std::fs::write(&lens, calibration([960, 1280])).expect("a file");
    let keypoints = folder.join("a.json");
    let with = |options: &[&str]| refusal(&[&["--keypoints", str(&keypoints), "--model", FLAT, "--no-video"], options].concat());
    assert!(with(&["--intrinsics", str(&lens)]).contains("960 x 1280 px and pictures of 640 x 480 px"));
    assert!(with(&["--intrinsics", "absent.toml"]).contains("absent.toml"));
    assert!(with(&["--camera-pitch", "120"]).contains("pitch of the camera: expected -85 to 85 degrees"));
    assert!(with(&["--camera-height", "0"]).contains("height of the camera"));
}

#[test]
fn results_are_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    for (name, start_s) in [("a", 0.0), ("b", 0.013), ("late", 1000.0)] {
        keypoint_file(&folder.join(format!("{name}.json")), start_s);
        lift(folder, name, if name == "b" { &["--height", "1.87"] } else { &["--height", "1.7"] });
    }
    let [a, b, late] = ["a", "b", "late"].map(|name| folder.join(format!("{name}.3d.json")));
    let numbers = |a: &Path, b: &Path| -> Value {
        let output = run(&["--compare", str(a), str(b), "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let same = numbers(&a, &a);
    assert_eq!((same["frames"].as_u64(), same["mpjpe_mm"].as_f64(), same["path_mm"].as_f64()), (Some(60), Some(0.0), Some(0.0)));
    // a tenth taller: bones a tenth longer, root a tenth farther, and nothing is left after scaling
    let taller = numbers(&b, &a);
    let of = |name: &str| taller[name].as_f64().expect("a number");
    assert_eq!(taller["frames"], 59, "the last frame of b lies after the last one of a");
    assert!(of("n_mpjpe_mm") < 0.2 * of("mpjpe_mm") && of("p_mpjpe_mm") < 0.2 * of("mpjpe_mm"), "{taller}");
    assert!((10.0..40.0).contains(&of("bone_length_mm")) && of("depth_mm") > 100.0, "{taller}");
    assert_eq!(taller["joints_mm"][3][0], "RFoot");

    let picture = folder.join("differences.svg");
    let output = run(&["--compare", str(&a), str(&b), "--picture", str(&picture)]);
    assert!(output.status.success());
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("P-MPJPE") && table.contains("LWrist") && !table.contains("NaN"), "{table}");
    let drawn = std::fs::read_to_string(&picture).expect("a picture");
    assert!(drawn.contains("Mean error of each joint") && drawn.contains(">LWrist<"));

    assert!(refusal(&["--compare", str(&a), str(&late)]).contains("which share 0"));
    assert!(refusal(&["--compare", str(&a), "absent.json"]).contains("absent.json"));
    assert!(refusal(&["--compare", str(&a), str(&folder.join("b.json"))]).contains("cannot read the lifted clip"));
    assert!(refusal(&["--compare", str(&a), str(&b), "--picture", "a.png"]).contains("end with .svg"));
    let broken = folder.join("broken.3d.json");
    let mut clip: Value = serde_json::from_slice(&std::fs::read(&a).expect("a file")).expect("JSON");
    clip["times_s"].as_array_mut().expect("a list").truncate(7);
    std::fs::write(&broken, clip.to_string()).expect("a file");
    assert!(refusal(&["--compare", str(&a), str(&broken)]).contains("60 poses and 7 times"));
}
