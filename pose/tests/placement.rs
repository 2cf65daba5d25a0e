//! 2.5D back into the room, on a synthetic walker seen by known cameras, and on real motion where it is there.

mod common;

use common::*;
use pose::{
    Error, JOINTS, Keypoint, Pose3, ROOT,
    camera::{Extrinsics, Intrinsics},
    metrics,
    normalise::{ImageTransform, Normalisation},
    window,
    world::{self, Scale, ScaleSource},
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn back_projection_inverts_projection_for_any_pose_camera_and_box(
        joints in prop::collection::vec(prop::array::uniform3(-1000f32..1000.0), JOINTS),
        depth_mm in 1500f32..9000.0, half_size_px in 20f32..900.0, fov_deg in 25f32..110.0,
    ) {
        let intrinsics = Intrinsics::from_horizontal_fov_deg(IMAGE, fov_deg).unwrap();
        let camera_mm: Pose3 = std::array::from_fn(|j| [joints[j][0], joints[j][1], joints[j][2] + depth_mm]);
        let transform = ImageTransform { centre_px: [700.0, 300.0], half_size_px };
        let (pose25, root_px) = world::project_frame(&camera_mm, &transform, &intrinsics).unwrap();
        prop_assert_eq!(pose25[ROOT], [0.0; 3]);
        let back = world::back_project_frame(&pose25, &transform, root_px, &intrinsics, camera_mm[ROOT][2]);
        prop_assert!(metrics::mpjpe_mm(&[back], &[camera_mm]) < 0.1);
    }
}

fn largest_relative_error(found: &[f32], expected: &[f32]) -> f32 {
    found.iter().zip(expected).map(|(f, e)| (f / e - 1.0).abs()).fold(0.0, f32::max)
}

#[test]
fn given_root_depths_give_the_pose_to_the_millimetre() {
    let seen = walker_seen();
    let placed = seen.place(&Scale::RootDepth { depth_mm: seen.true_depths() }).unwrap();
    assert!(metrics::mpjpe_mm(&placed.camera_mm, &seen.camera_mm) < 0.05);
    assert_eq!(placed.scale_source, ScaleSource::RootDepth);
    let expected = height_m(&walker(1)[0]);
    assert!((placed.height_m / expected - 1.0).abs() < 0.005, "{} {expected}", placed.height_m);
}

#[test]
fn the_true_stature_gives_the_root_depth() {
    let seen = walker_seen();
    let placed = seen.place(&Scale::Height { height_m: height_m(&walker(1)[0]) }).unwrap();
    let error = largest_relative_error(&placed.root_depth_mm, &seen.true_depths());
    assert!(error < 0.005, "{error}");
    assert!(metrics::mpjpe_mm(&placed.camera_mm, &seen.camera_mm) < 15.0);
}

#[test]
fn noise_moves_the_root_little_and_smoothly() {
    let seen = walker_seen().with_noise(2.0);
    let placed = seen.place(&Scale::Height { height_m: height_m(&walker(1)[0]) }).unwrap();
    let error = largest_relative_error(&placed.root_depth_mm, &seen.true_depths());
    assert!(error < 0.04, "{error}");
    let jump_mm = placed.root_depth_mm.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max);
    assert!(jump_mm < 30.0, "{jump_mm} mm from frame to frame, the walker does 15");
}

#[test]
fn frames_where_the_lifter_fails_do_not_move_the_person() {
    let mut seen = walker_seen();
    let depths = seen.true_depths();
    for t in [50, 51, 52, 200, 201] {
        seen.pose25[t] = seen.pose25[t].map(|p| p.map(|v| 0.3 * v)); // as if three times as far away
    }
    seen.pose25[300..305].fill([[0.0; 3]; JOINTS]); // all joints on the root
    let placed = seen.place(&Scale::Height { height_m: height_m(&walker(1)[0]) }).unwrap();
    let error = largest_relative_error(&placed.root_depth_mm, &depths);
    assert!(error < 0.02, "{error}");
}

