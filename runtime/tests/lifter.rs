//! Clips through small models whose answer can be computed by hand.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Graph, IMAGE, WEIGHTS, affine, metadata, person, rooted, rooted_plus, walk};
use pose::{
    Keypoint, KeypointClip, Keypoints17, camera::Intrinsics, normalise::Normalisation, skeleton, trajectory::PathOptions, world::Scale,
};
use proptest::prelude::*;
use runtime::{Assumptions, Engine, EngineOptions, LiftOptions, LiftedClip, Lifter, Together, place_together};

fn engine(graph: Graph) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions { threads: 1, ..Default::default() };
    Engine::open(graph.write(folder.path(), "small.onnx"), &options).unwrap()
}

fn lifter(graph: Graph, frames: usize, normalisation: Normalisation, fps: f32) -> Lifter {
    Lifter::new(engine(graph.metadata(&metadata(frames, normalisation, fps))), &Assumptions::default()).unwrap()
}

/// Pixels (17, 3) that [`rooted`] must give for a frame, whatever its window and box.
fn rooted_px(frame: &Keypoints17) -> [[f32; 3]; 17] {
    frame.map(|k| {
        let relative = [k.x_px - frame[0].x_px, k.y_px - frame[0].y_px];
        std::array::from_fn(|i| relative[0] * WEIGHTS[0][i] + relative[1] * WEIGHTS[1][i])
    })
}

/// The lifted 2.5D of frame `t` in pixels.
fn lifted_px(lifted: &LiftedClip, t: usize) -> [[f32; 3]; 17] {
    lifted.pose25[t].map(|p| p.map(|v| v * lifted.transforms[t].half_size_px))
}

fn largest_difference(a: &[[f32; 3]; 17], b: &[[f32; 3]; 17]) -> f32 {
    a.as_flattened().iter().zip(b.as_flattened()).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[track_caller]
fn assert_px(lifted: &LiftedClip, clip: &KeypointClip, tolerance_px: f32) {
    assert_eq!(lifted.times_s, clip.times_s);
    assert_eq!(lifted.len(), clip.frames.len());
    for (t, frame) in clip.frames.iter().enumerate() {
        let difference = largest_difference(&lifted_px(lifted, t), &rooted_px(frame));
        assert!(difference < tolerance_px, "frame {t}: {difference} px");
    }
}

static BOXED: LazyLock<Lifter> = LazyLock::new(|| lifter(rooted(-1, -1, 3), 27, Normalisation::PersonBox, 50.0));
static FIXED: LazyLock<Lifter> = LazyLock::new(|| lifter(rooted(4, 27, 3), 27, Normalisation::PersonBox, 50.0));
static FRAME: LazyLock<Lifter> = LazyLock::new(|| lifter(rooted(-1, -1, 3), 27, Normalisation::Frame, 50.0));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_clip_of_any_length_is_what_it_is_without_windows(
        length in 1usize..600, overlap in prop::option::of(0usize..27), which in 0usize..3
    ) {
        let clip = walk(length, 50.0);
        let lifter: &Lifter = [&*BOXED, &*FIXED, &*FRAME][which];
        let options = LiftOptions { overlap, ..Default::default() };
        let lifted = lifter.lift(&clip, &options).unwrap();
        prop_assert_eq!(&lifted.times_s, &clip.times_s);
        for (t, frame) in clip.frames.iter().enumerate() {
            let difference = largest_difference(&lifted_px(&lifted, t), &rooted_px(frame));
            prop_assert!(difference < 0.02, "frame {}: {} px", t, difference);
            prop_assert_eq!(lifted.pose25[t][0], [0.0; 3]);
        }
    }

    #[test]
    fn any_frame_rate_comes_back_at_the_clips_own_times(fps in 8f64..240.0, length in 1usize..200, jitter in 0f64..0.3) {
        // straight-line motion, so that resampling must not change it
        let frame = |s: f32| person([200.0 + 50.0 * s, 300.0], 20.0 * s);
        let times_s: Vec<f64> = (0..length).map(|i| 3.0 + (i as f64 + jitter * f64::sin(i as f64)) / fps).collect();
        let clip = KeypointClip { frames: times_s.iter().map(|t| frame(*t as f32)).collect(), times_s, image: IMAGE };
        let lifted = BOXED.lift(&clip, &LiftOptions::default()).unwrap();
        prop_assert_eq!(&lifted.times_s, &clip.times_s);
        for (t, frame) in clip.frames.iter().enumerate() {
            let difference = largest_difference(&lifted_px(&lifted, t), &rooted_px(frame));
            prop_assert!(difference < 0.05, "frame {}: {} px", t, difference);
        }
    }
}

