//! The path through the room, on a synthetic walker and on real motion: better than a depth for each frame, and with feet that stand.

mod common;

use common::*;
use pose::{
    Error, Keypoint, Pose3, ROOT,
    camera::Extrinsics,
    contact::FEET,
    floor::{self, CameraPlace, Standing},
    metrics,
    normalise::Normalisation,
    skeleton,
    trajectory::{self, Path, PathOptions},
    world::{self, Scale},
};

/// Noise as a detector and a lifter make it: most of it stays for a while, and depth is worst. Keypoints and 2.5D get their own.
fn with_noise(mut seen: Seen, px: f32) -> Seen {
    let mut state = 7_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut normal = move || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
    const KEPT: f32 = 0.97; // of the slow part in each frame: it is gone after 0.7 s
    let mut slow = [[0.0_f32; 5]; pose::JOINTS].map(|joint| joint.map(|_| normal()));
    for t in 0..seen.pose25.len() {
        let unit = px / seen.transforms[t].half_size_px;
        for j in 1..pose::JOINTS {
            slow[j].iter_mut().for_each(|v| *v = KEPT * *v + (1.0 - KEPT * KEPT).sqrt() * normal());
            let mut draw = |k: usize| slow[j][k] + 0.3 * normal();
            let joint = &mut seen.pose25[t][j];
            *joint = [joint[0] + unit * draw(0), joint[1] + unit * draw(1), joint[2] + 6.0 * unit * draw(2)];
            let keypoint = &mut seen.keypoints[t][j];
            (keypoint.x_px, keypoint.y_px) = (keypoint.x_px + px * draw(3), keypoint.y_px + px * draw(4));
        }
    }
    let path = world::root_path_px(&seen.pose25, &seen.transforms, &seen.keypoints, &seen.times_s).unwrap();
    Seen { root_px: path, ..seen }
}

/// The old way: a depth for each frame, smoothed, and the floor under the lower ankles.
fn frame_by_frame(seen: &Seen, scale: &Scale) -> (Vec<Pose3>, Extrinsics) {
    let placed = seen.place(scale).unwrap();
    let world = world::extrinsics_from_person(&placed.camera_mm, placed.height_m);
    (placed.camera_mm, world)
}

fn together(seen: &Seen, scale: &Scale, options: &PathOptions) -> (Path, Extrinsics) {
    trajectory::place_person(&seen.sight(), scale, options).unwrap()
}

/// How good a placement is. Contact is what the true motion says: an ankle that is low and slow.
#[derive(Default)]
struct Figures {
    /// Share of the depth by which the root is off, median.
    depth: f64,
    /// Speed of standing ankles over the floor, mm/s.
    sliding_mm_s: f64,
    /// Distance of standing ankles from the height of a standing ankle, mm.
    foot_height_mm: f64,
    /// Error of the root's acceleration, m/s^2.
    jitter_m_s2: f64,
    up_deg: f64,
}

