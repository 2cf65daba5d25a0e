//! A synthetic walker, real motion, and how a lifter sees them.

#![allow(dead_code)] // each test file uses some of it

use pose::{
    Error, ImageSize, JOINTS, Keypoint, Keypoints17, Pose3, ROOT,
    camera::{Extrinsics, Intrinsics},
    live::{CausalPlacer, WorldFollower},
    normalise::{ImageTransform, Normalisation},
    trajectory::Sight,
    world::{self, PlacedClip, Scale},
};
use std::f32::consts::TAU;

pub const IMAGE: ImageSize = ImageSize { width_px: 1920, height_px: 1080 };
pub const FPS: f64 = 50.0;

/// A walker in the world, z up, millimetres: a circle of 1.5 m radius, legs and arms that swing, bones that keep their length.
pub fn walker(frames: usize) -> Vec<Pose3> {
    (0..frames).map(|t| walking_pose(t as f32 / FPS as f32)).collect()
}

pub fn walking_pose(time_s: f32) -> Pose3 {
    let around = 0.5 * time_s; // radians along the circle
    let (sin, cos) = around.sin_cos();
    let (at, forward, left) = ([1500.0 * cos, 1500.0 * sin], [-sin, cos], [-cos, -sin]);
    let place =
        |side: f32, ahead: f32, up: f32| [at[0] + side * left[0] + ahead * forward[0], at[1] + side * left[1] + ahead * forward[1], up];
    // a limb of two bones, swung from its upper end in the plane of walking
    let limb = |side: f32, top: f32, upper: f32, lower: f32, swing: f32, bend: f32| {
        let middle = (upper * swing.sin(), top - upper * swing.cos());
        let end = (middle.0 + lower * (swing - bend).sin(), middle.1 - lower * (swing - bend).cos());
        [place(side, 0.0, top), place(side, middle.0, middle.1), place(side, end.0, end.1)]
    };
    let step = TAU * 0.9 * time_s;
    let hip_mm = 930.0 + 20.0 * (2.0 * step).sin();
    let leg = |side: f32, phase: f32| limb(side, hip_mm, 430.0, 430.0, 0.45 * phase.sin(), 0.5 * (1.0 + phase.cos()) / 2.0);
    let arm = |side: f32, phase: f32| limb(side, hip_mm + 500.0, 290.0, 250.0, 0.4 * phase.sin(), -0.4);
    let trunk = |up: f32, ahead: f32| place(0.0, ahead, hip_mm + up);
    let limbs = [leg(-90.0, step), leg(90.0, step + TAU / 2.0), arm(150.0, step), arm(-150.0, step + TAU / 2.0)];
    let mut pose = [trunk(0.0, 0.0); JOINTS];
    for (first, limb) in [1, 4, 11, 14].into_iter().zip(limbs) {
        pose[first..first + 3].copy_from_slice(&limb);
    }
    pose[7..11].copy_from_slice(&[trunk(220.0, 10.0), trunk(500.0, 0.0), trunk(620.0, 60.0), trunk(750.0, 10.0)]);
    pose
}

/// Someone who walks along +x with feet that truly stand: each on the floor for 0.6 of a cycle of 1.1 s, 1.3 m a cycle.
pub fn stepper(frames: usize) -> Vec<Pose3> {
    (0..frames).map(|t| stepping_pose(t as f32 / FPS as f32)).collect()
}

/// Height of a standing ankle of [`stepper`].
pub const STEPPER_ANKLE_MM: f32 = 66.0;

