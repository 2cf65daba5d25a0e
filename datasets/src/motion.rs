//! Motion before the camera sees it: other frame rates, other bodies, other poses.

use nalgebra::{Rotation3, Unit, Vector3};
use pose::{JOINTS, Pose3, skeleton};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::random::{normal, uniform};

/// Frame rate that clips are resampled to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fps {
    /// Always this one: for a model that is fed at one rate.
    Fixed(f32),
    /// Uniform in `[low, high]` per sample: for a model that is fed at whatever rate the video has.
    Range([f32; 2]),
}

impl Fps {
    pub(crate) fn range(self) -> [f32; 2] {
        match self {
            Fps::Fixed(fps) => [fps, fps],
            Fps::Range(range) => range,
        }
    }
}

/// How training varies the recorded people. Every change keeps the motion physical enough to be seen by a camera: it happens in the
/// world, before projection, so that input and label always belong together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Frames per second of the samples: one number or `[low, high]`.
    pub fps: Fps,
    /// Probability that left and right are exchanged and the world is mirrored.
    pub mirror: f32,
    /// The whole person and the distances it covers, times uniform `[low, high]`.
    pub body_scale: [f32; 2],
    /// Standard deviation of the factors on legs, trunk, arms, head and widths, each drawn apart; cut at two of them.
    pub proportions: f32,
    /// Probability that the whole person is tilted by 20 to 90 degrees about some horizontal axis, so that also lying poses occur.
    pub tilt: f32,
    /// Probability that the camera may cut off parts of the person; otherwise all of it is inside the image.
    pub truncated: f32,
    /// How often a stretch of motion with the hip under `low_hip_mm` occurs per epoch; others once.
    pub low_pose_repeat: u32,
    /// See `low_pose_repeat`.
    pub low_hip_mm: f32,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            fps: Fps::Range([25.0, 60.0]),
            mirror: 0.5,
            body_scale: [0.85, 1.15],
            proportions: 0.05,
            tilt: 0.05,
            truncated: 0.1,
            low_pose_repeat: 3,
            low_hip_mm: 650.0,
        }
    }
}

