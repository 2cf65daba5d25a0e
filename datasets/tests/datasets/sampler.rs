use std::sync::Arc;

use datasets::{Augmentation, CameraKind, ClipSampler, Fps, MocapSet, NoiseRecipe, Sample, SampleSource, SamplerOptions};
use pose::normalise::Normalisation;
use pose::{ImageSize, JOINTS, skeleton};

use crate::{shared, walks};

fn sampler(options: SamplerOptions) -> ClipSampler {
    ClipSampler::new(walks(), options).unwrap()
}

/// The label at the true root depth must be the camera-space joints again.
fn check_projection(sample: &Sample) {
    let truth = sample.truth.as_ref().expect("motion capture knows the truth");
    let label = pose::poses_from_values(&sample.label).unwrap();
    for (t, pose25) in label.iter().enumerate() {
        let camera_mm = &truth.view.camera_mm[t];
        let root_px = truth.view.joints_px[t][0];
        let placed = pose::world::back_project_frame(pose25, &truth.transforms[t], root_px, &truth.view.intrinsics, camera_mm[0][2]);
        for (a, b) in placed.as_flattened().iter().zip(camera_mm.as_flattened()) {
            assert!((a - b).abs() < 0.01, "frame {t}: {a} mm is not {b} mm");
        }
    }
}

fn check_projections(set: &Arc<MocapSet>) {
    for (cameras, normalisation) in [(CameraKind::H36mLike, Normalisation::PersonBox), (CameraKind::PhoneLike, Normalisation::Frame)] {
        let options = SamplerOptions { cameras: vec![cameras], normalisation, ..SamplerOptions::new(27, 5) };
        let sampler = ClipSampler::new(Arc::clone(set), options).unwrap();
        let step = sampler.len().div_ceil(150);
        (0..sampler.len()).step_by(step).for_each(|index| check_projection(&sampler.sample(0, index).unwrap()));
    }
}

#[test]
fn a_label_at_the_true_depth_is_the_truth() {
    check_projections(&walks());
}

#[test]
fn a_label_at_the_true_depth_is_the_truth_on_real_motion() {
    let Some(path) = shared("data/mocap/mocap_test.npz") else { return };
    check_projections(&Arc::new(MocapSet::open(&path).unwrap()));
}

#[test]
fn without_noise_input_and_label_show_the_same_joints() {
    for dim_in in [2, 3] {
        let sampler = sampler(SamplerOptions { noise: None, dim_in, ..SamplerOptions::new(27, 6) });
        for index in 0..40 {
            let sample = sampler.sample(1, index).unwrap();
            assert_eq!((sample.input.len(), sample.label.len()), (27 * JOINTS * dim_in, 27 * JOINTS * 3));
            for (input, label) in sample.input.chunks_exact(JOINTS * dim_in).zip(sample.label.chunks_exact(JOINTS * 3)) {
                for j in 0..JOINTS {
                    for c in 0..2 {
                        let relative = input[j * dim_in + c] - input[c];
                        assert!((relative - label[3 * j + c]).abs() < 1e-4);
                    }
                    assert!(dim_in == 2 || input[3 * j + 2] == 1.0, "certain");
                }
                assert_eq!(label[..3], [0.0; 3], "root-relative");
            }
        }
    }
}

#[test]
fn the_person_fills_its_box() {
    let sampler = sampler(SamplerOptions::new(27, 7));
    for index in 0..sampler.len().min(200) {
        let sample = sampler.sample(0, index).unwrap();
        let known: Vec<&[f32; 3]> = sample.input.as_chunks::<3>().0.iter().filter(|k| k[2] >= pose::normalise::BOX_CONFIDENCE).collect();
        let extent = |c: usize| known.iter().map(|k| k[c]).fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
        let edge = 1.0 / pose::normalise::BOX_MARGIN;
        let widest = (0..2).map(|c| extent(c).1 - extent(c).0).fold(0.0, f32::max);
        assert!((widest - 2.0 * edge).abs() < 1e-3, "{widest}");
        assert!((0..2).all(|c| extent(c).0 >= -edge - 1e-3 && extent(c).1 <= edge + 1e-3));
        let truth = sample.truth.unwrap();
        let depths = truth.view.root_depth_mm();
        assert!(depths.iter().all(|&z| (500.0..30_000.0).contains(&z)));
        assert!((25.0..=60.0).contains(&truth.fps));
    }
}