#[test]
fn other_scales_do_as_they_say() {
    let seen = walker_seen();
    let default = seen.place(&Scale::default()).unwrap();
    assert_eq!(default.scale_source, ScaleSource::DefaultHeight);
    assert!((default.height_m - world::DEFAULT_HEIGHT_M).abs() < 1e-3);

    let mut lengths_mm = [0.0; JOINTS - 1];
    (lengths_mm[1], lengths_mm[5]) = (430.0, 430.0); // a thigh and a shank
    let placed = seen.place(&Scale::BoneLengths { lengths_mm }).unwrap();
    assert!(largest_relative_error(&placed.root_depth_mm, &seen.true_depths()) < 0.005);
    assert!((placed.bone_lengths_mm[2] - 430.0).abs() < 3.0);

    let one = seen.place(&Scale::RootDepth { depth_mm: vec![4000.0] }).unwrap();
    assert!(one.camera_mm.iter().all(|pose| pose[ROOT][2] == 4000.0));
}

#[test]
fn all_joints_vote_for_the_root() {
    let mut seen = walker_seen();
    for frame in &mut seen.keypoints {
        frame[ROOT] = Keypoint::MISSING;
        frame[13] = Keypoint::new(1900.0, 10.0, 0.9); // a wrist that the detector puts elsewhere
    }
    seen.keypoints[70..80].fill([Keypoint::MISSING; JOINTS]); // nobody there
    let path = world::root_path_px(&seen.pose25, &seen.transforms, &seen.keypoints, &seen.times_s).unwrap();
    for (t, (found, expected)) in path.iter().zip(&seen.root_px).enumerate() {
        let error = (found[0] - expected[0]).hypot(found[1] - expected[1]);
        let bound = if (70..80).contains(&t) { 20.0 } else { 2.0 };
        assert!(error < bound, "frame {t}: {error} px");
    }
    seen.keypoints.fill([Keypoint::MISSING; JOINTS]);
    let nobody = world::root_path_px(&seen.pose25, &seen.transforms, &seen.keypoints, &seen.times_s);
    assert_eq!(nobody, Err(Error::NoConfidentKeypoint { frames: 400 }));
}

#[test]
fn windows_with_their_own_boxes_merge_without_a_seam() {
    let seen = walker_seen();
    let mut poses_px = window::Merger::new(400, JOINTS * 3);
    for w in window::plan(400, 81, 27).unwrap() {
        let frames = w.gather(&seen.keypoints);
        let t = ImageTransform::person_box(&frames).unwrap();
        let lift = |pose: &Pose3| world::project_frame(pose, &t, &seen.intrinsics).unwrap().0;
        let lifted: Vec<Pose3> = w.gather(&seen.camera_mm).iter().map(lift).collect();
        let lifted_px: Vec<f32> = pose::values_from_poses(&lifted).iter().map(|v| v * t.half_size_px).collect();
        poses_px.add(&w, &lifted_px).unwrap();
    }
    let poses_px = pose::poses_from_values(&poses_px.finish().unwrap()).unwrap();
    let pixels = [ImageTransform { centre_px: [0.0; 2], half_size_px: 1.0 }; 400];
    let depths = Scale::RootDepth { depth_mm: seen.true_depths() };
    let placed = world::place_clip(&poses_px, &pixels, &seen.root_px, &seen.times_s, &seen.intrinsics, &depths).unwrap();
    assert!(metrics::mpjpe_mm(&placed.camera_mm, &seen.camera_mm) < 0.1);
}

#[test]
fn the_floor_is_found_under_the_walker() {
    for normalisation in [Normalisation::Frame, Normalisation::PersonBox] {
        let camera = Extrinsics::look_at([0.0, -5000.0, 2000.0], [0.0, 0.0, 800.0], 0.05).unwrap();
        let seen = see(&walker(400), camera, normalisation);
        let found = world::extrinsics_from_person(&seen.camera_mm, 1.7);
        let tilt = angle_deg(found.rotation[2], seen.extrinsics.rotation[2]);
        assert!(tilt < 4.0, "up is {tilt} degrees off");
        let camera_height_mm = found.translation_mm[2];
        assert!((camera_height_mm - 2000.0).abs() < 250.0, "{camera_height_mm}");
        let ankle = seen.camera_mm.iter().flat_map(|p| [p[3], p[6]]).map(|p| found.to_world(p)[2]).fold(f32::MAX, f32::min);
        assert!((-60.0..120.0).contains(&ankle), "{ankle}");
    }
}