#[test]
fn boxes_that_differ_do_not_jump() {
    // windows of 9 of someone who comes nearer: every window has its own box
    let lifter = lifter(rooted(-1, 9, 3), 9, Normalisation::PersonBox, 50.0);
    let clip = walk(200, 50.0);
    let lifted = lifter.lift(&clip, &LiftOptions { overlap: Some(4), ..Default::default() }).unwrap();
    assert_px(&lifted, &clip, 0.02);
    let first = lifted.transforms.first().unwrap().half_size_px;
    let last = lifted.transforms.last().unwrap().half_size_px;
    assert!(last > 1.15 * first, "{first} {last}");
    for pair in lifted.transforms.windows(2) {
        assert!((pair[1].half_size_px / pair[0].half_size_px - 1.0).abs() < 0.02);
    }
}

#[test]
fn windows_that_disagree_are_blended() {
    // joint 5's z is 0.1 larger in a window's first frames and 0.1 smaller in its last
    let added: Vec<f32> = (0..27).map(|t| if t < 13 { 0.1 } else { -0.1 }).collect();
    let lifter = lifter(rooted_plus(27, &added), 27, Normalisation::Frame, 50.0);
    let clip = KeypointClip::from_fps(vec![person([640.0, 360.0], 0.0); 120], 50.0, IMAGE).unwrap();
    let lifted = lifter.lift(&clip, &LiftOptions { overlap: Some(18), ..Default::default() }).unwrap();
    let plain = rooted_px(&clip.frames[0])[5][2] / (IMAGE.width_px as f32 / 2.0);
    let z: Vec<f32> = lifted.pose25.iter().map(|pose| pose[5][2] - plain).collect();
    assert!((z[0] - 0.1).abs() < 1e-5 && (z[119] + 0.1).abs() < 1e-5, "{z:?}");
    assert!(z.iter().all(|z| z.abs() < 0.1 + 1e-5));
    // inside, windows cancel each other out: no step as large as the one within a window
    for pair in z[27..93].windows(2) {
        assert!((pair[1] - pair[0]).abs() < 0.15, "{z:?}");
    }
}

#[test]
fn flip_averaging_is_the_mean_of_both_sides() {
    let (weights, bias) = ([[0.5, 0.2, 0.3], [-0.1, 0.7, 0.4], [0.01, 0.02, 0.03]], [0.3, -0.2, 0.1]);
    let lifter = lifter(affine(weights, bias), 9, Normalisation::Frame, 50.0);
    let clip = walk(31, 50.0);
    let lifted = lifter.lift(&clip, &LiftOptions { flip: true, ..Default::default() }).unwrap();
    let f =
        |[x, y, c]: [f32; 3]| -> [f32; 3] { std::array::from_fn(|k| x * weights[0][k] + y * weights[1][k] + c * weights[2][k] + bias[k]) };
    for (t, frame) in clip.frames.iter().enumerate() {
        for j in 1..17 {
            let x = frame[j].x_px / 640.0 - 1.0;
            let y = frame[j].y_px / 640.0 - 720.0 / 1280.0;
            let plain = f([x, y, frame[j].confidence]);
            // the mirrored picture shows joint j where its twin's name is, at -x
            let [mx, my, mz] = f([-x, y, frame[j].confidence]);
            let expected = [(plain[0] - mx) / 2.0, (plain[1] + my) / 2.0, (plain[2] + mz) / 2.0];
            for k in 0..3 {
                assert!((lifted.pose25[t][j][k] - expected[k]).abs() < 1e-5, "frame {t}, joint {j}");
            }
        }
        assert_eq!(lifted.pose25[t][0], [0.0; 3], "the root is zero");
    }
    assert_eq!(skeleton::flip_index()[1], 4);
}