impl Augmentation {
    /// The recorded motion as it is, at `fps`.
    pub fn none(fps: f32) -> Self {
        Self {
            fps: Fps::Fixed(fps),
            mirror: 0.0,
            body_scale: [1.0, 1.0],
            proportions: 0.0,
            tilt: 0.0,
            truncated: 0.0,
            low_pose_repeat: 1,
            low_hip_mm: 0.0,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let [low, high] = self.fps.range();
        if !(low >= 1.0 && low <= high && high <= 1000.0) {
            return Err(Error::options(format!("fps is [{low}, {high}]: expected a rising range within 1 to 1000 frames per second")));
        }
        let [low, high] = self.body_scale;
        if !(low >= 0.1 && low <= high && high <= 10.0) {
            return Err(Error::options(format!("body_scale is [{low}, {high}]: expected a rising range within 0.1 to 10")));
        }
        if !(0.0..=0.3).contains(&self.proportions) {
            return Err(Error::options(format!("proportions is {}: expected 0 to 0.3", self.proportions)));
        }
        for (name, probability) in [("mirror", self.mirror), ("tilt", self.tilt), ("truncated", self.truncated)] {
            if !(0.0..=1.0).contains(&probability) {
                return Err(Error::options(format!("{name} is {probability}: expected a probability from 0 to 1")));
            }
        }
        if !(1..=1000).contains(&self.low_pose_repeat) {
            return Err(Error::options(format!("low_pose_repeat is {}: expected 1 to 1000", self.low_pose_repeat)));
        }
        Ok(())
    }

    /// Another person doing the same: mirrored, resized, tilted. World mm in place, z up, floor at 0.
    pub(crate) fn vary(&self, world_mm: &mut [Pose3], rng: &mut impl Rng) {
        // Every draw happens whether or not it is used: a probability that changes does not shift what comes after it.
        let mirrored = rng.random::<f32>() < self.mirror;
        let size = uniform(rng, self.body_scale);
        let parts: [f32; 5] = std::array::from_fn(|_| size * (1.0 + self.proportions * normal(rng).clamp(-2.0, 2.0)));
        let tilted = rng.random::<f32>() < self.tilt;
        let axis_rad = uniform(rng, [0.0, std::f32::consts::TAU]);
        let tilt_deg = uniform(rng, [20.0, 90.0]);

        if mirrored {
            world_mm.iter_mut().for_each(mirror);
        }
        if self.proportions > 0.0 || size != 1.0 {
            let factors = bone_factors(parts);
            world_mm.iter_mut().for_each(|pose| resize(pose, &factors, parts[0]));
        }
        if tilted {
            tilt(world_mm, axis_rad, tilt_deg.to_radians());
        }
    }
}

/// Left and right exchanged in a mirror across the plane x = 0.
fn mirror(pose: &mut Pose3) {
    let original = *pose;
    for (joint, source) in skeleton::flip_index().into_iter().enumerate() {
        let [x, y, z] = original[source];
        pose[joint] = [-x, y, z];
    }
}

/// Factor of the bone that ends in each joint, out of those of legs, trunk, arms, head and widths (hips and shoulders).
fn bone_factors([legs, trunk, arms, head, widths]: [f32; 5]) -> [f32; JOINTS] {
    [1.0, widths, legs, legs, widths, legs, legs, trunk, trunk, head, head, widths, arms, arms, widths, arms, arms]
}

/// Each bone times its factor, and the root's path times that of the legs, so that feet stay on the floor and steps keep their grip.
fn resize(pose: &mut Pose3, factors: &[f32; JOINTS], legs: f32) {
    let original = pose.map(Vector3::from);
    pose[0] = (original[0] * legs).into();
    for (parent, child) in skeleton::BONES {
        pose[child] = (Vector3::from(pose[parent]) + (original[child] - original[parent]) * factors[child]).into();
    }
}

/// The whole person leaning or lying: turned about its root, the root's path shortened, the lowest joint of the clip on the floor.
fn tilt(world_mm: &mut [Pose3], axis_rad: f32, tilt_rad: f32) {
    let Some(start) = world_mm.first().map(|pose| Vector3::from(pose[0])) else { return };
    let axis = Unit::new_normalize(Vector3::new(axis_rad.cos(), axis_rad.sin(), 0.0));
    let turn = Rotation3::from_axis_angle(&axis, tilt_rad);
    let path = tilt_rad.cos().max(0.1); // nobody runs while lying
    for pose in world_mm.iter_mut() {
        let root = Vector3::from(pose[0]);
        let moved = start + (root - start) * path;
        *pose = pose.map(|joint| (moved + turn * (Vector3::from(joint) - root)).into());
    }
    let lowest = world_mm.iter().flatten().map(|joint| joint[2]).fold(f32::INFINITY, f32::min);
    world_mm.iter_mut().flatten().for_each(|joint| joint[2] -= lowest);
}

/// `frames` poses at `fps`, the first at source frame `start` (which may lie between two), by Catmull-Rom interpolation of `source`, a
/// motion at `source_fps`. Beyond an end its last pose is held.
pub(crate) fn resample(source: &[Pose3], source_fps: f64, start: f64, fps: f64, frames: usize) -> Vec<Pose3> {
    let last = source.len() - 1;
    let step = source_fps / fps;
    (0..frames)
        .map(|i| {
            let at = (start + i as f64 * step).clamp(0.0, last as f64);
            let k = (at as usize).min(last);
            let t = (at - k as f64) as f32;
            if t < 1e-6 {
                return source[k];
            }
            let (before, from, to, after) =
                (&source[k.saturating_sub(1)], &source[k], &source[(k + 1).min(last)], &source[(k + 2).min(last)]);
            let w = catmull_rom(t);
            std::array::from_fn(|j| std::array::from_fn(|c| w[0] * before[j][c] + w[1] * from[j][c] + w[2] * to[j][c] + w[3] * after[j][c]))
        })
        .collect()
}

/// Weights of the four neighbouring samples at `t` in 0..1 between the middle two.
fn catmull_rom(t: f32) -> [f32; 4] {
    let (t2, t3) = (t * t, t * t * t);
    [(-t + 2.0 * t2 - t3) / 2.0, (2.0 - 5.0 * t2 + 3.0 * t3) / 2.0, (t + 4.0 * t2 - 3.0 * t3) / 2.0, (t3 - t2) / 2.0]
}