fn figures(camera_mm: &[Pose3], world: &Extrinsics, seen: &Seen, stature_m: f32) -> Figures {
    let frames = camera_mm.len();
    let mut depth: Vec<f64> =
        camera_mm.iter().zip(&seen.camera_mm).map(|(a, b)| f64::from((a[ROOT][2] / b[ROOT][2] - 1.0).abs())).collect();
    let found: Vec<Pose3> = camera_mm.iter().map(|p| world.pose_to_world(p)).collect();
    let truth: Vec<Pose3> = seen.camera_mm.iter().map(|p| seen.extrinsics.pose_to_world(p)).collect();
    let distance = |a: [f32; 3], b: [f32; 3], axes: usize| (0..axes).map(|k| f64::from(a[k] - b[k]).powi(2)).sum::<f64>().sqrt();
    let (mut sliding, mut height, mut standing) = (0.0, 0.0, 0.0_f64);
    for ankle in FEET {
        let low = pose::smooth::quantile(&mut truth.iter().map(|p| f64::from(p[ankle][2])).collect::<Vec<_>>(), 0.05);
        let stands = |t: usize| {
            distance(truth[t - 2][ankle], truth[t + 2][ankle], 3) * FPS / 4.0 < 200.0 && f64::from(truth[t][ankle][2]) < low + 60.0
        };
        for t in (2..frames - 3).filter(|&t| stands(t) && stands(t + 1)) {
            sliding += distance(found[t][ankle], found[t + 1][ankle], 2) * FPS;
            height += (f64::from(found[t][ankle][2]) - floor::ANKLE_TO_STATURE * 1000.0 * f64::from(stature_m)).abs();
            standing += 1.0;
        }
    }
    let acceleration = |poses: &[Pose3], t: usize, k: usize| {
        f64::from(poses[t + 1][ROOT][k] - 2.0 * poses[t][ROOT][k] + poses[t - 1][ROOT][k]) * FPS * FPS / 1000.0
    };
    let off = |t: usize| (0..3).map(|k| (acceleration(camera_mm, t, k) - acceleration(&seen.camera_mm, t, k)).powi(2)).sum::<f64>().sqrt();
    Figures {
        depth: pose::smooth::median(&mut depth),
        sliding_mm_s: sliding / standing.max(1.0),
        foot_height_mm: height / standing.max(1.0),
        jitter_m_s2: (1..frames - 1).map(off).sum::<f64>() / (frames - 2) as f64,
        up_deg: f64::from(angle_deg(world.rotation[2], seen.extrinsics.rotation[2])),
    }
}

/// Figures for the record (`cargo test -p pose -- --nocapture real_motion`), and bounds that a depth for each frame does not keep.
#[test]
#[allow(clippy::print_stdout)] // figures are for people
fn real_motion_is_better_placed_together() {
    let Some(clips) = real_motion() else {
        println!("skipped: ../shared is absent");
        return;
    };
    let (mut old, mut new) = (Figures::default(), Figures::default());
    let count = clips.len() as f64;
    for world_mm in &clips {
        let seen = with_noise(see(world_mm, camera_for(world_mm), Normalisation::PersonBox), 3.0);
        let stature_m = stature_m(world_mm);
        let scale = Scale::Height { height_m: stature_m };
        let (before_mm, before) = frame_by_frame(&seen, &scale);
        let (path, after) = together(&seen, &scale, &PathOptions::default());
        for (sum, one) in
            [(&mut old, figures(&before_mm, &before, &seen, stature_m)), (&mut new, figures(&path.camera_mm, &after, &seen, stature_m))]
        {
            sum.depth += one.depth / count;
            sum.sliding_mm_s += one.sliding_mm_s / count;
            sum.foot_height_mm += one.foot_height_mm / count;
            sum.jitter_m_s2 += one.jitter_m_s2 / count;
            sum.up_deg += one.up_deg / count;
        }
    }
    for (name, f) in [("frame by frame", &old), ("together", &new)] {
        println!(
            "{name}: root depth off by {:.2} % (median), standing feet slide {:.0} mm/s and are {:.0} mm off their height, jitter {:.1} m/s^2, up off by {:.1} degrees",
            100.0 * f.depth,
            f.sliding_mm_s,
            f.foot_height_mm,
            f.jitter_m_s2,
            f.up_deg
        );
    }
    assert!(new.depth < 1.05 * old.depth);
    assert!(new.sliding_mm_s < 0.3 * old.sliding_mm_s);
    assert!(new.foot_height_mm < 0.85 * old.foot_height_mm);
    assert!(new.jitter_m_s2 < 0.65 * old.jitter_m_s2);
    assert!(new.up_deg < 5.0, "{}", new.up_deg);
}

/// Someone who stands on both feet, jumps 400 mm high after a second, and lands half a metre to the right.
fn jumper() -> Vec<Pose3> {
    let mut stand = walker(1)[0];
    let low = stand[3][2].min(stand[6][2]);
    (stand[3][2], stand[6][2]) = (low, low);
    let place = |t: usize| {
        let flight = ((t as f32 / FPS as f32 - 1.0) / 0.57).clamp(0.0, 1.0);
        [500.0 * flight - 1500.0, 0.0, 1600.0 * flight * (1.0 - flight) + 66.0 - low]
    };
    (0..150).map(|t| stand.map(|p| std::array::from_fn(|k| p[k] + place(t)[k]))).collect()
}

