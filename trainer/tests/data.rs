//! `trainer data` from outside: every kind of set, its picture, what is made of it, and wrong input.
#![allow(clippy::print_stdout)] // what was skipped

mod common;

use std::path::Path;

use assert_cmd::Command;
use common::shared;
use datasets::{MocapSet, synthetic};
use serde_json::Value as Json;

fn data(what: &str, path: &Path, more: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("trainer").unwrap();
    command.args(["data", what]).arg(path).args(more).output().unwrap()
}

fn succeed(what: &str, path: &Path, more: &[&str]) -> String {
    let output = data(what, path, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn inspect(path: &Path) -> Json {
    serde_json::from_str(&succeed("inspect", path, &["--json"])).unwrap()
}

fn error(what: &str, path: &Path, more: &[&str]) -> String {
    let output = data(what, path, more);
    assert!(!output.status.success(), "it succeeded");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("no error line in {text}")).to_owned()
}

#[test]
fn every_kind_is_recognised_and_counted() {
    let Some(formats) = shared("reference/formats/numpy2") else { return };
    let motion3d = formats.join("motion3d");
    for (path, kind, frames) in [
        (motion3d.join("h36m_sh_conf_cam_source_final.pkl"), "motionbert", 1063 + 1400),
        (motion3d.join("H36M-243"), "clip-folder", 243 * 12),
        (formats.join("videopose3d"), "videopose3d", 0),
        (motion3d.join("data_train_3dhp.npz"), "mpi-inf-3dhp", 0),
        (motion3d.join("data_test_3dhp.npz"), "mpi-inf-3dhp", 0),
    ] {
        let found = inspect(&path);
        assert_eq!(found["kind"], kind, "{}", path.display());
        let parts = found["parts"].as_array().unwrap();
        let total: u64 = parts.iter().map(|part| part["frames"].as_u64().unwrap()).sum();
        assert!(if frames == 0 { total > 0 } else { total == frames }, "{}: {total} frames", path.display());
        assert!(parts.iter().all(|part| part["bodies"]["bones"].as_array().unwrap().len() == 16));
    }
    let Some(mocap) = shared("data/mocap/tiny_test.npz") else { return };
    let text = succeed("inspect", &mocap, &[]);
    for expected in ["11 sequences, 3329 frames", "subjects: 4", "to RKnee", "mm, world", "sides agree by 0."] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
}

#[test]
fn a_preview_is_a_picture_of_people() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("walks.npz");
    synthetic::walks("walks", 3, 40, 1).unwrap().save(&set).unwrap();
    let out = folder.path().join("sheet.png");
    assert!(succeed("preview", &set, &["--poses", "5", "--out", out.to_str().unwrap()]).contains("5 poses"));
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&out).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let blue = pixels.chunks_exact(3).filter(|p| p[2] > p[0].saturating_add(80)).count();
    let orange = pixels.chunks_exact(3).filter(|p| p[0] > p[2].saturating_add(80)).count();
    assert!(blue > 200 && orange > 200, "{blue} blue and {orange} orange pixels");
    assert!(error("preview", &set, &["--out", "sheet.jpg"]).contains("--out names a .png file"));
    assert!(error("preview", &set, &["--poses", "0", "--out", "sheet.png"]).contains("--poses 0"));
}

/// A set of walks as BVH files `NN_01.bvh`, written by our own writer.
fn bvh_folder(folder: &Path, set: &MocapSet, unit: formats::motion::bvh::Unit) {
    for clip in 0..set.clips().len() {
        let times_s: Vec<f64> = (0..set.poses(clip).len()).map(|t| t as f64 / set.fps()).collect();
        let motion = formats::motion::MotionClip::new(set.poses(clip), &times_s).unwrap();
        formats::motion::bvh::write(&folder.join(format!("{:02}_01.bvh", clip + 1)), &motion, unit).unwrap();
    }
}

