//! Cameras at random places around a person.

use std::f32::consts::TAU;

use pose::camera::{Extrinsics, Intrinsics};
use pose::normalise::ImageTransform;
use pose::{ImageSize, Pose2, Pose3, ROOT};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::random::{normal, uniform};

/// A kind of camera and where people put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CameraKind {
    /// A laboratory camera like those of Human3.6M: 1000 x 1000 px, focal length 1145 px, 3 to 7 m away, 1.0 to 2.2 m high, roll N(0, 2 deg).
    H36mLike,
    /// A phone: 1080 x 1920 or 1920 x 1080 px, focal length 0.75 to 1.1 times the longer side, 2 to 6 m away, 0.3 to 2.2 m high, pitch at
    /// most 25 degrees up or down, roll N(0, 3 deg).
    PhoneLike,
}

/// What one fixed camera sees of a motion.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Size of its image.
    pub image: ImageSize,
    /// Its lens.
    pub intrinsics: Intrinsics,
    /// Where it stands.
    pub extrinsics: Extrinsics,
    /// True pixels of the joints of each frame; outside the image too.
    pub joints_px: Vec<Pose2>,
    /// Joints of each frame in camera space (x right, y down, z away), mm.
    pub camera_mm: Vec<Pose3>,
}

/// A joint nearer than this is refused: no lens shows it sharply.
const NEAREST_MM: f32 = 500.0;
/// The camera aims at the hip, give or take this along each axis.
const AIM_MM: f32 = 300.0;
/// Draws before the distance range starts to grow, draws for each further growth by `GROWTH`, and draws altogether.
const PATIENCE: i32 = 40;
const PER_GROWTH: i32 = 10;
const GROWTH: f32 = 1.1;
const DRAWS: i32 = 1000;

impl CameraKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::H36mLike, Self::PhoneLike];

    /// The name in recipes and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::H36mLike => "h36m_like",
            Self::PhoneLike => "phone_like",
        }
    }

    /// A camera that stands still, somewhere on a circle around the mean place of the person, and sees all joints of all frames; with
    /// `may_cut_off` it sees the root and has every joint in front of it. `world_mm` is z up with the floor at 0.
    ///
    /// Where no camera of the kind's distances can do that (the person walks too far), it stands farther away.
    ///
    /// # Errors
    /// A motion so wide that no camera within reason sees it, or one without frames.
    pub fn draw(self, world_mm: &[Pose3], may_cut_off: bool, rng: &mut impl Rng) -> Result<View, Error> {
        if world_mm.is_empty() {
            return Err(pose::Error::NoFrames.into());
        }
        let hip_mm = mean_root(world_mm);
        for attempt in 0..DRAWS {
            let stretch = GROWTH.powi((attempt - PATIENCE).max(0) / PER_GROWTH);
            let Some(camera) = self.place(hip_mm, stretch, rng) else { continue };
            if let Some(view) = camera.see(world_mm, may_cut_off) {
                return Ok(view);
            }
        }
        Err(Error::options(format!(
            "no {} camera sees the whole motion of {} frames around {hip_mm:?} mm: is the root's path in millimetres?",
            self.name(),
            world_mm.len()
        )))
    }

    /// One camera; `None` when its pitch is not one of this kind.
    fn place(self, hip_mm: [f32; 3], stretch: f32, rng: &mut impl Rng) -> Option<Camera> {
        let (distance_mm, height_mm, roll_deg, pitch_deg) = match self {
            Self::H36mLike => ([3000.0, 7000.0], [1000.0, 2200.0], 2.0, 90.0),
            Self::PhoneLike => ([2000.0, 6000.0], [300.0, 2200.0], 3.0, 25.0),
        };
        let (image, focal_px) = match self {
            Self::H36mLike => (ImageSize { width_px: 1000, height_px: 1000 }, 1145.0),
            Self::PhoneLike => {
                let upright = rng.random::<bool>();
                let (width_px, height_px) = if upright { (1080, 1920) } else { (1920, 1080) };
                (ImageSize { width_px, height_px }, 1920.0 * uniform(rng, [0.75, 1.1]))
            }
        };
        let azimuth_rad = uniform(rng, [0.0, TAU]);
        let distance_mm = stretch * uniform(rng, distance_mm); // along the floor
        let position_mm =
            [hip_mm[0] + distance_mm * azimuth_rad.cos(), hip_mm[1] + distance_mm * azimuth_rad.sin(), uniform(rng, height_mm)];
        let aim_mm = hip_mm.map(|v| v + uniform(rng, [-AIM_MM, AIM_MM]));
        let roll_rad = (roll_deg * normal(rng)).to_radians();
        let along_floor_mm = (aim_mm[0] - position_mm[0]).hypot(aim_mm[1] - position_mm[1]);
        let pitch = (aim_mm[2] - position_mm[2]).atan2(along_floor_mm).to_degrees();
        if pitch.abs() > pitch_deg {
            return None;
        }
        let centre_px = [image.width_px as f32 / 2.0, image.height_px as f32 / 2.0];
        let intrinsics = Intrinsics { focal_px: [focal_px; 2], centre_px };
        let extrinsics = Extrinsics::look_at(position_mm, aim_mm, roll_rad).ok()?;
        Some(Camera { image, intrinsics, extrinsics })
    }
}