#[test]
fn a_rate_that_is_near_enough_is_left_alone() {
    // 29.97 and time stamps rounded to milliseconds, for a model of 30: resampling would blur
    let mut clip = walk(90, 30.0);
    clip.times_s = (0..90).map(|i| (f64::from(i) / 29.97 * 1000.0).round() / 1000.0).collect();
    let lifter = lifter(rooted(-1, -1, 3), 27, Normalisation::PersonBox, 30.0);
    assert_px(&lifter.lift(&clip, &LiftOptions::default()).unwrap(), &clip, 0.02);
}

#[test]
fn nothing_is_made_up_across_a_pause() {
    let mut clip = walk(60, 25.0);
    for t in 30..60 {
        clip.times_s[t] += 1e9; // thirty years: a billion frames if someone tried
    }
    let lifted = BOXED.lift(&clip, &LiftOptions::default()).unwrap();
    assert_eq!(lifted.times_s, clip.times_s);
    for t in [0, 29, 30, 59] {
        assert!(largest_difference(&lifted_px(&lifted, t), &rooted_px(&clip.frames[t])) < 0.1, "frame {t}");
    }
}

#[test]
fn missing_joints_are_filled() {
    let whole = walk(60, 50.0);
    let mut clip = whole.clone();
    for t in 20..26 {
        clip.frames[t][3] = Keypoint::MISSING; // right ankle
    }
    for frame in &mut clip.frames {
        frame[16] = Keypoint::MISSING; // right wrist, never seen: stands at the elbow
    }
    clip.frames[40] = [Keypoint::MISSING; 17]; // nobody
    let lifted = BOXED.lift(&clip, &LiftOptions::default()).unwrap();
    for t in 0..60 {
        let (found, expected) = (lifted_px(&lifted, t), rooted_px(&whole.frames[t]));
        for j in 0..16 {
            for k in 0..3 {
                assert!((found[j][k] - expected[j][k]).abs() < 1.5, "frame {t}, joint {j}: {:?} {:?}", found[j], expected[j]);
            }
        }
        assert!((found[16][0] - found[15][0]).abs() < 1e-3);
    }
    assert_eq!(lifted.confidence[22][3], 0.0);
    assert_eq!(lifted.confidence[19][3], 0.9);
}

#[test]
fn a_long_absence_is_bridged() {
    let mut clip = walk(120, 50.0);
    for frame in &mut clip.frames[30..100] {
        *frame = [Keypoint::MISSING; 17]; // whole windows without anybody
    }
    let lifted = BOXED.lift(&clip, &LiftOptions::default()).unwrap();
    assert_eq!(lifted.len(), 120);
    assert!(lifted.camera_mm.as_flattened().as_flattened().iter().all(|mm| mm.is_finite()));
}

#[test]
fn models_of_two_channels_see_no_confidence() {
    let mut about = metadata(9, Normalisation::PersonBox, 50.0);
    about.dim_in = 2;
    let lifter = Lifter::new(engine(rooted(1, -1, 2).metadata(&about)), &Assumptions::default()).unwrap();
    let clip = walk(40, 50.0);
    let lifted = lifter.lift(&clip, &LiftOptions::default()).unwrap();
    assert_px(&lifted, &clip, 0.02);
}