#[test]
fn a_jump_stays_a_jump() {
    let camera = Extrinsics::look_at([0.0, -4500.0, 1500.0], [200.0, 0.0, 900.0], 0.0).unwrap();
    let truth = jumper();
    let seen = with_noise(see(&truth, camera, Normalisation::PersonBox), 1.0);
    let scale = Scale::Height { height_m: height_m(&truth[0]) };
    let (path, world) = together(&seen, &scale, &PathOptions::default());
    let found: Vec<Pose3> = path.camera_mm.iter().map(|p| world.pose_to_world(p)).collect();
    let top = |poses: &[Pose3]| poses.iter().map(|p| p[ROOT][2]).fold(0.0, f32::max) - poses[20][ROOT][2];
    let (jumped, truly) = (top(&found), top(&truth));
    assert!((jumped / truly - 1.0).abs() < 0.08, "{jumped} mm, truly {truly} mm");
    // no foot stands from shortly after the leap to shortly before the landing, and both do long before and after
    assert!(path.contact[58..74].iter().flatten().all(|stands| !stands), "{:?}", &path.contact[50..80]);
    assert!(path.contact[5..45].iter().chain(&path.contact[85..145]).flatten().all(|stands| *stands));
    let landed = found[120][3][0] - found[20][3][0];
    assert!((landed - 500.0).abs() < 30.0, "{landed}");
    let sliding = (20..44).chain(90..140).map(|t| (found[t + 1][3][0] - found[t][3][0]).abs()).fold(0.0, f32::max);
    assert!(sliding < 0.5, "a standing foot moves {sliding} mm in a frame");
}

#[test]
fn standing_feet_lie_at_the_ankles_height() {
    let truth = stepper(250);
    let stature_m = height_m(&truth[0]);
    let camera = Extrinsics::look_at([2500.0, -5500.0, 1600.0], [2800.0, 0.0, 900.0], 0.0).unwrap();
    let seen = with_noise(see(&truth, camera, Normalisation::PersonBox), 1.0);
    let (path, world) = together(&seen, &Scale::Height { height_m: stature_m }, &PathOptions::default());
    let height_mm = (floor::ANKLE_TO_STATURE * 1000.0) as f32 * stature_m;
    let mut standing = 0;
    for (pose, contact) in path.camera_mm.iter().zip(&path.contact) {
        for foot in (0..2).filter(|&foot| contact[foot]) {
            standing += 1;
            let z = world.to_world(pose[FEET[foot]])[2];
            assert!((z - height_mm).abs() < 1.0, "{z}");
        }
    }
    // two feet, each for 0.6 of the time
    assert!((220..340).contains(&standing), "feet stand in {standing} frames");
    let agree = |t: &usize| (0..2).all(|foot| path.contact[*t][foot] == (truth[*t][FEET[foot]][2] < STEPPER_ANKLE_MM + 1.0));
    assert!((0..250).filter(agree).count() > 200, "{}", (0..250).filter(agree).count());
    let moved = |poses: &[Pose3]| (0..2).map(|k| (poses[240][ROOT][k] - poses[10][ROOT][k]).powi(2)).sum::<f32>().sqrt();
    let in_world: Vec<Pose3> = path.camera_mm.iter().map(|p| world.pose_to_world(p)).collect();
    assert!((moved(&in_world) / moved(&truth) - 1.0).abs() < 0.03, "walked {} mm, truly {}", moved(&in_world), moved(&truth));
    let (free, _) = together(&seen, &Scale::Height { height_m: stature_m }, &PathOptions { contact: false, ..Default::default() });
    assert_ne!(free.camera_mm, path.camera_mm);
}