#[test]
fn a_sample_depends_on_seed_epoch_and_index_alone() {
    let a = sampler(SamplerOptions::new(27, 8));
    let b = sampler(SamplerOptions::new(27, 8));
    let backwards: Vec<Sample> = (0..20).rev().map(|i| b.sample(3, i).unwrap()).collect();
    for i in 0..20 {
        assert_eq!(a.sample(3, i).unwrap(), backwards[19 - i]);
        assert_ne!(a.sample(4, i).unwrap().input, backwards[19 - i].input, "another epoch, another draw");
    }
    let c = sampler(SamplerOptions::new(27, 9));
    assert_ne!(a.sample(3, 0).unwrap().input, c.sample(3, 0).unwrap().input);
    assert_eq!(a.order(2), b.order(2));
    assert_ne!(a.order(2), a.order(3));
    let mut order = a.order(2);
    order.sort_unstable();
    assert!(order.into_iter().eq(0..a.len()), "each once");
}

#[test]
fn an_epoch_visits_every_clip_in_proportion() {
    let options = SamplerOptions { augmentation: Augmentation::none(50.0), ..SamplerOptions::new(27, 1) };
    assert_eq!(sampler(options.clone()).len(), 12 * 120_usize.div_ceil(9));
    let strided = SamplerOptions { stride: Some(120), ..options };
    assert_eq!(sampler(strided.clone()).len(), 12);
    let low = Augmentation { low_hip_mm: 5000.0, low_pose_repeat: 3, ..Augmentation::none(50.0) };
    assert_eq!(sampler(SamplerOptions { augmentation: low, ..strided }).len(), 36, "all of it is low");
}

#[test]
fn without_variation_the_recorded_motion_is_seen() {
    let set = walks();
    let options = SamplerOptions { noise: None, augmentation: Augmentation::none(50.0), ..SamplerOptions::new(120, 2) };
    let sampler = ClipSampler::new(Arc::clone(&set), options).unwrap();
    let truth = sampler.sample(0, 0).unwrap().truth.unwrap();
    for (world, camera) in set.poses(0).iter().zip(&truth.view.camera_mm) {
        let back = truth.view.extrinsics.pose_to_world(camera);
        let largest = back.as_flattened().iter().zip(world.as_flattened()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 0.05, "{largest} mm");
    }
}

#[test]
fn clips_too_short_are_sampled_faster_or_held_at_their_ends() {
    let bones =
        |sample: &Sample| sample.truth.as_ref().unwrap().view.camera_mm.iter().map(pose::skeleton::bone_lengths).collect::<Vec<_>>();
    // 240 frames at 60 fps are 4 s, of 2.4 s that there are.
    let sampler = sampler(SamplerOptions { noise: None, ..SamplerOptions::new(240, 2) });
    let sample = sampler.sample(0, 3).unwrap();
    assert_eq!(sample.truth.as_ref().unwrap().fps, 60.0);
    assert!(bones(&sample).iter().flatten().all(|length| length.is_finite()));
    let view = &sample.truth.as_ref().unwrap().view;
    assert_eq!(view.camera_mm[0], view.camera_mm[1], "held at the start");
    assert_eq!(view.camera_mm[238], view.camera_mm[239], "held at the end");
}

#[test]
fn mirrored_people_are_people() {
    // A mirrored world with its labels left as they were would have been refused.
    let mirrored = Augmentation { mirror: 1.0, ..Augmentation::none(50.0) };
    let sampler = sampler(SamplerOptions { noise: None, augmentation: mirrored, ..SamplerOptions::new(27, 3) });
    let clips = (0..12)
        .map(|i| {
            let view = sampler.sample(0, i * 10).unwrap().truth.unwrap().view;
            let world = view.camera_mm.iter().map(|pose| view.extrinsics.pose_to_world(pose)).collect();
            (format!("{i}"), "mirrored".to_owned(), world)
        })
        .collect();
    MocapSet::from_clips("mirrored", 50.0, clips).unwrap();
}

#[test]
fn varied_people_keep_limbs_of_constant_length() {
    let varied = Augmentation { tilt: 1.0, ..Augmentation::default() };
    let sampler = sampler(SamplerOptions {
        noise: None,
        augmentation: Augmentation { fps: Fps::Fixed(50.0), ..varied },
        ..SamplerOptions::new(27, 4)
    });
    for index in 0..30 {
        let view = sampler.sample(0, index * 3).unwrap().truth.unwrap().view;
        let first = skeleton::bone_lengths(&view.camera_mm[0]);
        for pose in &view.camera_mm {
            for (bone, (a, b)) in skeleton::bone_lengths(pose).into_iter().zip(first).enumerate() {
                assert!((a / b - 1.0).abs() < 0.02, "bone {bone}: {a} {b}"); // interpolation in time costs a little
            }
        }
        let world = view.camera_mm.iter().flat_map(|pose| view.extrinsics.pose_to_world(pose));
        let lowest = world.map(|joint| joint[2]).fold(f32::MAX, f32::min);
        assert!(lowest.abs() < 0.1, "the lowest joint lies on the floor: {lowest}");
    }
}