#[test]
fn millimetres_lie_on_the_rays_of_the_pixels() {
    let clip = walk(80, 50.0);
    let intrinsics = Intrinsics::from_horizontal_fov_deg(IMAGE, 50.0).unwrap();
    let lift = |scale| {
        let options = LiftOptions { intrinsics: Some(intrinsics), scale, ..Default::default() };
        BOXED.lift(&clip, &options).unwrap()
    };
    let lifted = lift(Scale::Height { height_m: 1.8 });
    assert_eq!(lifted.scale_source.name(), "height");
    assert!((lifted.height_m - 1.8).abs() < 1e-3);
    // how far each joint is seen from where the lifter put it, px
    let off_px = |lifted: &LiftedClip| {
        let mut off_px = Vec::new();
        for t in 0..lifted.len() {
            assert_eq!(lifted.camera_mm[t][0][2], lifted.root_depth_mm[t]);
            for j in 0..17 {
                let pixel = intrinsics.project(lifted.camera_mm[t][j]).unwrap();
                let expected = |k: usize| lifted.root_px[t][k] + lifted.pose25[t][j][k] * lifted.transforms[t].half_size_px;
                off_px.push(f64::from((pixel[0] - expected(0)).hypot(pixel[1] - expected(1))));
            }
        }
        off_px
    };
    // the path is smooth: it follows the pixels nearly
    assert!(pose::smooth::quantile(&mut off_px(&lifted), 0.5) < 4.0, "{}", pose::smooth::quantile(&mut off_px(&lifted), 0.5));
    // half as tall again: half as far and as large again, nearly: how fast bodies accelerate is no matter of size
    let giant = lift(Scale::Height { height_m: 2.7 });
    let ratio = giant.camera_mm[40][16][0] / lifted.camera_mm[40][16][0];
    assert!((ratio - 1.5).abs() < 0.04, "{ratio}");
    assert_eq!(lift(Scale::DefaultHeight).scale_source.name(), "default_height");
    let placed = lift(Scale::RootDepth { depth_mm: vec![4000.0] });
    assert!(placed.camera_mm.iter().all(|pose| pose[0][2] == 4000.0));
    assert!(off_px(&placed).iter().all(|off_px| *off_px < 0.05));
}

#[test]
fn people_are_placed_on_one_floor() {
    let clips = [walk(80, 50.0), walk(120, 50.0)];
    let [mut first, mut second] = [&clips[0], &clips[1]].map(|clip| BOXED.lift(clip, &LiftOptions::default()).unwrap());
    let scale = |height_m| Scale::Height { height_m };
    let mut people = [
        Together { lifted: &mut first, keypoints: &clips[0], scale: scale(1.8) },
        Together { lifted: &mut second, keypoints: &clips[1], scale: scale(1.2) },
    ];
    place_together(&mut people, &PathOptions::default()).unwrap();
    assert_eq!(first.world_from_camera, second.world_from_camera);
    assert!((first.height_m - 1.8).abs() < 1e-3 && (second.height_m - 1.2).abs() < 1e-3);
    assert_eq!((first.contact.len(), second.contact.len()), (80, 120));
    let other = &clips[1];
    let mut wrong = [Together { lifted: &mut first, keypoints: other, scale: scale(1.8) }];
    let refused = place_together(&mut wrong, &PathOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("keypoints: expected one for each of the 80 frames, found 120"), "{refused}");
    assert!(place_together(&mut [], &PathOptions::default()).is_err());
}

#[test]
fn progress_ends_at_the_end() {
    let mut seen = Vec::new();
    let lifter = lifter(rooted(2, 9, 3), 9, Normalisation::PersonBox, 50.0);
    lifter.lift_with_progress(&walk(100, 50.0), &LiftOptions::default(), &mut |done, of| seen.push((done, of))).unwrap();
    let (_, of) = seen[0];
    assert!(seen.iter().all(|&(done, total)| total == of && done <= of));
    assert!(seen.windows(2).all(|pair| pair[1].0 > pair[0].0));
    assert_eq!(seen.last(), Some(&(of, of)));
}