#[test]
fn bones_are_constant_on_demand() {
    let seen = with_noise(walker_seen(), 2.0);
    let scale = Scale::Height { height_m: 1.7 };
    let spread = |options: &PathOptions| {
        let (path, _) = together(&seen, &scale, options);
        let lengths: Vec<f32> = path.camera_mm.iter().map(|pose| skeleton::bone_lengths(pose)[1]).collect();
        let mean = lengths.iter().sum::<f32>() / lengths.len() as f32;
        lengths.iter().map(|length| (length / mean - 1.0).abs()).fold(0.0, f32::max)
    };
    let constant = PathOptions { constant_bones: true, ..PathOptions::default() };
    assert!(spread(&PathOptions::default()) > 0.01);
    assert!(spread(&constant) < 1e-4, "{}", spread(&constant));
}

#[test]
fn a_known_pitch_is_taken() {
    let seen = with_noise(walker_seen(), 2.0);
    let away = [0, 1, 2].map(|k| seen.extrinsics.rotation[k][2]);
    let pitch_deg = -away[2].asin().to_degrees();
    let known = |camera| together(&seen, &Scale::DefaultHeight, &PathOptions { camera, ..PathOptions::default() }).1;
    let world = known(CameraPlace { pitch_deg: Some(pitch_deg), height_m: Some(1.6) });
    // the walker's camera rolls by 0.02
    assert!(angle_deg(world.rotation[2], seen.extrinsics.rotation[2]) < 1.2);
    assert_eq!(world.translation_mm[2], 1600.0);
    let down = known(CameraPlace { pitch_deg: Some(20.0), height_m: None });
    assert!(down.rotation[1][2] > 0.9 && down.rotation[2][2] < -0.3, "it looks down: {:?}", down.rotation);
    for bad in [
        CameraPlace { pitch_deg: Some(90.0), height_m: None },
        CameraPlace { pitch_deg: Some(f32::NAN), height_m: None },
        CameraPlace { pitch_deg: None, height_m: Some(0.0) },
    ] {
        let options = PathOptions { camera: bad, ..PathOptions::default() };
        let refused = trajectory::place_person(&seen.sight(), &Scale::DefaultHeight, &options);
        assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{refused:?}");
    }
}

#[test]
fn up_is_found_though_the_camera_rolls() {
    let truth = stepper(200);
    let scale = Scale::Height { height_m: height_m(&truth[0]) };
    for roll_rad in [0.0, 0.04, 0.45] {
        let camera = Extrinsics::look_at([2000.0, -5500.0, 1900.0], [2300.0, 0.0, 900.0], roll_rad).unwrap();
        let (_, world) = together(&with_noise(see(&truth, camera, Normalisation::PersonBox), 1.0), &scale, &PathOptions::default());
        let off_deg = angle_deg(world.rotation[2], camera.rotation[2]);
        assert!(off_deg < 4.0, "rolled by {roll_rad}: up is {off_deg} degrees off");
    }
}

#[test]
fn people_share_one_floor() {
    let camera = Extrinsics::look_at([300.0, -5500.0, 1600.0], [0.0, 0.0, 900.0], 0.0).unwrap();
    let small: Vec<Pose3> = walker(300).iter().map(|pose| pose.map(|[x, y, z]| [0.7 * x - 900.0, 0.7 * y - 700.0, 0.7 * z])).collect();
    let seen = [walker(300), small].map(|world_mm| with_noise(see(&world_mm, camera, Normalisation::PersonBox), 1.0));
    let tall_m = height_m(&walker(1)[0]);
    let people = [(seen[0].sight(), Scale::Height { height_m: tall_m }), (seen[1].sight(), Scale::Height { height_m: 0.7 * tall_m })];
    let (paths, world) = trajectory::place_people(&people, &PathOptions::default()).unwrap();
    assert!(angle_deg(world.rotation[2], camera.rotation[2]) < 3.0);
    for (path, seen) in paths.iter().zip(&seen) {
        let low = pose::smooth::quantile(
            &mut path.camera_mm.iter().flat_map(|p| FEET.map(|j| f64::from(world.to_world(p[j])[2]))).collect::<Vec<_>>(),
            0.2,
        );
        assert!((0.0..110.0).contains(&low), "feet of one of them lie at {low} mm");
        assert!(metrics::mpjpe_mm(&path.camera_mm, &seen.camera_mm) < 160.0, "{}", metrics::mpjpe_mm(&path.camera_mm, &seen.camera_mm));
    }
    // given the poses, the floor can be asked for alone
    let standing: Vec<Standing<'_>> =
        paths.iter().map(|p| Standing { camera_mm: &p.camera_mm, height_m: p.height_m, contact: &p.contact }).collect();
    let again = floor::extrinsics_from_people(&standing, &CameraPlace::default());
    assert!(angle_deg(again.rotation[2], world.rotation[2]) < 1.5 && (again.translation_mm[2] - world.translation_mm[2]).abs() < 30.0);
    assert_eq!(trajectory::place_people(&[], &PathOptions::default()), Err(Error::NoFrames));
}

