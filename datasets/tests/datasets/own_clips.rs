//! A user's own clips: one camera with 3D, several calibrated cameras, and what is refused.

use std::path::{Path, PathBuf};

use datasets::inspect::{Kind, inspect};
use datasets::{
    CameraKind, EvaluationOptions, EvaluationSet, Gaps, OwnClips, RecordedOptions, RecordedSampler, SampleSource, evaluate, synthetic,
};
use pose::camera::{Extrinsics, Intrinsics};
use pose::normalise::Normalisation;
use pose::{ImageSize, JOINTS, Keypoint, KeypointClip, Pose3};
use serde_json::{Value as Json, json};

const IMAGE: ImageSize = ImageSize { width_px: 1920, height_px: 1080 };

/// World poses of a walk, 50 frames per second.
fn walk(frames: usize) -> Vec<Pose3> {
    synthetic::walks("walk", 1, frames, 5).unwrap().poses(0).to_vec()
}

/// Four cameras around the walker, with a lens each.
fn cameras() -> Vec<(Intrinsics, Extrinsics)> {
    (0..4)
        .map(|i| {
            let angle = 0.3 + 1.5 * i as f32;
            let position_mm = [6000.0 * angle.cos(), 6000.0 * angle.sin(), 1400.0];
            let intrinsics = Intrinsics::from_horizontal_fov_deg(IMAGE, 55.0 + 2.0 * i as f32).unwrap();
            (intrinsics, Extrinsics::look_at(position_mm, [0.0, 0.0, 900.0], 0.02 * i as f32).unwrap())
        })
        .collect()
}

fn seen(world_mm: &[Pose3], (intrinsics, extrinsics): &(Intrinsics, Extrinsics)) -> KeypointClip {
    let frames = world_mm.iter().map(|pose| {
        extrinsics.pose_to_camera(pose).map(|p| {
            let [x, y] = intrinsics.project(p).unwrap();
            Keypoint::new(x, y, 0.9)
        })
    });
    KeypointClip::from_fps(frames.collect(), 50.0, IMAGE).unwrap()
}

/// A take of one camera as JSON.
fn single(world_mm: &[Pose3]) -> Json {
    let camera = &cameras()[0];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    formats::keypoints::write_json(&path, &seen(world_mm, camera)).unwrap();
    let mut json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let camera_mm: Vec<Pose3> = world_mm.iter().map(|pose| camera.1.pose_to_camera(pose)).collect();
    json["camera_mm"] = json!(camera_mm);
    json["intrinsics"] = json!({"focal_px": camera.0.focal_px, "centre_px": camera.0.centre_px});
    json["subject"] = json!("ada");
    json
}

fn write(path: &Path, json: &Json) {
    std::fs::write(path, json.to_string()).unwrap();
}

/// Pose2Sim's calibration of [`cameras`].
fn calibration() -> String {
    let mut text = String::new();
    for (i, (intrinsics, extrinsics)) in cameras().iter().enumerate() {
        // p_camera = R p_world + t with R the transpose of world_from_camera
        let r = extrinsics.rotation;
        let rows: Vec<String> = (0..3).map(|k| format!("[{:?}, {:?}, {:?}]", r[0][k], r[1][k], r[2][k])).collect();
        let t = extrinsics.to_camera([0.0; 3]).map(|v| v / 1000.0);
        let ([fx, fy], [cx, cy]) = (intrinsics.focal_px, intrinsics.centre_px);
        text += &format!(
            "[cam_{i}]\nname = \"cam{i}\"\nsize = [1920.0, 1080.0]\nmatrix = [[{fx:?}, 0.0, {cx:?}], [0.0, {fy:?}, {cy:?}], [0.0, 0.0, 1.0]]\n\
             distortions = [0.0, 0.0, 0.0, 0.0]\nrotation = [{}]\ntranslation = [{:?}, {:?}, {:?}]\nfisheye = false\n\n",
            rows.join(", "),
            t[0],
            t[1],
            t[2]
        );
    }
    text + "[metadata]\nadjusted = false\nerror = 0.0\n"
}