#[test]
fn files_without_metadata_need_what_they_do_not_say() {
    let message = Lifter::new(engine(rooted(-1, -1, 3)), &Assumptions::default()).unwrap_err().to_string();
    assert!(message.ends_with("does not say how many frames its windows have: give that number (--frames)"), "{message}");

    let fixed = Lifter::new(engine(rooted(-1, 27, 3)), &Assumptions::default()).unwrap();
    assert_eq!((fixed.frames(), fixed.normalisation(), fixed.fps()), (27, Normalisation::Frame, None));
    let clip = walk(100, 12.0); // no rate: not resampled
    assert_px(&fixed.lift(&clip, &LiftOptions::default()).unwrap(), &clip, 0.02);

    let assumed = Assumptions { normalisation: Some(Normalisation::PersonBox), frames: Some(9), fps: Some(25.0) };
    let free = Lifter::new(engine(rooted(-1, -1, 3)), &assumed).unwrap();
    assert_eq!((free.frames(), free.normalisation(), free.fps()), (9, Normalisation::PersonBox, Some(25.0)));

    for (graph, wrong) in [
        (rooted(-1, 27, 3), Assumptions { frames: Some(9), ..Default::default() }),
        (rooted(-1, -1, 3), Assumptions { frames: Some(0), ..Default::default() }),
        (rooted(-1, -1, 3), Assumptions { frames: Some(1 << 40), ..Default::default() }),
        (rooted(-1, 27, 3), Assumptions { fps: Some(f32::NAN), ..Default::default() }),
        (rooted(-1, 27, 3).metadata(&metadata(27, Normalisation::Frame, 50.0)), assumed),
    ] {
        assert!(Lifter::new(engine(graph), &wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn clips_that_cannot_be_lifted_are_refused() {
    type Spoil = fn(&mut KeypointClip);
    let cases: [(Spoil, &str); 5] = [
        (|c| c.frames.clear(), "no frames"),
        (|c| c.frames[3][2].y_px = f32::NAN, "frame 3, keypoint 2"),
        (|c| c.times_s[4] = 0.0, "frame 4"),
        (|c| c.frames.fill([Keypoint::MISSING; 17]), "no keypoint is confident"),
        (|c| c.image.width_px = 0, "image"),
    ];
    for (spoil, expected) in cases {
        let mut clip = walk(10, 50.0);
        spoil(&mut clip);
        let message = BOXED.lift(&clip, &LiftOptions::default()).unwrap_err().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
    let clip = walk(100, 50.0);
    for (options, expected) in [
        (LiftOptions { overlap: Some(27), ..Default::default() }, "overlap"),
        (LiftOptions { scale: Scale::Height { height_m: 17.0 }, ..Default::default() }, "height"),
        (LiftOptions { intrinsics: Some(Intrinsics { focal_px: [0.0; 2], centre_px: [0.0; 2] }), ..Default::default() }, "focal"),
    ] {
        let message = BOXED.lift(&clip, &options).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_model_that_answers_nonsense_is_an_error() {
    let root = Graph::default()
        .input("x", common::FLOAT, &[-1, -1, 17, 3])
        .node("Sqrt", &["x"], "poses") // NaN left of the middle of the box
        .output("poses", common::FLOAT, &[-1, -1, 17, 3]);
    let lifter = lifter(root, 9, Normalisation::PersonBox, 50.0);
    let message = lifter.lift(&walk(20, 50.0), &LiftOptions::default()).unwrap_err().to_string();
    assert!(message.contains("frame 0") && message.contains("3D values from the model"), "{message}");
}

#[test]
fn a_lifted_clip_can_be_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let lifted = BOXED.lift(&walk(20, 50.0), &LiftOptions::default()).unwrap();
    let json = folder.path().join("clip.json");
    lifted.write_json(&json).unwrap();
    assert_eq!(LiftedClip::read_json(&json).unwrap(), lifted);
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(value["format"], "poselift-3d-1");
    assert_eq!(value["joints"][9], "Nose");
    assert_eq!(value["scale_source"], "default_height");
    assert_eq!(value["camera_mm"][19].as_array().unwrap().len(), 17);

    let npz = folder.path().join("clip.npz");
    lifted.write_npz(&npz).unwrap();
    let arrays = formats::npz::read_values(&npz).unwrap();
    let camera = arrays["camera_mm"].as_tensor().unwrap();
    assert_eq!(camera.shape, [20, 17, 3]);
    assert_eq!(camera.to_f32(), pose::values_from_poses(&lifted.camera_mm));
    assert_eq!(arrays["world_from_camera"].as_tensor().unwrap().shape, [3, 4]);
    assert_eq!(arrays["joints"].as_str().unwrap().split(' ').count(), 17);

    let missing = folder.path().join("no/such/folder/clip.json");
    assert!(lifted.write_json(&missing).unwrap_err().to_string().contains("no/such/folder"));
    let mut torn = lifted.clone();
    torn.root_px.pop();
    assert!(torn.write_npz(&npz).is_err());
    let entries = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 2, "nothing is left aside");
}