#[test]
fn cameras_are_of_their_kind() {
    for kind in CameraKind::ALL {
        let sampler = sampler(SamplerOptions {
            cameras: vec![kind],
            augmentation: Augmentation { truncated: 0.0, ..Augmentation::default() },
            ..SamplerOptions::new(9, 12)
        });
        let mut upright = 0;
        for index in 0..200 {
            let view = sampler.sample(0, index).unwrap().truth.unwrap().view;
            let ImageSize { width_px, height_px } = view.image;
            let inside = |&[x, y]: &[f32; 2]| (0.0..=width_px as f32).contains(&x) && (0.0..=height_px as f32).contains(&y);
            assert!(view.joints_px.iter().flatten().all(inside));
            let height_mm = view.extrinsics.translation_mm[2];
            let away_z = view.extrinsics.rotation[2][2];
            match kind {
                CameraKind::H36mLike => {
                    assert_eq!((width_px, height_px, view.intrinsics.focal_px), (1000, 1000, [1145.0; 2]));
                    assert!((1000.0..=2200.0).contains(&height_mm));
                }
                CameraKind::PhoneLike => {
                    assert!((0.75..=1.1).contains(&(view.intrinsics.focal_px[0] / 1920.0)));
                    assert_eq!(width_px + height_px, 3000);
                    assert!((300.0..=2200.0).contains(&height_mm));
                    assert!(away_z.abs() <= 25_f32.to_radians().sin() + 1e-4, "pitch");
                    upright += usize::from(height_px > width_px);
                }
            }
        }
        assert!(kind == CameraKind::H36mLike || (50..150).contains(&upright));
    }
}

#[test]
fn options_out_of_range_are_named() {
    let bad = |change: fn(&mut SamplerOptions)| {
        let mut options = SamplerOptions::new(27, 0);
        change(&mut options);
        ClipSampler::new(walks(), options).unwrap_err().to_string()
    };
    assert!(bad(|o| o.n_frames = 0).contains("n_frames is 0"));
    assert!(bad(|o| o.dim_in = 4).contains("dim_in is 4"));
    assert!(bad(|o| o.cameras.clear()).contains("no kind of camera"));
    assert!(bad(|o| o.stride = Some(0)).contains("stride is 0"));
    assert!(bad(|o| o.augmentation.fps = Fps::Range([60.0, 25.0])).contains("fps is [60, 25]"));
    assert!(bad(|o| o.augmentation.fps = Fps::Fixed(f32::NAN)).contains("fps is [NaN"));
    assert!(bad(|o| o.augmentation.body_scale = [0.0, 1.0]).contains("body_scale"));
    assert!(bad(|o| o.augmentation.mirror = 2.0).contains("mirror is 2"));
    assert!(bad(|o| o.noise = Some(NoiseRecipe { torso_px: 0.0, ..NoiseRecipe::default() })).contains("torso_px is 0"));
}

#[test]
fn a_motion_that_no_camera_sees_is_an_error() {
    let mut poses = walks().poses(0).to_vec();
    let last = poses.len() - 1;
    poses[last].iter_mut().for_each(|joint| joint[0] += 9e5); // jumps by 900 m
    let set = MocapSet::from_clips("jump", 50.0, vec![("jump".into(), "nobody".into(), poses)]).unwrap();
    let options =
        SamplerOptions { augmentation: Augmentation { truncated: 0.0, ..Augmentation::none(50.0) }, ..SamplerOptions::new(120, 0) };
    let result = ClipSampler::new(Arc::new(set), options).unwrap().sample(0, 0);
    // Either no camera sees it, or one does from very far away: both are sound.
    if let Err(e) = result {
        assert!(e.to_string().contains("camera sees the whole motion"), "{e}");
    }
}

#[test]
fn variation_is_read_from_recipes() {
    let read = |text: &str| toml::from_str::<Augmentation>(text);
    assert_eq!(read("fps = 50").unwrap().fps, Fps::Fixed(50.0));
    assert_eq!(read("fps = [25, 60.0]\nmirror = 0").unwrap(), Augmentation { mirror: 0.0, ..Augmentation::default() });
    assert!(read("miror = 0.5").unwrap_err().to_string().contains("unknown field `miror`"));
    assert!(read("fps = \"fast\"").is_err());
    assert_eq!(toml::from_str::<Augmentation>(&toml::to_string(&Augmentation::default()).unwrap()).unwrap(), Augmentation::default());
}