fn stepping_pose(time_s: f32) -> Pose3 {
    const STRIDE_MM: f32 = 1300.0;
    const STANCE: f32 = 0.6;
    let cycles = time_s / 1.1;
    let (x_mm, hip_mm) = (STRIDE_MM * cycles, 830.0 + 8.0 * (2.0 * TAU * cycles).cos());
    let leg = |side_mm: f32, offset: f32| {
        let (count, phase) = ((cycles + offset).floor(), (cycles + offset).fract());
        // under the hip in the middle of the stance
        let stand_mm = STRIDE_MM * (count - offset + STANCE / 2.0);
        let swing = ((phase - STANCE) / (1.0 - STANCE)).max(0.0);
        let ahead_mm = STRIDE_MM * swing * swing * (3.0 - 2.0 * swing);
        let ankle = [stand_mm + ahead_mm, STEPPER_ANKLE_MM + 130.0 * (swing * TAU / 2.0).sin().powi(2)];
        // the knee of two bones of 430 mm, in front of the line from hip to ankle
        let (dx, dz) = (ankle[0] - x_mm, ankle[1] - hip_mm);
        let half = dx.hypot(dz) / 2.0;
        let bend = (430.0_f32.powi(2) - half * half).max(0.0).sqrt() / (2.0 * half);
        let knee = [x_mm + dx / 2.0 - bend * dz, hip_mm + dz / 2.0 + bend * dx];
        [[x_mm, side_mm, hip_mm], [knee[0], side_mm, knee[1]], [ankle[0], side_mm, ankle[1]]]
    };
    let arm = |side_mm: f32, offset: f32| {
        let swing = 0.4 * (TAU * (cycles + offset)).cos();
        let elbow = [x_mm + 290.0 * swing.sin(), hip_mm + 500.0 - 290.0 * swing.cos()];
        let wrist = [elbow[0] + 250.0 * (swing + 0.4).sin(), elbow[1] - 250.0 * (swing + 0.4).cos()];
        [[x_mm, side_mm, hip_mm + 500.0], [elbow[0], side_mm, elbow[1]], [wrist[0], side_mm, wrist[1]]]
    };
    let trunk = |up: f32, ahead: f32| [x_mm + ahead, 0.0, hip_mm + up];
    let mut pose = [trunk(0.0, 0.0); JOINTS];
    for (first, limb) in [1, 4, 11, 14].into_iter().zip([leg(-90.0, 0.0), leg(90.0, 0.5), arm(150.0, 0.0), arm(-150.0, 0.5)]) {
        pose[first..first + 3].copy_from_slice(&limb);
    }
    pose[7..11].copy_from_slice(&[trunk(220.0, 10.0), trunk(500.0, 0.0), trunk(620.0, 60.0), trunk(750.0, 10.0)]);
    pose
}

/// The stature that goes with a skeleton, by the crate's own anthropometry.
pub fn height_m(pose: &Pose3) -> f32 {
    let chain = world::body_chain(&pose::skeleton::bone_lengths(pose).map(f64::from));
    (chain / world::CHAIN_TO_STATURE / 1000.0) as f32
}

/// A clip as a perfect lifter sees it.
pub struct Seen {
    pub camera_mm: Vec<Pose3>,
    pub pose25: Vec<Pose3>,
    pub transforms: Vec<ImageTransform>,
    pub keypoints: Vec<Keypoints17>,
    pub root_px: Vec<[f32; 2]>,
    pub times_s: Vec<f64>,
    pub intrinsics: Intrinsics,
    pub extrinsics: Extrinsics,
}

pub fn see(world_mm: &[Pose3], extrinsics: Extrinsics, normalisation: Normalisation) -> Seen {
    let intrinsics = Intrinsics::from_horizontal_fov_deg(IMAGE, 65.0).unwrap();
    let camera_mm: Vec<Pose3> = world_mm.iter().map(|pose| extrinsics.pose_to_camera(pose)).collect();
    let keypoint = |p: [f32; 3]| {
        let [x_px, y_px] = intrinsics.project(p).expect("in front of the camera");
        Keypoint::new(x_px, y_px, 0.9)
    };
    let keypoints: Vec<Keypoints17> = camera_mm.iter().map(|pose| pose.map(keypoint)).collect();
    // a box for each window of 100 frames, as a lifter makes them
    let boxes = keypoints.chunks(100).flat_map(|w| vec![normalisation.transform(w, IMAGE).unwrap(); w.len()]);
    let transforms: Vec<ImageTransform> = boxes.collect();
    let project = |(pose, t): (&Pose3, &ImageTransform)| world::project_frame(pose, t, &intrinsics).unwrap();
    let (pose25, root_px) = camera_mm.iter().zip(&transforms).map(project).unzip();
    let times_s = (0..camera_mm.len()).map(|t| t as f64 / FPS).collect();
    Seen { camera_mm, pose25, transforms, keypoints, root_px, times_s, intrinsics, extrinsics }
}