struct Camera {
    image: ImageSize,
    intrinsics: Intrinsics,
    extrinsics: Extrinsics,
}

impl Camera {
    /// What it sees, or `None` when a joint is too near, behind it or, unless `may_cut_off`, outside the image.
    fn see(self, world_mm: &[Pose3], may_cut_off: bool) -> Option<View> {
        let Self { image, intrinsics, extrinsics } = self;
        let inside = |[x, y]: [f32; 2]| (0.0..=image.width_px as f32).contains(&x) && (0.0..=image.height_px as f32).contains(&y);
        let mut joints_px = Vec::with_capacity(world_mm.len());
        let mut camera_mm = Vec::with_capacity(world_mm.len());
        for pose in world_mm {
            let pose_mm = extrinsics.pose_to_camera(pose);
            let mut pose_px = [[0.0; 2]; pose::JOINTS];
            for (joint, pixel) in pose_px.iter_mut().enumerate() {
                if pose_mm[joint][2] < NEAREST_MM {
                    return None;
                }
                *pixel = intrinsics.project(pose_mm[joint])?;
                if !(inside(*pixel) || may_cut_off && joint != ROOT) {
                    return None;
                }
            }
            joints_px.push(pose_px);
            camera_mm.push(pose_mm);
        }
        Some(View { image, intrinsics, extrinsics, joints_px, camera_mm })
    }
}

fn mean_root(world_mm: &[Pose3]) -> [f32; 3] {
    std::array::from_fn(|c| {
        let sum: f64 = world_mm.iter().map(|pose| f64::from(pose[ROOT][c])).sum();
        (sum / world_mm.len() as f64) as f32
    })
}

impl View {
    /// Depth of the root in each frame, mm.
    pub fn root_depth_mm(&self) -> Vec<f32> {
        self.camera_mm.iter().map(|pose| pose[ROOT][2]).collect()
    }

    /// Pixel of the root in each frame.
    pub fn root_px(&self) -> Vec<[f32; 2]> {
        self.joints_px.iter().map(|pose| pose[ROOT]).collect()
    }

    /// Length in pixels that the trunk would have in each frame were it parallel to the image: its mean length over the clip at the depth
    /// of the root. It is the size of the person that detector noise follows.
    pub fn torso_px(&self) -> Vec<f32> {
        let length = |pose: &Pose3| (0..3).map(|c| (pose[8][c] - pose[0][c]).powi(2)).sum::<f32>().sqrt();
        let mean_mm = self.camera_mm.iter().map(length).sum::<f32>() / self.camera_mm.len() as f32;
        self.camera_mm.iter().map(|pose| mean_mm * self.intrinsics.mean_focal_px() / pose[ROOT][2]).collect()
    }

    /// The 2.5D of one frame in the units of `transform`: what a lifter should say of it, see [`pose::world`].
    ///
    /// # Errors
    /// A joint that is not in front of the camera, which no drawn view has.
    pub fn pose25(&self, frame: usize, transform: &ImageTransform) -> Result<Pose3, Error> {
        let projected = pose::world::project_frame(&self.camera_mm[frame], transform, &self.intrinsics);
        let (pose25, _root_px) =
            projected.ok_or_else(|| Error::options(format!("frame {frame}: a joint is not in front of the camera")))?;
        Ok(pose25)
    }
}