#[test]
fn where_nobody_stands_the_camera_is_level() {
    let lying = walker(5).iter().map(|pose| pose.map(|[x, y, z]| [z, 300.0 + 0.1 * x, 3000.0 + y])).collect::<Vec<_>>();
    let level = world::extrinsics_from_person(&lying, 1.7);
    assert_eq!(level.rotation, Extrinsics::level(0.0).rotation);
    let nobody = world::extrinsics_from_person(&[], 1.7);
    assert_eq!(nobody, Extrinsics::level(0.0));
    let point = world::extrinsics_from_person(&[[[0.0; 3]; JOINTS]], 1.7);
    assert_eq!(point.rotation, Extrinsics::level(0.0).rotation);
}

#[test]
fn wrong_input_is_one_sentence() {
    let seen = || walker_seen();
    let height = Scale::Height { height_m: 1.7 };
    type Spoil = fn(&mut Seen);
    let cases: [(Spoil, &str); 9] = [
        (|s| s.transforms[3].half_size_px = 0.0, "half size"),
        (|s| s.root_px[3][1] = f32::NAN, "pixel of the root"),
        (|s| s.pose25[6][4][0] = 1e30, "frame 6, joint 4"),
        (|s| s.pose25.truncate(9), "image transforms: expected one for each of the 9 frames, found 400"),
        (|s| s.root_px.truncate(399), "root pixels"),
        (|s| s.times_s[7] = 0.0, "frame 7"),
        (|s| s.pose25[5][3][2] = f32::NAN, "frame 5, joint 3"),
        (|s| s.intrinsics.focal_px[0] = 0.0, "camera intrinsics"),
        (|s| s.pose25.fill([[0.0; 3]; JOINTS]), "the lifted body has no size"),
    ];
    for (spoil, expected) in cases {
        let mut s = seen();
        spoil(&mut s);
        let message = s.place(&height).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    for scale in [
        Scale::Height { height_m: 170.0 },
        Scale::Height { height_m: f32::NAN },
        Scale::RootDepth { depth_mm: vec![-1.0] },
        Scale::RootDepth { depth_mm: vec![1000.0; 3] },
        Scale::RootDepth { depth_mm: vec![] },
        Scale::BoneLengths { lengths_mm: [0.0; JOINTS - 1] },
        Scale::BoneLengths { lengths_mm: [-1.0; JOINTS - 1] },
    ] {
        assert!(seen().place(&scale).is_err(), "{scale:?}");
    }
    let nothing = Seen { pose25: vec![], transforms: vec![], root_px: vec![], times_s: vec![], ..seen() };
    assert_eq!(nothing.place(&height), Err(Error::NoFrames));
}

#[test]
fn one_frame_is_a_clip() {
    let camera = Extrinsics::look_at([300.0, -4500.0, 1600.0], [0.0, 0.0, 900.0], 0.0).unwrap();
    let seen = see(&walker(1), camera, Normalisation::Frame);
    let placed = seen.place(&Scale::Height { height_m: height_m(&walker(1)[0]) }).unwrap();
    assert!(largest_relative_error(&placed.root_depth_mm, &seen.true_depths()) < 0.01);
}

fn depths(camera_mm: &[Pose3]) -> Vec<f32> {
    camera_mm.iter().map(|pose| pose[ROOT][2]).collect()
}

#[test]
fn a_stream_is_placed_as_a_clip_is() {
    let height = Scale::Height { height_m: height_m(&walker(1)[0]) };
    let seen = walker_seen();
    let (placed, world) = seen.place_live(height.clone());
    // the proportions are the walker's own after a second or two
    let error = |from: usize| largest_relative_error(&depths(&placed)[from..], &seen.true_depths()[from..]);
    assert!(error(0) < 0.06 && error(100) < 0.02, "{} {}", error(0), error(100));
    let tilt = angle_deg(world[399].rotation[2], seen.extrinsics.rotation[2]);
    assert!(tilt < 4.0, "up is {tilt} degrees off");

    let seen = walker_seen().with_noise(2.0);
    let (placed, world) = seen.place_live(height.clone());
    let error = largest_relative_error(&depths(&placed)[100..], &seen.true_depths()[100..]);
    assert!(error < 0.065, "{error}");
    // once the filter has seen half a second
    let jump_mm = depths(&placed)[25..].windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max);
    assert!(jump_mm < 120.0, "{jump_mm} mm from frame to frame, the walker does 15");
    let turn_deg = world.windows(2).map(|w| angle_deg(w[0].rotation[2], w[1].rotation[2])).fold(0.0, f32::max);
    assert!(turn_deg < 3.0, "the floor turns by {turn_deg} degrees from frame to frame");

    let (placed, _) = seen.place_live(Scale::RootDepth { depth_mm: vec![4000.0] });
    assert!(placed.iter().all(|pose| pose[ROOT][2] == 4000.0));
}

