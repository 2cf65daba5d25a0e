//! The person's path through the room: where the lifted body must stand to be seen where it was seen, over all frames together.
//!
//! [`crate::world::place_clip`] gives each frame the root depth at which its bones have their length. Here that is only the beginning:
//! 1. **Least squares on the reprojection.** With bones of constant length, a frame's pose is a body in millimetres; its root is where
//!    the body's joints fall onto the 2D keypoints. All frames are solved together, with a prior that bodies accelerate only so much,
//!    as one banded system (three unknowns a frame, linear in time), robustly: joints that disagree count less.
//! 2. **The floor**, from the feet that stand ([`crate::contact`], [`crate::floor`]): one floor for everybody in front of the camera.
//! 3. **Feet that stand still.** The path is solved again with each standing foot drawn, weakly, to its place on the floor. What is left, a few
//!    centimetres, turns the leg.
//!
//! A person in the air touches nothing and is left alone.

use crate::{
    Error, JOINTS, Keypoints17, Pose3, ROOT,
    banded::BandedSystem,
    camera::{Extrinsics, Intrinsics},
    contact::{self, Contact, FEET, FootContact},
    filter::BoneProjection,
    floor::{self, ANKLE_TO_STATURE, CameraPlace, Standing},
    normalise::ImageTransform,
    world::{self, N_BONES, PlacedClip, Scale, ScaleSource, SeenBones},
};
use nalgebra::Vector3;

/// A lifted clip as it was seen; all slices have one entry for each frame.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Root-relative 2.5D in the normalised units of `transforms`.
    pub pose25: &'a [Pose3],
    /// What a normalised unit is.
    pub transforms: &'a [ImageTransform],
    /// The root's pixel, see [`world::root_path_px`].
    pub root_px: &'a [[f32; 2]],
    /// The 2D keypoints that were lifted.
    pub keypoints: &'a [Keypoints17],
    /// Rising.
    pub times_s: &'a [f64],
    /// The camera.
    pub intrinsics: &'a Intrinsics,
}

/// How to place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathOptions {
    /// Whether the result's bones keep their length. Otherwise each joint stays on the ray that the lifter saw it on.
    pub constant_bones: bool,
    /// Whether standing feet are held where they stand.
    pub contact: bool,
    /// What is known of the camera's place.
    pub camera: CameraPlace,
}

impl Default for PathOptions {
    fn default() -> Self {
        Self { constant_bones: false, contact: true, camera: CameraPlace::default() }
    }
}

/// One person's clip in space.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// Joints of each frame in camera space, millimetres.
    pub camera_mm: Vec<Pose3>,
    /// Depth of the root in each frame.
    pub root_depth_mm: Vec<f32>,
    /// Which feet (right, left) stand on the floor in each frame.
    pub contact: Vec<FootContact>,
    /// What the scale rests on.
    pub scale_source: ScaleSource,
    /// Bone lengths over the clip, in the order of [`crate::skeleton::BONES`].
    pub bone_lengths_mm: [f32; N_BONES],
    /// Stature that goes with them, metres.
    pub height_m: f32,
}

/// [`place_people`] for one person.
///
/// # Errors
/// As [`place_people`].
pub fn place_person(sight: &Sight<'_>, scale: &Scale, options: &PathOptions) -> Result<(Path, Extrinsics), Error> {
    let (mut paths, world) = place_people(&[(*sight, scale.clone())], options)?;
    // one person in, one out
    paths.pop().map(|path| (path, world)).ok_or(Error::NoFrames)
}