/// A folder with a take of four cameras.
fn several(folder: &Path, world_mm: &[Pose3], spoil: impl Fn(usize, &mut KeypointClip)) -> PathBuf {
    let take = folder.join("dance");
    std::fs::create_dir_all(&take).unwrap();
    std::fs::write(take.join("Calib.toml"), calibration()).unwrap();
    for (i, camera) in cameras().iter().enumerate() {
        let mut clip = seen(world_mm, camera);
        spoil(i, &mut clip);
        formats::keypoints::write_npz(&take.join(format!("cam{i}.npz")), &clip).unwrap();
    }
    take
}

fn distance_mm(a: &[Pose3], b: &[Pose3]) -> f32 {
    let distance = |(a, b): (&[f32; 3], &[f32; 3])| (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f32>().sqrt();
    a.iter().flatten().zip(b.iter().flatten()).map(distance).fold(0.0, f32::max)
}

#[test]
fn a_file_of_one_camera_is_a_clip() {
    let folder = tempfile::tempdir().unwrap();
    let world_mm = walk(60);
    write(&folder.path().join("walk.json"), &single(&world_mm));
    assert_eq!(Kind::of(folder.path()).unwrap(), Kind::OwnClips);
    assert_eq!(Kind::of(&folder.path().join("walk.json")).unwrap(), Kind::OwnClips);
    let set = OwnClips::open(folder.path()).unwrap();
    let [clip] = set.clips() else { panic!("one clip") };
    assert_eq!((clip.take.as_str(), clip.subject.as_str(), clip.camera.as_str(), clip.keypoints.frames.len()), ("walk", "ada", "", 60));
    let error = set.mocap(None).unwrap_err().to_string();
    assert!(error.contains("needs world_from_camera"), "{error}");

    // the same in the world, and as NPZ
    let mut in_world = single(&world_mm);
    let extrinsics = cameras()[0].1;
    in_world.as_object_mut().unwrap().remove("camera_mm");
    in_world["world_mm"] = json!(world_mm);
    in_world["world_from_camera"] = json!({"rotation": extrinsics.rotation, "translation_mm": extrinsics.translation_mm});
    write(&folder.path().join("walk.json"), &in_world);
    let other = OwnClips::open(&folder.path().join("walk.json")).unwrap();
    assert!(distance_mm(&other.clips()[0].view.camera_mm, &clip.view.camera_mm) < 0.1);
    let mocap = other.mocap(Some(25.0)).unwrap();
    assert_eq!((mocap.fps(), mocap.frames()), (25.0, 31));
    assert!(distance_mm(&mocap.poses(0)[1..2], &world_mm[2..3]) < 0.1);

    let path = folder.path().join("walk.npz");
    formats::keypoints::write_npz(&path, &clip.keypoints).unwrap();
    let mut arrays: Vec<(String, formats::Value)> = formats::npz::read_values(&path).unwrap().into_iter().collect();
    let numbers = |shape: &[usize], values: Vec<f32>| formats::Value::Tensor(formats::Tensor::f32(shape.to_vec(), values));
    arrays.push(("camera_mm".into(), numbers(&[60, JOINTS, 3], pose::values_from_poses(&clip.view.camera_mm))));
    arrays.push(("focal_px".into(), numbers(&[2], clip.view.intrinsics.focal_px.to_vec())));
    arrays.push(("centre_px".into(), numbers(&[2], clip.view.intrinsics.centre_px.to_vec())));
    let named: Vec<(&str, formats::Value)> = arrays.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    formats::npz::write_values(&path, &named).unwrap();
    std::fs::remove_file(folder.path().join("walk.json")).unwrap();
    let from_npz = OwnClips::open(folder.path()).unwrap();
    assert_eq!(from_npz.clips()[0].view.camera_mm, clip.view.camera_mm);
    assert_eq!(from_npz.clips()[0].keypoints, clip.keypoints);
}

#[test]
fn wrong_files_are_named_with_their_fields() {
    let folder = tempfile::tempdir().unwrap();
    let good = single(&walk(30));
    let scaled = |factor: f32| {
        let poses: Vec<Pose3> = serde_json::from_value(good["camera_mm"].clone()).unwrap();
        json!(poses.iter().map(|pose| pose.map(|p| p.map(|v| v * factor))).collect::<Vec<_>>())
    };
    let swapped = |field: &str| {
        let frames = good[field].as_array().unwrap().iter().map(|frame| {
            let joints = frame.as_array().unwrap();
            pose::skeleton::flip_index().map(|j| joints[j].clone())
        });
        json!(frames.collect::<Vec<_>>())
    };
    type Spoil<'a> = Box<dyn Fn(&mut Json) + 'a>;
    let cases: Vec<(Spoil<'_>, &str)> = vec![
        (Box::new(|j| j["camera_mm"] = json!([])), "'camera_mm' has 0 frames and the other fields 30"),
        (Box::new(|j| j["camera_mm"][3] = json!([[1, 2, 3]])), "'camera_mm' has 1 joints in frame 3: expected the 17"),
        (Box::new(|j| j["camera_mm"][3][4] = json!([1, 2])), "at frame 3, joint 4: expected three numbers"),
        (Box::new(|j| j["camera_mm"][3][4] = json!([1, 2, null])), "at frame 3, joint 4: expected three numbers"),
        (Box::new(|j| j["camera_mm"][3][4] = json!([1, 2, 1e9])), "at frame 3, joint 4: expected finite millimetres"),
        (Box::new(|j| j["camera_mm"][3][4] = json!([1, 2, -300])), "joint 4 of frame 3 at a depth of -300 mm"),
        (Box::new(|j| j["camera_mm"] = scaled(0.001)), "seems to be in metres"),
        (Box::new(|j| j["camera_mm"] = scaled(0.1)), "seems to be in centimetres"),
        (Box::new(|j| j["camera_mm"] = swapped("camera_mm")), "left and right swapped"),
        (Box::new(|j| j["frames"] = swapped("frames")), "left and right swapped against 'camera_mm'"),
        (Box::new(|j| j["intrinsics"]["centre_px"] = json!([100, 100])), "px from the keypoints in the median"),
        (Box::new(|j| j["intrinsics"] = json!(null)), "'intrinsics' is missing or incomplete"),
        (Box::new(|j| j["intrinsics"]["focal_px"] = json!([0, 1])), "'intrinsics' cannot be used"),
        (Box::new(|j| j["world_from_camera"] = json!({"rotation": [[1, 0, 0]]})), "'world_from_camera' is incomplete"),
        (Box::new(|j| j["frames"][2] = json!([[1, 2]])), "frame 2: expected 17 joints"),
        (
            Box::new(|j| {
                let poses = j["camera_mm"].take();
                j.as_object_mut().unwrap().remove("camera_mm");
                j["world_mm"] = poses;
            }),
            "'world_mm' is in the world, but the file has no 'world_from_camera'",
        ),
    ];
    let path = folder.path().join("clip.json");
    for (spoil, expected) in cases {
        let mut json = good.clone();
        spoil(&mut json);
        write(&path, &json);
        let message = OwnClips::open(&path).expect_err(expected).to_string();
        assert!(message.contains("clip.json") && message.contains(expected) && !message.contains('\n'), "{message}: {expected}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(OwnClips::open(folder.path()).unwrap_err().to_string().contains("holds no clip"));
}

#[test]
fn several_cameras_are_triangulated() {
    let folder = tempfile::tempdir().unwrap();
    let world_mm = walk(80);
    several(folder.path(), &world_mm, |_, _| {});
    assert_eq!(Kind::of(folder.path()).unwrap(), Kind::OwnClips);
    let set = OwnClips::open(folder.path()).unwrap();
    assert_eq!((set.clips().len(), set.takes()), (4, vec![("dance", 320)]));
    let report = &set.triangulations()[0];
    assert!(report.reprojection_error_px < 0.1 && report.missing_percent == 0.0, "{report:?}");
    for (clip, (_, extrinsics)) in set.clips().iter().zip(cameras()) {
        let truth: Vec<Pose3> = world_mm.iter().map(|pose| extrinsics.pose_to_camera(pose)).collect();
        assert!(distance_mm(&clip.view.camera_mm, &truth) < 2.0, "{}", distance_mm(&clip.view.camera_mm, &truth));
    }
    let mocap = set.mocap(None).unwrap();
    assert_eq!((mocap.clips().len(), mocap.frames()), (1, 80));
    assert!(distance_mm(mocap.poses(0), &world_mm) < 2.0);
    let summary = inspect(folder.path()).unwrap();
    assert!(summary.parts[0].remarks.iter().any(|remark| remark.contains("reprojection error 0.0 px")), "{:?}", summary.parts[0].remarks);
}

#[test]
fn noise_outliers_and_gaps_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let world_mm = walk(80);
    several(folder.path(), &world_mm, |camera, clip| {
        for (t, frame) in clip.frames.iter_mut().enumerate() {
            for (j, k) in frame.iter_mut().enumerate() {
                let phase = (camera * 1000 + t * 17 + j) as f32;
                (k.x_px, k.y_px) = (k.x_px + 1.5 * (phase * 1.3).sin(), k.y_px + 1.5 * (phase * 2.7).cos());
            }
        }
        if camera == 2 {
            clip.frames.iter_mut().for_each(|frame| frame[13].x_px += 90.0); // someone else's wrist
        }
        clip.frames[20][3] = Keypoint::MISSING; // 20 ms
        clip.frames[50..70].iter_mut().for_each(|frame| frame[0] = Keypoint::MISSING); // 0.4 s: nobody knows where the hip was
    });
    let set = OwnClips::open(folder.path()).unwrap();
    assert_eq!(set.clips().iter().map(|clip| clip.keypoints.frames.len()).collect::<Vec<_>>(), [50, 50, 50, 50, 10, 10, 10, 10]);
    let report = &set.triangulations()[0];
    assert_eq!(report.frames, [80, 60]);
    assert!((0.3..3.0).contains(&report.reprojection_error_px), "{report:?}");
    assert!(report.rejected_percent[2] > 5.0 && report.rejected_percent[0] < 1.0, "{report:?}");
    let truth: Vec<Pose3> = world_mm[..50].iter().map(|pose| cameras()[1].1.pose_to_camera(pose)).collect();
    assert!(distance_mm(&set.clips()[1].view.camera_mm, &truth) < 40.0);
    // in time, the pieces of a take stay apart
    let [first, rest] = set.split_in_time(0.2).unwrap();
    assert_eq!(first.clips()[0].keypoints.frames.len(), 40);
    assert_eq!(rest.clips().len(), 4, "a fifth of 10 frames is too short");
}

#[test]
fn takes_that_do_not_fit_are_refused() {
    let world_mm = walk(40);
    let refused = |spoil: &dyn Fn(&Path), distort: &dyn Fn(usize, &mut KeypointClip)| {
        let folder = tempfile::tempdir().unwrap();
        let take = several(folder.path(), &world_mm, distort);
        spoil(&take);
        OwnClips::open(folder.path()).unwrap_err().to_string()
    };
    let remove = |names: &[&str], take: &Path| names.iter().for_each(|name| std::fs::remove_file(take.join(name)).unwrap());
    let nothing = |_: usize, _: &mut KeypointClip| {};
    let calibrate = |from: &str, to: &str, take: &Path| std::fs::write(take.join("Calib.toml"), calibration().replace(from, to)).unwrap();
    let message = refused(&|take| remove(&["cam1.npz", "cam2.npz", "cam3.npz"], take), &nothing);
    assert!(message.contains("keypoints of cam0 alone: expected at least two"), "{message}");
    let message = refused(&|_| {}, &|camera, clip| {
        if camera == 1 {
            clip.frames.truncate(20);
            clip.times_s.truncate(20);
        }
    });
    assert!(message.contains("has 40 frames of camera 'cam0' and 20 of 'cam1'"), "{message}");
    let message = refused(&|_| {}, &|camera, clip| clip.image.width_px += 100 * camera as u32);
    assert!(message.contains("was calibrated for 1920 x 1080"), "{message}");
    let message = refused(&|take| calibrate("[metadata]", "[metadata]\nunit = \"mm\"", take), &nothing);
    assert!(message.contains("metres") || message.contains("depth"), "{message}");
    // the second camera runs two seconds ahead of the others in a take of two
    let message = refused(&|take| remove(&["cam2.npz", "cam3.npz"], take), &|camera, clip| {
        if camera == 1 {
            clip.frames.iter_mut().flatten().for_each(|k| k.y_px += 200.0);
        }
    });
    assert!(message.contains("no two cameras agree within 15 px") && message.contains("Calib.toml"), "{message}");
    let message = refused(&|_| {}, &|_, clip| {
        clip.frames.iter_mut().for_each(|frame| *frame = pose::skeleton::flip_index().map(|j| frame[j]));
    });
    assert!(message.contains("left and right swapped"), "{message}");
}

fn options() -> RecordedOptions {
    RecordedOptions {
        n_frames: 27,
        dim_in: 3,
        normalisation: Normalisation::PersonBox,
        fps: 30.0,
        stride: None,
        flip: 0.0,
        causal: None,
        seed: 0,
    }
}

#[test]
fn samples_hold_what_the_camera_saw() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("walk.json"), &single(&walk(100)));
    let set = OwnClips::open(folder.path()).unwrap();
    let sampler = RecordedSampler::new(&set, options()).unwrap();
    assert_eq!((sampler.len(), sampler.frames()), (7, 27), "100 frames at 50 are 61 at 30, a stretch every 9");
    let sample = sampler.sample(0, 3).unwrap();
    assert_eq!((sample.input.len(), sample.label.len()), (27 * 17 * 3, 27 * 17 * 3));
    assert_eq!(sampler.sample(0, 3).unwrap(), sample, "the same draw is the same sample");
    assert!((1..9).any(|epoch| sampler.sample(epoch, 3).unwrap() != sample), "another epoch, another window");
    for t in 0..27 {
        for j in 0..JOINTS {
            let at = |values: &[f32], j: usize, c: usize| values[(t * JOINTS + j) * 3 + c];
            for c in 0..2 {
                // keypoints are exact here: the input relative to the root is the label
                let input = at(&sample.input, j, c) - at(&sample.input, 0, c);
                assert!((input - at(&sample.label, j, c)).abs() < 1e-3, "{t} {j} {c}");
            }
        }
    }
    let mirrored = RecordedSampler::new(&set, RecordedOptions { flip: 1.0, ..options() }).unwrap().sample(0, 3).unwrap();
    assert_eq!(pose::normalise::flip_input(&sample.input, 3), mirrored.input);
    // shorter than a sample, and as a stream
    let long = RecordedSampler::new(&set, RecordedOptions { n_frames: 243, causal: Some(Gaps::default()), ..options() }).unwrap();
    let sample = long.sample(0, 0).unwrap();
    let last = |t: usize| sample.label[t * JOINTS * 3 + 6];
    assert_eq!(sample.input.len(), 243 * 17 * 3);
    assert!((last(242) - last(100)).abs() < 0.2, "the last pose is held");
    assert!(RecordedSampler::new(&set, RecordedOptions { dim_in: 4, ..options() }).is_err());
}