#[test]
fn people_apart_stand_on_one_floor_though_the_camera_rolls() {
    // two metres apart: by a level camera one of them would float
    let camera = Extrinsics::look_at([-600.0, -4200.0, 2100.0], [-600.0, 0.0, 800.0], 0.23).unwrap();
    let stand =
        |x_mm: f32, y_mm: f32| jumper()[..40].iter().map(|p| p.map(|[x, y, z]| [x + 1500.0 + x_mm, y + y_mm, z])).collect::<Vec<Pose3>>();
    let truth = [stand(-1500.0, 600.0), stand(300.0, -600.0)];
    let seen = truth.each_ref().map(|world_mm| with_noise(see(world_mm, camera, Normalisation::PersonBox), 1.0));
    let scale = Scale::Height { height_m: height_m(&truth[0][0]) };
    let people = [(seen[0].sight(), scale.clone()), (seen[1].sight(), scale)];
    let (paths, world) = trajectory::place_people(&people, &PathOptions::default()).unwrap();
    for path in &paths {
        let heights = path.camera_mm.iter().flat_map(|p| FEET.map(|j| f64::from(world.to_world(p[j])[2])));
        let median = pose::smooth::median(&mut heights.collect::<Vec<_>>());
        assert!((30.0..110.0).contains(&median), "feet stand at {median} mm");
        assert!(path.contact.iter().flatten().filter(|stands| **stands).count() > 60);
    }
}

#[test]
fn the_path_is_there_whatever_is_missing() {
    let scale = Scale::Height { height_m: 1.7 };
    let finite = |path: &Path| path.camera_mm.iter().flatten().flatten().all(|v| v.is_finite());
    // nobody seen for a second; one frame; two frames
    let mut seen = with_noise(walker_seen(), 2.0);
    let truth = seen.true_depths();
    seen.keypoints[150..200].fill([Keypoint::MISSING; pose::JOINTS]);
    let (path, _) = together(&seen, &scale, &PathOptions::default());
    assert!(finite(&path));
    let worst = (150..200).map(|t| (path.root_depth_mm[t] / truth[t] - 1.0).abs()).fold(0.0, f32::max);
    assert!(worst < 0.15, "{worst}");
    for frames in [1, 2, 3] {
        let camera = Extrinsics::look_at([0.0, -4500.0, 1500.0], [0.0, 0.0, 900.0], 0.0).unwrap();
        let seen = see(&walker(frames), camera, Normalisation::PersonBox);
        assert!(finite(&together(&seen, &scale, &PathOptions::default()).0));
    }
    // a given depth stays
    let given = Scale::RootDepth { depth_mm: vec![4000.0] };
    let (path, _) = together(&seen, &given, &PathOptions::default());
    assert!(path.root_depth_mm.iter().all(|&depth| depth == 4000.0));
    // keypoints of another clip
    let mut seen = walker_seen();
    seen.keypoints.truncate(3);
    let refused = trajectory::place_person(&seen.sight(), &scale, &PathOptions::default());
    assert!(refused.unwrap_err().to_string().contains("keypoints: expected one for each of the 400 frames, found 3"));
}