/// Places everybody in front of one camera, and the camera in the world (`world_from_camera`): one floor for all.
///
/// # Errors
/// What [`world::place_clip`] refuses, keypoints of another number than the frames, a camera's place that is none; [`Error::NoFrames`] without
/// anybody.
pub fn place_people(people: &[(Sight<'_>, Scale)], options: &PathOptions) -> Result<(Vec<Path>, Extrinsics), Error> {
    options.camera.validate()?;
    if people.is_empty() {
        return Err(Error::NoFrames);
    }
    let mut solvers = people.iter().map(|(sight, scale)| Solver::new(*sight, scale)).collect::<Result<Vec<_>, _>>()?;
    solvers.iter_mut().for_each(Solver::solve_by_size);
    let world = find_world(&mut solvers, &options.camera);
    let paths = solvers.into_iter().map(|solver| solver.finish(&world, options)).collect();
    Ok((paths, world))
}

/// The floor tells which feet stand, and they tell where the floor is.
fn find_world(solvers: &mut [Solver<'_>], known: &CameraPlace) -> Extrinsics {
    const ROUNDS: usize = 3;
    let bodies: Vec<Vec<Pose3>> = solvers.iter().map(Solver::poses).collect();
    let mut contacts: Vec<Vec<FootContact>> = vec![Vec::new(); solvers.len()];
    let mut world = Extrinsics::level(0.0);
    for _ in 0..ROUNDS {
        let standing = solvers.iter().zip(&bodies).zip(&contacts).map(|((solver, camera_mm), contact)| Standing {
            camera_mm,
            height_m: solver.placed.height_m,
            contact,
        });
        world = floor::extrinsics_from_people(&standing.collect::<Vec<_>>(), known);
        for ((solver, body), contact) in solvers.iter_mut().zip(&bodies).zip(&mut contacts) {
            solver.contacts = contact::find(body, solver.sight.times_s, &world, solver.ankle_mm());
            *contact = contact::by_frame(&solver.contacts, body.len());
        }
    }
    world
}

// Weights of the system, chosen on 22 views of real motion with a detector's noise, lifted by the shipped model. A frame counts by its duration,
// so that they hold at any frame rate.

/// Usual distance of a lifted joint from its keypoint, as a share of the stature. Most of it is the pose's fault, and the same for many frames.
const JOINT_TO_STATURE: f64 = 0.05;
/// Acceleration that costs as much, along the line of sight and across it, mm/s^2. Not that bodies would accelerate so much: it is how far the path
/// follows the keypoints (along the line of sight to about 1 Hz, across it to 4 Hz).
const ACCELERATION_MM_S2: [f64; 2] = [20_000.0, 60_000.0];
/// Distance of a standing ankle from its place that costs as much. A weak pull: it decides how far away somebody stands, and no more. Stronger ones put the
/// errors of the lifted leg into the path of the whole body (on 26 views, 60 mm made the path 155 mm too long or short on average, 1000 mm
/// 125 mm); what is left turns the leg.
const STANDING_MM: f64 = 1000.0;

/// One person while being placed.
struct Solver<'a> {
    sight: Sight<'a>,
    given_depth: bool,
    placed: PlacedClip,
    /// Root in camera space.
    path_mm: Vec<Vector3<f64>>,
    /// What the bodies are scaled by, so that the bones on the path are as long as they should be: a lifter's noise makes bones longer.
    body_scale: f32,
    contacts: Vec<Contact>,
}

impl<'a> Solver<'a> {
    fn new(sight: Sight<'a>, scale: &Scale) -> Result<Self, Error> {
        let Sight { pose25, transforms, root_px, keypoints, times_s, intrinsics } = sight;
        Error::check_length("keypoints", pose25.len(), keypoints.len())?;
        let placed = world::place_clip(pose25, transforms, root_px, times_s, intrinsics, scale)?;
        let path_mm = placed.camera_mm.iter().map(|pose| Vector3::from(pose[ROOT]).cast::<f64>()).collect();
        let given_depth = matches!(scale, Scale::RootDepth { .. });
        Ok(Self { sight, given_depth, placed, path_mm, body_scale: 1.0, contacts: Vec::new() })
    }

    fn ankle_mm(&self) -> f64 {
        ANKLE_TO_STATURE * 1000.0 * f64::from(self.placed.height_m)
    }

    /// The lifted poses with their root on the path.
    fn poses(&self) -> Vec<Pose3> {
        let Sight { pose25, transforms, root_px, intrinsics, .. } = self.sight;
        let place = |t: usize| {
            let pose = world::back_project_frame(&pose25[t], &transforms[t], root_px[t], intrinsics, self.path_mm[t].z as f32);
            moved_to(&pose, &self.path_mm[t])
        };
        (0..pose25.len()).map(place).collect()
    }

    /// The same with bones of constant length, `scale` times the true one.
    fn bodies(&self, scale: f32) -> Vec<Pose3> {
        let lengths = self.placed.bone_lengths_mm.map(|length| scale * length);
        match BoneProjection::new(&lengths) {
            Ok(mut projection) => self.poses().iter().map(|pose| projection.push(pose)).collect(),
            Err(_) => self.poses(), // lengths of a clip are finite: cannot be
        }
    }

    /// The path by the size of the body alone.
    fn solve_by_size(&mut self) {
        const ROUNDS: usize = 3;
        let Sight { pose25, transforms, root_px, intrinsics, .. } = self.sight;
        let at_depth_1 = |t: usize| world::back_project_frame(&pose25[t], &transforms[t], root_px[t], intrinsics, 1.0);
        let seen = SeenBones::new(&(0..pose25.len()).map(at_depth_1).collect::<Vec<_>>());
        let chain_mm = world::body_chain(&self.placed.bone_lengths_mm.map(f64::from));
        for _ in 0..ROUNDS {
            self.solve_path(&[]);
            let depths: Vec<Option<f64>> = self.path_mm.iter().map(|root| Some(root.z)).collect();
            let factor = chain_mm / world::body_chain(&seen.lengths(&depths));
            if factor.is_finite() && !self.given_depth {
                self.body_scale *= factor as f32;
                self.path_mm.iter_mut().for_each(|root| *root *= factor);
            }
        }
    }

    /// The path by least squares; standing feet are drawn to their anchors.
    fn solve_path(&mut self, anchors: &[(Contact, Vector3<f64>)]) {
        const ROUNDS: usize = 3;
        if self.given_depth {
            return;
        }
        for _ in 0..ROUNDS {
            let bodies = self.bodies(self.body_scale);
            let mut system = BandedSystem::new(3 * bodies.len());
            self.add_reprojection(&mut system, &bodies);
            self.add_inertia(&mut system);
            self.add_standing(&mut system, anchors);
            let Some(solution) = system.solve() else { return };
            for (root, found) in self.path_mm.iter_mut().zip(solution.chunks_exact(3)) {
                let nearest_mm = 0.2 * root.z;
                *root = Vector3::new(found[0], found[1], found[2].max(nearest_mm));
            }
        }
    }

    /// So long does a frame count.
    fn duration_s(&self, t: usize) -> f64 {
        const LONGEST_S: f64 = 0.1;
        let times_s = self.sight.times_s;
        let (first, last) = (t.saturating_sub(1), (t + 1).min(times_s.len() - 1));
        if last > first { ((times_s[last] - times_s[first]) / (last - first) as f64).min(LONGEST_S) } else { LONGEST_S }
    }

    /// Joints fall onto their keypoints: `X + T_x = u (Z + T_z)` for a keypoint whose ray is `u`, which is linear in the root T.
    fn add_reprojection(&self, system: &mut BandedSystem, bodies: &[Pose3]) {
        let Sight { keypoints, intrinsics, .. } = self.sight;
        let usual_mm = JOINT_TO_STATURE * 1000.0 * f64::from(self.placed.height_m);
        for (t, body) in bodies.iter().enumerate() {
            let root = Vector3::from(body[ROOT]).cast::<f64>();
            for (joint, keypoint) in body.iter().zip(&keypoints[t]).filter(|(_, keypoint)| !keypoint.is_missing()) {
                let ray = intrinsics.ray([keypoint.x_px, keypoint.y_px]).map(f64::from);
                let joint = Vector3::from(*joint).cast::<f64>();
                let relative = joint - root;
                let off_mm = (joint.x - ray[0] * joint.z).hypot(joint.y - ray[1] * joint.z);
                let trust = f64::from(keypoint.confidence) * cauchy_weight(off_mm / usual_mm);
                let weight = trust * self.duration_s(t) / usual_mm.powi(2) / JOINTS as f64;
                for k in 0..2 {
                    system.add_residual(&[(3 * t + k, 1.0), (3 * t + 2, -ray[k])], ray[k] * relative.z - relative[k], weight);
                }
            }
        }
    }

    /// Bodies accelerate only so much.
    fn add_inertia(&self, system: &mut BandedSystem) {
        let times_s = self.sight.times_s;
        for t in 1..times_s.len().saturating_sub(1) {
            let (before_s, after_s) = (times_s[t] - times_s[t - 1], times_s[t + 1] - times_s[t]);
            let middle_s = (before_s + after_s) / 2.0;
            let (a, c) = (1.0 / (before_s * middle_s), 1.0 / (after_s * middle_s));
            for k in 0..3 {
                let usual = ACCELERATION_MM_S2[usize::from(k < 2)];
                let row = [(3 * (t - 1) + k, a), (3 * t + k, -a - c), (3 * (t + 1) + k, c)];
                system.add_residual(&row, 0.0, middle_s / usual.powi(2));
            }
        }
    }

    /// Standing feet are on their anchors.
    fn add_standing(&self, system: &mut BandedSystem, anchors: &[(Contact, Vector3<f64>)]) {
        if anchors.is_empty() {
            return;
        }
        let poses = self.poses();
        for (contact, anchor) in anchors {
            for t in contact.frames.clone() {
                let ankle = Vector3::from(poses[t][FEET[contact.foot]]).cast::<f64>();
                let relative = ankle - self.path_mm[t];
                let weight = cauchy_weight((anchor - ankle).norm() / (5.0 * STANDING_MM)) * self.duration_s(t) / STANDING_MM.powi(2);
                for k in 0..3 {
                    system.add_residual(&[(3 * t + k, 1.0)], anchor[k] - relative[k], weight);
                }
            }
        }
    }

    fn finish(mut self, world: &Extrinsics, options: &PathOptions) -> Path {
        let mut anchors = Vec::new();
        if options.contact {
            const ROUNDS: usize = 2;
            for _ in 0..ROUNDS {
                let poses = self.poses();
                let anchor = |contact: &Contact| (contact.clone(), contact::anchor(contact, &poses, world, self.ankle_mm()));
                anchors = self.contacts.iter().map(anchor).collect();
                self.solve_path(&anchors);
            }
        }
        let mut camera_mm = if options.constant_bones { self.bodies(1.0) } else { self.poses() };
        if !self.given_depth {
            contact::lock_feet(&mut camera_mm, self.sight.times_s, &anchors);
        }
        Path {
            root_depth_mm: camera_mm.iter().map(|pose| pose[ROOT][2]).collect(),
            contact: contact::by_frame(&self.contacts, camera_mm.len()),
            camera_mm,
            scale_source: self.placed.scale_source,
            bone_lengths_mm: self.placed.bone_lengths_mm,
            height_m: self.placed.height_m,
        }
    }
}

/// A pose with its root elsewhere.
fn moved_to(pose: &Pose3, root: &Vector3<f64>) -> Pose3 {
    let by: [f32; 3] = std::array::from_fn(|k| (root[k] - f64::from(pose[ROOT][k])) as f32);
    pose.map(|p| std::array::from_fn(|k| p[k] + by[k]))
}

/// Weight of a residual (in its usual size) in a robust fit, by Cauchy's distribution.
fn cauchy_weight(residual: f64) -> f64 {
    1.0 / (1.0 + residual.powi(2))
}