#[test]
fn a_stream_shrugs_off_frames_where_the_lifter_fails() {
    let mut seen = walker_seen();
    let depths_mm = seen.true_depths();
    for t in [50, 51, 200] {
        seen.pose25[t] = seen.pose25[t].map(|p| p.map(|v| 0.3 * v)); // as if three times as far away
    }
    seen.pose25[300..305].fill([[0.0; 3]; JOINTS]); // all joints on the root
    let (placed, _) = seen.place_live(Scale::Height { height_m: height_m(&walker(1)[0]) });
    let error = largest_relative_error(&depths(&placed)[100..], &depths_mm[100..]);
    assert!(error < 0.08, "{error}");
}

/// Real motion, with noise: figures for the record (`cargo test -p pose -- --nocapture real_motion`) and bounds.
#[test]
#[allow(clippy::print_stdout)] // figures are for people
fn real_motion_keeps_its_place() {
    let Some(clips) = real_motion() else {
        println!("skipped: ../shared is absent");
        return;
    };
    for world_mm in &clips {
        let camera = camera_for(world_mm);
        let seen = see(world_mm, camera, Normalisation::PersonBox).with_noise(1.5);
        let height = Scale::Height { height_m: stature_m(world_mm) };
        let placed = seen.place(&height).unwrap();
        let depths = seen.true_depths();
        let mut errors: Vec<f64> = placed.root_depth_mm.iter().zip(&depths).map(|(f, e)| f64::from((f / e - 1.0).abs())).collect();
        let (median, p95) = (pose::smooth::median(&mut errors), pose::smooth::quantile(&mut errors, 0.95));
        let step = |d: &[f32]| d.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max);
        let floor = world::extrinsics_from_person(&placed.camera_mm, placed.height_m);
        let tilt = angle_deg(floor.rotation[2], seen.extrinsics.rotation[2]);
        println!(
            "{:4} frames: root depth off by {:.1} % (median), {:.1} % (95th percentile); largest step {:.0} mm, truly {:.0} mm; \
             up off by {tilt:.1} degrees, camera at {:.2} m, truly at 1.5 m",
            world_mm.len(),
            100.0 * median,
            100.0 * p95,
            step(&placed.root_depth_mm),
            step(&depths),
            floor.translation_mm[2] / 1000.0,
        );
        assert!(p95 < 0.06, "root depth is off by {p95}");

        let (live, world) = seen.place_live(height);
        let found = self::depths(&live);
        let mut errors: Vec<f64> = found.iter().zip(&depths).map(|(f, e)| f64::from((f / e - 1.0).abs())).collect();
        let (median, p95) = (pose::smooth::median(&mut errors), pose::smooth::quantile(&mut errors, 0.95));
        let last = world.last().expect("a clip has frames");
        println!(
            "      as a stream: {:.1} % (median), {:.1} % (95th percentile); largest step after half a second {:.0} mm; \
             up off by {:.1} degrees, camera at {:.2} m",
            100.0 * median,
            100.0 * p95,
            step(&found[25..]),
            angle_deg(last.rotation[2], seen.extrinsics.rotation[2]),
            last.translation_mm[2] / 1000.0,
        );
        assert!(p95 < 0.10, "root depth of the stream is off by {p95}");
    }
}
