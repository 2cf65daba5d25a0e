use std::collections::BTreeMap;
use std::path::Path;

use datasets::{MocapSet, open_dir, synthetic};
use formats::{Data, Tensor};
use pose::{JOINTS, Pose3, skeleton};

use crate::shared;

type Arrays = BTreeMap<String, Tensor>;

/// The layout of the real files: int16 poses, int32 offsets, int16 subjects.
fn arrays(set: &MocapSet) -> Arrays {
    let poses: Vec<Pose3> = (0..set.clips().len()).flat_map(|clip| set.poses(clip).to_vec()).collect();
    let values: Vec<i16> = poses.as_flattened().as_flattened().iter().map(|v| v.round() as i16).collect();
    let mut offsets = vec![0];
    for clip in set.clips() {
        offsets.push(offsets.last().unwrap() + clip.frames() as i32);
    }
    let clips: Vec<_> = set
        .clips()
        .iter()
        .map(|c| serde_json::json!({"name": c.name, "subject": c.subject, "frames": c.frames(), "licence": "none"}))
        .collect();
    let meta = serde_json::json!({"fps": 50, "unit": "mm", "up": "z", "joints": skeleton::NAMES, "subjects": ["a", "b"], "clips": clips});
    BTreeMap::from([
        ("poses".into(), tensor(vec![poses.len(), JOINTS, 3], Data::I16(values))),
        ("offsets".into(), tensor(vec![offsets.len()], Data::I32(offsets))),
        ("subject".into(), tensor(vec![set.clips().len()], Data::I16(vec![0; set.clips().len()]))),
        ("meta_json".into(), text(&meta.to_string())),
    ])
}

fn tensor(shape: Vec<usize>, data: Data) -> Tensor {
    Tensor::new(shape, data).unwrap()
}

fn text(json: &str) -> Tensor {
    tensor(vec![json.len()], Data::U8(json.as_bytes().to_vec()))
}

fn write(dir: &Path, name: &str, arrays: &Arrays) -> std::path::PathBuf {
    let path = dir.join(name);
    formats::npz::write(&path, arrays).unwrap();
    path
}

/// Poses as f32 after a change of each joint.
fn changed(set: &MocapSet, change: impl Fn([f32; 3]) -> [f32; 3]) -> Tensor {
    let poses: Vec<Pose3> = (0..set.clips().len()).flat_map(|clip| set.poses(clip).to_vec()).map(|pose| pose.map(&change)).collect();
    Tensor::f32([poses.len(), JOINTS, 3], pose::values_from_poses(&poses))
}

#[test]
fn the_layout_of_the_real_files_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let set = synthetic::walks("walks", 5, 60, 3).unwrap();
    for split in ["train", "val", "test"] {
        write(dir.path(), &format!("mocap_{split}.npz"), &arrays(&set));
    }
    let splits = open_dir(dir.path()).unwrap();
    for read in [splits.train, splits.val, splits.test] {
        assert_eq!((read.frames(), read.fps(), read.clips()), (300, 50.0, set.clips()));
        for clip in 0..5 {
            for (a, b) in read.poses(clip).as_flattened().as_flattened().iter().zip(set.poses(clip).as_flattened().as_flattened()) {
                assert!((a - b).abs() <= 0.5, "whole millimetres");
            }
        }
    }
}

#[test]
fn what_is_saved_is_read_back_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let set = synthetic::walks("walks", 3, 20, 4).unwrap();
    let path = dir.path().join("set.npz");
    set.save(&path).unwrap();
    let read = MocapSet::open(&path).unwrap();
    assert_eq!(read.clips(), set.clips());
    (0..3).for_each(|clip| assert_eq!(read.poses(clip), set.poses(clip)));
}

