//! The shipped live models on real motion: every engine, the function body, the sequence and its steps say the same to 1e-4, and they have
//! the layout that a stateful server is told of.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use pose::{
    ImageSize, Keypoint, KeypointClip, Pose3, ROOT,
    camera::{Extrinsics, Intrinsics},
};
use runtime::{Backend, EngineOptions, LiftOptions, Lifter};

const IMAGE: ImageSize = ImageSize { width_px: 1280, height_px: 720 };
const FRAMES: usize = 300;
const MODELS: [&str; 2] = ["live-s", "live-xs"];

fn model(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models")).join(name)
}

/// The first frames of some takes of people that the models never saw, through a camera before them.
fn takes() -> Option<Vec<KeypointClip>> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/mocap/mocap_test.npz"));
    if !path.is_file() {
        return None;
    }
    let arrays = formats::npz::read(path).unwrap();
    let (poses, offsets) = (arrays["poses"].to_f32(), arrays["offsets"].to_i64());
    let longest = offsets.windows(2).filter(|ends| ends[1] - ends[0] >= FRAMES as i64).take(4);
    let take = |ends: &[i64]| -> Vec<Pose3> { pose::poses_from_values(&poses[ends[0] as usize * 51..][..FRAMES * 51]).unwrap() };
    Some(longest.map(|ends| seen(&take(ends))).collect())
}

fn seen(world_mm: &[Pose3]) -> KeypointClip {
    let hip = world_mm[0][ROOT];
    let camera = Extrinsics::look_at([hip[0] + 1000.0, hip[1] - 9000.0, 1500.0], [hip[0], hip[1], 900.0], 0.0).unwrap();
    let intrinsics = Intrinsics::from_horizontal_fov_deg(IMAGE, 60.0).unwrap();
    let frames = world_mm.iter().enumerate().map(|(t, pose)| {
        let mut j = 0;
        camera.pose_to_camera(pose).map(|joint| {
            let [x_px, y_px] = intrinsics.project(joint).unwrap_or([640.0, 360.0]);
            j += 1;
            // some joints are lost for some time
            let confidence = if (t / 20 + j) % 9 == 0 { 0.0 } else { 0.9 };
            Keypoint::new(x_px, y_px, confidence)
        })
    });
    KeypointClip::from_fps(frames.collect(), 50.0, IMAGE).unwrap()
}

#[test]
fn every_way_says_the_same_of_real_motion() {
    let Some(takes) = takes() else {
        eprintln!("skipped: ../shared is absent");
        return;
    };
    assert!(takes.len() >= 3);
    for name in MODELS {
        let open = |end: &str, backend: Backend, custom_op: bool| {
            let options = EngineOptions { backend, custom_op, threads: 1, ..Default::default() };
            Lifter::open(model(&format!("{name}{end}")), &options).unwrap()
        };
        let lift = |lifter: &Lifter, take: &KeypointClip| lifter.lift(take, &LiftOptions::default()).unwrap().pose25;
        let reference = open(".onnx", Backend::Ort, true);
        let others = [
            ("function body", open(".onnx", Backend::Ort, false)),
            ("steps", open(".step.onnx", Backend::Ort, true)),
            ("tract", open(".onnx", Backend::Tract, true)),
            ("steps in tract", open(".step.onnx", Backend::Tract, true)),
        ];
        for take in &takes {
            let expected = lift(&reference, take);
            let size = expected.as_flattened().as_flattened().iter().fold(0f32, |most, v| most.max(v.abs()));
            assert!((0.2..5.0).contains(&size), "{name}: a person measures {size}");
            for (what, lifter) in &others {
                let found = lift(lifter, take);
                let pairs = found.as_flattened().as_flattened().iter().zip(expected.as_flattened().as_flattened());
                let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(found.len() == FRAMES && apart < 1e-4, "{name}, {what}: apart by {apart:.1e}");
            }
        }
    }
}

#[test]
fn a_server_keeps_the_states_of_a_step() {
    let repository = tempfile::tempdir().unwrap();
    let triton = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("export").unwrap();
        command.arg("triton").args(arguments).arg("--repository").arg(repository.path()).output().unwrap()
    };
    let (step, sequence) = (model("live-xs.step.onnx"), model("live-xs.onnx"));
    let (step, sequence) = (step.to_str().unwrap(), sequence.to_str().unwrap());
    let made = triton(&[step, "--stateful", "--max-streams", "500", "--idle", "7"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(repository.path().join("live-xs.step/config.pbtxt")).unwrap();
    assert!(
        text.contains("sequence_batching {\n  max_sequence_idle_microseconds: 7000000\n  oldest { max_candidate_sequences: 500 "),
        "{text}"
    );
    assert!(text.contains("input [{ name: \"keypoints\" data_type: TYPE_FP32 dims: [ 1, 17, 3 ] }]"), "{text}");
    assert!(
        text.contains("state [{ input_name: \"scan_3\" output_name: \"next_scan_3\" data_type: TYPE_FP32 dims: [ 17, 96, 16 ]"),
        "{text}"
    );
    assert_eq!(
        (text.matches("input [").count(), text.matches("state [{ input_name").count(), text.matches("zero_data: true").count()),
        (1, 8, 8)
    );
    for (arguments, expected) in [
        (vec![step, "--name", "a"], "add --stateful"),
        (vec![sequence, "--name", "b", "--stateful"], "takes a step graph"),
        (vec![step, "--name", "c", "--idle", "3"], "--stateful"),
    ] {
        let refused = triton(&arguments);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && message.contains(expected), "{message}");
    }
    assert!(triton(&[sequence]).status.success());
}