pub fn walker_seen() -> Seen {
    let camera = Extrinsics::look_at([300.0, -4500.0, 1600.0], [0.0, 0.0, 900.0], 0.02).unwrap();
    see(&walker(400), camera, Normalisation::PersonBox)
}

impl Seen {
    pub fn place(&self, scale: &Scale) -> Result<PlacedClip, Error> {
        world::place_clip(&self.pose25, &self.transforms, &self.root_px, &self.times_s, &self.intrinsics, scale)
    }

    /// Frame by frame, looking at no later one: camera space and where the camera stands.
    pub fn place_live(&self, scale: Scale) -> (Vec<Pose3>, Vec<Extrinsics>) {
        let mut placer = CausalPlacer::new(IMAGE, Some(self.intrinsics), scale).unwrap();
        let mut world = WorldFollower::default();
        let push = |t: usize| {
            let placed = placer.push(self.times_s[t], &self.pose25[t], &self.transforms[t], self.root_px[t]).unwrap();
            (placed.camera_mm, world.push(self.times_s[t], &placed.camera_mm, placed.height_m))
        };
        (0..self.pose25.len()).map(push).unzip()
    }

    pub fn sight(&self) -> Sight<'_> {
        let Self { pose25, transforms, root_px, keypoints, times_s, intrinsics, .. } = self;
        Sight { pose25, transforms, root_px, keypoints, times_s, intrinsics }
    }

    pub fn true_depths(&self) -> Vec<f32> {
        self.camera_mm.iter().map(|pose| pose[ROOT][2]).collect()
    }

    /// The 2.5D with noise, in pixels, on every joint but the root; z ten times worse, as lifters are.
    pub fn with_noise(mut self, noise_px: f32) -> Self {
        let mut state = 1u32;
        let mut uniform = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); // linear congruential generator
            (state >> 8) as f32 / (1 << 24) as f32
        };
        // a sum of uniform draws: variance 1, nearly Gaussian
        let mut draw = || (0..12).map(&mut uniform).sum::<f32>() - 6.0;
        for (pose, t) in self.pose25.iter_mut().zip(&self.transforms) {
            let unit = noise_px / t.half_size_px;
            for joint in &mut pose[1..] {
                *joint = [joint[0] + unit * draw(), joint[1] + unit * draw(), joint[2] + 10.0 * unit * draw()];
            }
        }
        self
    }
}

/// Clips of real motion in the world (z up, millimetres); `None` where the data are absent.
pub fn real_motion() -> Option<Vec<Vec<Pose3>>> {
    let path = format!("{}/../../shared/data/mocap/tiny_test.npz", env!("CARGO_MANIFEST_DIR"));
    let mut archive = npyz::npz::NpzArchive::open(&path).ok()?;
    let values: Vec<i16> = archive.by_name("poses").ok()??.into_vec().ok()?;
    let offsets: Vec<i32> = archive.by_name("offsets").ok()??.into_vec().ok()?;
    let poses = pose::poses_from_values(&values.into_iter().map(f32::from).collect::<Vec<_>>()).ok()?;
    Some(offsets.windows(2).map(|clip| poses[clip[0] as usize..clip[1] as usize].to_vec()).collect())
}

/// A camera that sees all of a clip: far enough to have it in front wherever it goes.
pub fn camera_for(world_mm: &[Pose3]) -> Extrinsics {
    let hip = world_mm[world_mm.len() / 2][ROOT];
    let reach = world_mm.iter().map(|p| (p[ROOT][0] - hip[0]).hypot(p[ROOT][1] - hip[1])).fold(0.0, f32::max);
    Extrinsics::look_at([hip[0], hip[1] - 4000.0 - reach, 1500.0], [hip[0], hip[1], 900.0], 0.0).unwrap()
}

/// Median stature of a clip.
pub fn stature_m(world_mm: &[Pose3]) -> f32 {
    pose::smooth::median(&mut world_mm.iter().map(|p| f64::from(height_m(p))).collect::<Vec<_>>()) as f32
}

/// Between two directions. The third row of a camera's rotation is the world's up in camera space.
pub fn angle_deg(a: [f32; 3], b: [f32; 3]) -> f32 {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    dot.clamp(-1.0, 1.0).acos().to_degrees()
}