#[test]
fn a_stranger_needs_no_more_than_poses_offsets_and_fps() {
    let dir = tempfile::tempdir().unwrap();
    let mut given = arrays(&synthetic::walks("walks", 3, 20, 4).unwrap());
    given.remove("subject");
    given.insert("meta_json".into(), text(r#"{"fps": 120}"#));
    let read = MocapSet::open(&write(dir.path(), "set.npz", &given)).unwrap();
    assert_eq!((read.fps(), read.clips().len(), read.clips()[1].name.as_str()), (120.0, 3, "clip 1"));
}

#[test]
fn wrong_sets_are_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let set = synthetic::walks("walks", 4, 30, 5).unwrap();
    let with = |name: &str, tensor: Tensor| -> Box<dyn Fn(&mut Arrays)> {
        let name = name.to_owned();
        Box::new(move |arrays: &mut Arrays| {
            arrays.insert(name.clone(), tensor.clone());
        })
    };
    let without = |name: &'static str| -> Box<dyn Fn(&mut Arrays)> { Box::new(move |arrays: &mut Arrays| drop(arrays.remove(name))) };
    let integers = |values: &[i32]| tensor(vec![values.len()], Data::I32(values.to_vec()));
    let poses = |change: fn([f32; 3]) -> [f32; 3]| with("poses", changed(&set, change));
    let meta = |key: &str, value: serde_json::Value| {
        let mut meta = serde_json::json!({"fps": 50.0});
        meta[key] = value;
        with("meta_json", text(&meta.to_string()))
    };
    let cases: Vec<(Box<dyn Fn(&mut Arrays)>, &str)> = vec![
        (without("poses"), "array 'poses' is missing (found: meta_json, offsets, subject)"),
        (without("offsets"), "array 'offsets' is missing"),
        (without("meta_json"), "array 'meta_json' is missing"),
        (with("poses", tensor(vec![120, 16, 3], Data::I16(vec![0; 120 * 48]))), "'poses' has 16 joints: expected the 17 joints"),
        (with("poses", tensor(vec![120, 51], Data::I16(vec![0; 120 * 51]))), "'poses' has shape [120, 51]"),
        (with("poses", tensor(vec![0, 17, 3], Data::I16(vec![]))), "with N > 0"),
        (poses(|[x, y, z]| [x / 1000.0, y / 1000.0, z / 1000.0]), "seem to be in metres: expected millimetres, multiply by 1000"),
        (poses(|p| p.map(|v| (v / 1000.0).round())), "as metres rounded to whole numbers would: expected millimetres"),
        (poses(|[x, y, z]| [x / 10.0, y / 10.0, z / 10.0]), "seem to be in centimetres"),
        (poses(|[x, y, z]| [x / 25.4, y / 25.4, z / 25.4]), "seem to be in inches"),
        (poses(|[x, y, z]| [x, f32::NAN * y, z]), "joint Hip of frame 0 is at"),
        (poses(|[x, y, z]| [x, y, z + 1e9]), "within a kilometre"),
        (poses(|[x, y, z]| [x, z, -y]), "stand along the y axis: expected z up"),
        (poses(|[x, y, z]| [x, -y, -z]), "stand on their heads"),
        (poses(|[x, y, z]| [-x, y, z]), "left and right are swapped"),
        (with("offsets", integers(&[0, 30, 30, 90, 120])), "'offsets' does not rise from 30 to 30 at index 1"),
        (with("offsets", integers(&[0, 60, 30, 90, 120])), "'offsets' does not rise from 60 to 30"),
        (with("offsets", integers(&[0, 30, 60, 90, 119])), "'offsets' runs from 0 to 119: expected 0 to 120"),
        (with("offsets", integers(&[-5, 30, 60, 90, 120])), "'offsets' runs from -5 to 120"),
        (with("offsets", integers(&[120])), "at least two integers"),
        (with("offsets", Tensor::f32([2], vec![0.0, f32::NAN])), "at least two integers"),
        (with("offsets", integers(&[0, 1, 60, 90, 120])), "has 1 frame(s): a motion needs at least 2"),
        (with("subject", integers(&[0])), "'subject' has shape [1], but 'offsets' describes 4 clips"),
        (meta("unit", "m".into()), "the unit of 'meta_json' is \"m\": expected \"mm\""),
        (meta("up", "y".into()), "the up axis of 'meta_json' is \"y\""),
        (meta("joints", vec!["Hip"].into()), "'meta_json' names 1 joints"),
        (
            meta("joints", skeleton::flip_index().map(|j| skeleton::NAMES[j]).to_vec().into()),
            "joint 1 of 'meta_json' is 'LHip': expected 'RHip'",
        ),
        (meta("fps", 0.into()), "fps is 0: expected 1 to 1000"),
        (meta("fps", "fast".into()), "'meta_json' is not the expected JSON"),
        (meta("clips", serde_json::json!([{"name": "a"}])), "'meta_json' names 1 clips, but 'offsets' describes 4"),
        (with("meta_json", text("{")), "'meta_json' is not the expected JSON"),
        (with("meta_json", integers(&[1])), "'meta_json' is not of type uint8"),
    ];
    for (i, (spoil, expected)) in cases.iter().enumerate() {
        let mut spoilt = arrays(&set);
        spoil(&mut spoilt);
        let path = write(dir.path(), &format!("{i}.npz"), &spoilt);
        let message = MocapSet::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "expected '{expected}' in '{message}'");
        assert!(message.starts_with(path.to_str().unwrap()) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn files_that_are_no_npz_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "whole.npz", &arrays(&synthetic::walks("walks", 4, 30, 5).unwrap()));
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 10] {
        let truncated = dir.path().join("truncated.npz");
        std::fs::write(&truncated, &whole[..length]).unwrap();
        let message = MocapSet::open(&truncated).unwrap_err().to_string();
        assert!(message.contains("truncated.npz") && !message.contains('\n'), "{message}");
    }
    let absent = open_dir(dir.path()).unwrap_err().to_string();
    assert!(absent.contains("mocap_train.npz"), "{absent}");
}

#[test]
fn the_real_sets_are_read() {
    let Some(dir) = shared("data/mocap") else { return };
    let splits = open_dir(&dir).unwrap();
    let counts = [&splits.train, &splits.val, &splits.test].map(|set| (set.clips().len(), set.frames(), set.fps()));
    assert_eq!(counts, [(352, 175_991, 50.0), (24, 10_731, 50.0), (60, 25_550, 50.0)]);
    let mut subjects: Vec<_> = splits.val.clips().iter().map(|clip| clip.subject.as_str()).collect();
    subjects.dedup();
    assert!(subjects.contains(&"cmu049") && subjects.contains(&"cmu017"), "{subjects:?}");
    assert_eq!(splits.train.clips()[0].name, "acl_salsa_01@5");
}
