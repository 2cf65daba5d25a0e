//! Where the camera stands in the one world of everybody, found from all who were seen of late and followed without jumps.

use std::collections::{BTreeMap, VecDeque};

use pose::Pose3;
use pose::camera::Extrinsics;
use pose::floor::{CameraPlace, Standing, extrinsics_from_people};
use pose::live::{WORLD_MEMORY_S, WORLD_TIME_CONSTANT_S};
use runtime::StreamPose;

/// Poses are taken this far apart.
const STEP_S: f64 = 0.1;
/// Most poses that are looked at, of all people together.
const MOST_POSES: usize = 400;

/// The floor and the camera over it.
#[derive(Debug)]
pub struct Ground {
    known: CameraPlace,
    recent: VecDeque<Seen>,
    last_s: Option<f64>,
    /// How long it has been approached.
    followed_s: f64,
    world_from_camera: Extrinsics,
}

#[derive(Debug)]
struct Seen {
    time_s: f64,
    id: u64,
    height_m: f32,
    camera_mm: Pose3,
}

impl Ground {
    /// Nobody was seen yet.
    pub fn new(known: CameraPlace) -> Self {
        Self { known, recent: VecDeque::new(), last_s: None, followed_s: 0.0, world_from_camera: Extrinsics::level(0.0) }
    }

    /// As known by now.
    pub fn world_from_camera(&self) -> Extrinsics {
        self.world_from_camera
    }

    /// Takes poses of one or more people and follows what they say.
    pub fn see(&mut self, poses: &[(u64, StreamPose)]) {
        let Some(now_s) = poses.iter().map(|(_, pose)| pose.time_s).max_by(f64::total_cmp) else { return };
        let elapsed_s = self.last_s.map_or(STEP_S, |last_s| now_s - last_s);
        if elapsed_s < 0.99 * STEP_S {
            return;
        }
        for (id, pose) in poses.iter().filter(|(_, pose)| !pose.held) {
            self.recent.push_back(Seen { time_s: pose.time_s, id: *id, height_m: pose.height_m, camera_mm: pose.camera_mm });
        }
        while self.recent.front().is_some_and(|first| first.time_s < now_s - WORLD_MEMORY_S) || self.recent.len() > MOST_POSES {
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            return;
        }
        let is_first = self.last_s.replace(now_s).is_none();
        let mut people: BTreeMap<u64, (Vec<Pose3>, f32)> = BTreeMap::new();
        for seen in &self.recent {
            let (poses, height_m) = people.entry(seen.id).or_default();
            poses.push(seen.camera_mm);
            *height_m = seen.height_m;
        }
        let standing: Vec<Standing<'_>> =
            people.values().map(|(camera_mm, height_m)| Standing { camera_mm, height_m: *height_m, contact: &[] }).collect();
        let found = extrinsics_from_people(&standing, &self.known);
        // At first a mean of what was found, later a low-pass.
        let step_s = elapsed_s.clamp(0.0, STEP_S);
        self.followed_s = (self.followed_s + step_s).min(WORLD_TIME_CONSTANT_S);
        let share = if is_first { 1.0 } else { step_s / (step_s + self.followed_s) };
        self.world_from_camera = between(&self.world_from_camera, &found, share as f32);
    }
}

/// On the way from one place of the camera to another: its up turned, its height changed by this share of the way.
fn between(from: &Extrinsics, to: &Extrinsics, share: f32) -> Extrinsics {
    let mix = |a: f32, b: f32| a + share * (b - a);
    // The last row of the rotation is the world's up in the camera's axes.
    let up = unit(std::array::from_fn(|k| mix(from.rotation[2][k], to.rotation[2][k])));
    let up = if up.iter().all(|v| v.is_finite()) { up } else { to.rotation[2] };
    let forward = unit([-up[2] * up[0], -up[2] * up[1], 1.0 - up[2] * up[2]]);
    let right = cross(forward, up);
    Extrinsics {
        rotation: [right, forward, up],
        translation_mm: std::array::from_fn(|k| mix(from.translation_mm[k], to.translation_mm[k])),
    }
}

fn unit(v: [f32; 3]) -> [f32; 3] {
    let length = v.iter().map(|v| v * v).sum::<f32>().sqrt();
    v.map(|v| v / length)
}

fn cross(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A camera 1.5 m over the floor that looks down by so many degrees.
    fn looking_down(degrees: f32) -> Extrinsics {
        let target = [0.0, 1000.0 * degrees.to_radians().cos(), 1500.0 - 1000.0 * degrees.to_radians().sin()];
        Extrinsics::look_at([0.0, 0.0, 1500.0], target, 0.0).expect("a camera")
    }

    #[test]
    fn a_place_is_approached_by_a_rotation() {
        let (from, to) = (looking_down(0.0), Extrinsics { translation_mm: [0.0, 0.0, 1700.0], ..looking_down(20.0) });
        for (share, degrees, height_mm) in [(0.0, 0.0, 1500.0), (1.0, 20.0, 1700.0), (0.5, 10.0, 1600.0)] {
            let place = between(&from, &to, share);
            let expected = looking_down(degrees);
            for (found, expected) in place.rotation.iter().flatten().zip(expected.rotation.iter().flatten()) {
                assert!((found - expected).abs() < 1e-3, "{share}: {place:?} is not {expected:?}");
            }
            assert!((place.translation_mm[2] - height_mm).abs() < 0.1);
        }
    }
}