#[test]
fn own_clips_are_measured_as_motion_capture_is() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("walk.json"), &single(&walk(60)));
    let set = OwnClips::open(folder.path()).unwrap().evaluation_set();
    let windowing = datasets::Windowing { fps: Some(30.0), ..datasets::Windowing::new(27) };
    // what the camera saw, without depth
    let flat = |input: &[f32], _: usize| -> Result<Vec<f32>, std::convert::Infallible> {
        let frames = input.chunks_exact(JOINTS * 3);
        Ok(frames.flat_map(|frame| frame.chunks_exact(3).flat_map(|j| [j[0] - frame[0], j[1] - frame[1], 0.0])).collect())
    };
    let report = evaluate(&set, &windowing, flat).unwrap();
    assert_eq!(report.conditions.len(), 1);
    assert_eq!((report.conditions[0].camera, report.conditions[0].noisy), (None, true));
    let of_mocap = EvaluationSet::new(&synthetic::walks("w", 1, 60, 5).unwrap(), &EvaluationOptions::default()).unwrap();
    assert_eq!(of_mocap.clips[0].camera, Some(CameraKind::H36mLike));
    let other = evaluate(&of_mocap, &windowing, flat).unwrap().mean(true).unwrap();
    let own = report.mean(true).unwrap();
    assert!((own.mpjpe_root_depth_mm / other.mpjpe_root_depth_mm - 1.0).abs() < 0.5, "{own:?} {other:?}");
}
