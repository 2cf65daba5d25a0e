//! People made of a few sines, who walk, crouch and wave: motion in the layout of real motion capture, for tests and for trying the
//! tools where no data is at hand. A model trained on it has learnt nothing about people.

use nalgebra::{Rotation3, Vector3};
use pose::{JOINTS, Pose3};
use rand::Rng;

use crate::Error;
use crate::mocap::MocapSet;
use crate::random::{Stream, generator, uniform};

/// Frames per second of the figures.
pub const FPS: f64 = 50.0;

/// A set of `clips` walks of `frames` frames, each by someone else.
///
/// # Errors
/// Fewer than 2 frames or no clips.
pub fn walks(name: &str, clips: usize, frames: usize, seed: u64) -> Result<MocapSet, Error> {
    let clip = |i: usize| {
        let mut rng = generator(seed, Stream::Synthetic, 0, i as u64);
        let walker = Walker::draw(&mut rng);
        let poses = (0..frames).map(|t| walker.pose(t as f32 / FPS as f32)).collect();
        (format!("walk {i}"), format!("walker {i}"), poses)
    };
    MocapSet::from_clips(name, FPS, (0..clips).map(clip).collect())
}

/// Someone who walks in a circle.
struct Walker {
    /// 1 for a stature of 1.70 m.
    size: f32,
    steps_per_s: f32,
    stride_rad: f32,
    phase_rad: f32,
    /// Mean bend of the knees: walking low.
    crouch_rad: f32,
    wave_rad: f32,
    radius_mm: f32,
    start_rad: f32,
    /// 1 or -1: anticlockwise or clockwise.
    sense: f32,
}

impl Walker {
    fn draw(rng: &mut impl Rng) -> Self {
        Self {
            size: uniform(rng, [0.9, 1.1]),
            steps_per_s: uniform(rng, [0.7, 1.1]),
            stride_rad: uniform(rng, [0.3, 0.6]),
            phase_rad: uniform(rng, [0.0, 6.0]),
            crouch_rad: uniform(rng, [0.0, 0.9]),
            wave_rad: uniform(rng, [0.0, 1.5]),
            radius_mm: uniform(rng, [600.0, 1200.0]),
            start_rad: uniform(rng, [0.0, 6.0]),
            sense: if rng.random::<bool>() { 1.0 } else { -1.0 },
        }
    }

    /// World mm at a time: z up, the lower foot on the floor.
    fn pose(&self, t_s: f32) -> Pose3 {
        let phase = self.phase_rad + std::f32::consts::TAU * self.steps_per_s * t_s;
        let bend = |angle_rad: f32, length_mm: f32| Vector3::new(angle_rad.sin() * length_mm, 0.0, -angle_rad.cos() * length_mm);
        // In the walker's own axes: x forward, y left, z up, the pelvis at the origin.
        let mut p = [Vector3::zeros(); JOINTS];
        for (side, [hip, knee, foot], [shoulder, elbow, wrist]) in [(-1.0, [1, 2, 3], [14, 15, 16]), (1.0, [4, 5, 6], [11, 12, 13])] {
            let swing = self.stride_rad * (phase + side * std::f32::consts::FRAC_PI_2).sin();
            let flexed = self.crouch_rad + 0.3 * (1.0 - (phase + side).cos());
            p[hip] = Vector3::new(0.0, 130.0 * side, 0.0);
            p[knee] = p[hip] + bend(swing + 0.5 * flexed, 430.0);
            p[foot] = p[knee] + bend(swing - 0.5 * flexed, 420.0);
            p[shoulder] = Vector3::new(-10.0, 170.0 * side, 490.0);
            let raised = if side > 0.0 { self.wave_rad } else { 0.0 };
            p[elbow] = p[shoulder] + bend(raised - 0.7 * swing, 280.0);
            p[wrist] = p[elbow] + bend(raised - 0.7 * swing + 0.5 + 0.3 * phase.sin() * raised, 250.0);
        }
        p[7] = Vector3::new(-20.0, 0.0, 230.0);
        p[8] = Vector3::new(0.0, 0.0, 500.0);
        p[10] = Vector3::new(10.0, 0.0, 735.0);
        p[9] = (p[8] + p[10]) / 2.0 + Vector3::new(70.0, 0.0, 0.0);

        let lowest = p.iter().map(|joint| joint.z).fold(f32::INFINITY, f32::min);
        let way_rad = self.start_rad + self.sense * 0.8 * t_s;
        let heading = Rotation3::from_axis_angle(&Vector3::z_axis(), way_rad + self.sense * std::f32::consts::FRAC_PI_2);
        let place = Vector3::new(way_rad.cos(), way_rad.sin(), 0.0) * self.radius_mm;
        p.map(|joint| (place + heading * (joint - Vector3::z() * lowest) * self.size).into())
    }
}