#[test]
fn bvh_becomes_a_training_folder() {
    let folder = tempfile::tempdir().unwrap();
    let walks = synthetic::walks("walks", 4, 60, 2).unwrap();
    for unit in [formats::motion::bvh::Unit::Metres, formats::motion::bvh::Unit::Centimetres] {
        bvh_folder(folder.path(), &walks, unit);
        let found = inspect(folder.path());
        assert_eq!((&found["kind"], &found["parts"][0]["sequences"]), (&Json::from("bvh"), &Json::from(4)));
        let out = folder.path().join("converted");
        let text = succeed("convert", folder.path(), &["--val", "02", "--test", "03", "--out", out.to_str().unwrap()]);
        assert!(text.contains("mocap_train.npz: 2 clips"), "{text}");
        // joints that our writer places exactly come back where they were, but for bone lengths, which BVH holds constant
        let test = MocapSet::open(&out.join("mocap_test.npz")).unwrap();
        let mut worst = 0f32;
        for (found, expected) in test.poses(0).iter().zip(walks.poses(2)) {
            for joint in [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16] {
                let between = (0..3).map(|c| (found[joint][c] - expected[joint][c]).powi(2)).sum::<f32>().sqrt();
                worst = worst.max(between);
            }
        }
        println!("largest distance {worst} mm");
        assert!(worst < 20.0, "{worst} mm");
        assert_eq!((test.fps(), test.clips()[0].subject.as_str()), (50.0, "03"));
        let unknown = error("convert", folder.path(), &["--val", "77", "--test", "03", "--out", out.to_str().unwrap()]);
        assert!(unknown.contains("--val 77: no such subject or take; there are the subjects 01, 02, 03, 04"), "{unknown}");
        std::fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn cmu_s_asf_and_amc_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let subject = folder.path().join("07");
    std::fs::create_dir(&subject).unwrap();
    std::fs::write(subject.join("07.asf"), asf()).unwrap();
    std::fs::write(subject.join("07_01.amc"), amc(90.0)).unwrap();
    let out = folder.path().join("all.npz");
    succeed("convert", folder.path(), &["--out", out.to_str().unwrap()]);
    let set = MocapSet::open(&out).unwrap();
    assert_eq!((set.fps(), set.frames()), (50.0, 5), "12 frames at 120 per second");
    succeed("convert", folder.path(), &["--fps", "120", "--out", out.to_str().unwrap()]);
    assert_eq!(MocapSet::open(&out).unwrap().frames(), 12);
    assert_eq!((set.clips()[0].name.as_str(), set.clips()[0].subject.as_str()), ("07_01", "07"));
    let unit = 25.4 / 0.45; // mm
    let pose = &set.poses(0)[0];
    let close = |joint: usize, expected: [f64; 3]| {
        (0..3).for_each(|c| assert!((f64::from(pose[joint][c]) - expected[c] * unit).abs() < 0.1, "joint {joint}: {:?}", pose[joint]));
    };
    // root at (0, 17, 0) y up; x stays, z (forward) becomes -y
    close(0, [0.0, 0.0, 17.0 - 1.5]);
    close(4, [1.5, 0.0, 15.5]);
    close(5, [1.5, 0.0, 15.5 - 7.0]);
    close(2, [-1.5, 0.0, 8.5]);
    // the right knee is bent by 90 degrees about the shin's own x axis, which is turned by 20 degrees about z
    let (sin, cos) = 20f64.to_radians().sin_cos();
    close(3, [-1.5 - 7.0 * sin * cos, 7.0 * cos, 8.5 - 7.0 * sin * sin]);
    close(8, [0.0, 0.0, 23.0]);
    close(10, [0.0, 0.0, 26.0]);
    assert!(pose[9][1] < -30.0, "the nose is in front: {:?}", pose[9]);
    close(13, [9.0, 0.0, 23.0]);

    std::fs::write(subject.join("07_01.amc"), amc(90.0).replace("rtibia 90", "rtibia 90 3")).unwrap();
    assert!(error("inspect", folder.path(), &[]).contains("has 2 numbers for 'rtibia' in frame 1: expected 1"));
    std::fs::remove_file(subject.join("07.asf")).unwrap();
    assert!(error("inspect", &subject.join("07_01.amc"), &[]).contains("expected its skeleton"));
}

/// Somebody with arms stretched out to the sides, in CMU's units; the shins' x axis bends the knee backwards.
fn asf() -> String {
    let mut bones = String::new();
    let mut hierarchy = String::from("  begin\n");
    for (parent, name, direction, length, dof) in [
        ("root", "lhipjoint", "0.7071 -0.7071 0", 2.12132, ""),
        ("lhipjoint", "lfemur", "0 -1 0", 7.0, "rx ry rz"),
        ("lfemur", "ltibia", "0 -1 0", 7.0, "rx"),
        ("root", "rhipjoint", "-0.7071 -0.7071 0", 2.12132, ""),
        ("rhipjoint", "rfemur", "0 -1 0", 7.0, "rx ry rz"),
        ("rfemur", "rtibia", "0 -1 0", 7.0, "rx"),
        ("root", "lowerback", "0 1 0", 2.0, "rx ry rz"),
        ("lowerback", "upperback", "0 1 0", 2.0, ""),
        ("upperback", "thorax", "0 1 0", 2.0, ""),
        ("thorax", "lowerneck", "0 1 0", 1.0, ""),
        ("lowerneck", "head", "0 1 0", 2.0, "rx ry rz"),
        ("thorax", "lclavicle", "1 0 0", 3.0, ""),
        ("lclavicle", "lhumerus", "1 0 0", 3.0, ""),
        ("lhumerus", "lradius", "1 0 0", 3.0, ""),
        ("thorax", "rclavicle", "-1 0 0", 3.0, ""),
        ("rclavicle", "rhumerus", "-1 0 0", 3.0, ""),
        ("rhumerus", "rradius", "-1 0 0", 3.0, ""),
    ] {
        let dof = if dof.is_empty() { String::new() } else { format!("    dof {dof}\n") };
        bones += &format!("  begin\n    name {name}\n    direction {direction}\n    length {length}\n    axis 0 0 20 XYZ\n{dof}  end\n");
        hierarchy += &format!("    {parent} {name}\n");
    }
    format!(
        "# AST/ASF file\n:version 1.10\n:units\n  mass 1.0\n  length 0.45\n  angle deg\n:root\n  order TX TY TZ RX RY RZ\n  axis XYZ\n  position 0 0 0\n  orientation 0 0 0\n:bonedata\n{bones}:hierarchy\n{hierarchy}  end\n"
    )
}

fn amc(knee_deg: f64) -> String {
    let frame = |t: usize| {
        format!("{t}\nroot 0 17 0 0 0 0\nlowerback 0 0 0\nhead 0 0 0\nlfemur 0 0 0\nltibia 0\nrfemur 0 0 0\nrtibia {knee_deg}\n")
    };
    format!("#!OML:ASF\n:FULLY-SPECIFIED\n:DEGREES\n{}", (1..=12).map(frame).collect::<String>())
}

#[test]
fn wrong_input_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(error("inspect", &at("absent"), &[]).contains("is not there"));
    assert!(error("inspect", folder.path(), &[]).contains("holds none of the folders that are known"));
    std::fs::write(at("notes.txt"), "x").unwrap();
    assert!(error("inspect", &at("notes.txt"), &[]).contains("is of no known kind"));
    let made = at("made-by-a-pickle");
    std::fs::write(at("bad.pkl"), format!("cos\nsystem\n(S'touch {}'\ntR.", made.display())).unwrap();
    assert!(error("inspect", &at("bad.pkl"), &[]).contains("bad.pkl"));
    assert!(!made.exists(), "the pickle ran");
    for (text, expected) in [
        ("HIERARCHY\nROOT Hips {", "ends early"),
        ("HIERARCHY\nROOT Hips { OFFSET 0 0 x", "'x' where a number belongs"),
        (
            "HIERARCHY\nROOT Hips { OFFSET 0 0 0 CHANNELS 1 Xrotation }\nMOTION\nFrames: 99999999\nFrame Time: 0.01\n1",
            "is too short for them",
        ),
        ("HIERARCHY\nROOT Hips { OFFSET 0 0 0 CHANNELS 1 Xrotation }\nMOTION\nFrames: 1\nFrame Time: 0.01\n1", "has no joint for RHip"),
        ("solid cube", "'solid' where 'HIERARCHY' belongs"),
    ] {
        std::fs::write(at("one.bvh"), text).unwrap();
        let found = error("inspect", &at("one.bvh"), &[]);
        assert!(found.contains(expected) && found.contains("one.bvh"), "{found}");
    }
    // metres where millimetres belong, and swapped sides, are named
    let walks = synthetic::walks("walks", 1, 20, 3).unwrap();
    let scaled =
        |factor: f32| formats::Tensor::f32([20, 17, 3], pose::values_from_poses(walks.poses(0)).iter().map(|v| v * factor).collect());
    let meta = r#"{"fps": 50}"#.as_bytes().to_vec();
    let write = |poses: formats::Tensor| {
        let vector = |data: formats::Data| formats::Tensor { shape: vec![data.len()], data };
        let arrays = [
            ("poses", poses),
            ("offsets", vector(formats::Data::I64(vec![0, 20]))),
            ("meta_json", vector(formats::Data::U8(meta.clone()))),
        ];
        formats::npz::write(&at("set.npz"), &arrays.map(|(name, tensor)| (name.to_owned(), tensor)).into()).unwrap();
    };
    write(scaled(0.001));
    assert!(error("inspect", &at("set.npz"), &[]).contains("seem to be in metres"));
    let swapped: Vec<f32> = walks.poses(0).iter().flat_map(|pose| pose::skeleton::flip_index().map(|j| pose[j])).flatten().collect();
    write(formats::Tensor::f32([20, 17, 3], swapped));
    assert!(error("inspect", &at("set.npz"), &[]).contains("left and right are swapped"));
    write(scaled(1.0));
    assert!(error("convert", &at("set.npz"), &["--fps", "30", "--out", "x.npz"]).contains("stays at its own rate"));
    assert!(error("convert", &at("bad.pkl"), &["--out", "x.npz"]).contains("expected motion in world space"));
}
