//! Placement of a stream, frame by frame, looking at no later frame: what [`crate::world::place_clip`] and
//! [`crate::world::extrinsics_from_person`] do for a clip.
//!
//! # Where the root's depth comes from
//! As in [`crate::world`], a pose that is placed at root depth 1 shows its bones at the length `l_b = L_b / Z`, so bones and depths
//! follow from each other, up to one factor that the [`Scale`] decides. In a stream:
//! 1. the bones `L_b` start at the proportions of [`USUAL_BONES`], worth [`PRIOR_S`] seconds of watching, and are a running mean of
//!    `l_b Z` from there on, over at most [`MEMORY_S`]; one frame moves a bone by a tenth of its length at most. Left and
//!    right share one length, bones across the line of sight count most;
//! 2. `1 / Z` of a frame is the weighted median of `l_b / L_b`;
//! 3. `ln Z` goes through a critically damped alpha-beta filter ([`DEPTH_TIME_CONSTANT_S`]): it follows a person who comes nearer
//!    at a steady speed without lag, and takes jitter and single wrong frames out.
//!
//! # The world
//! [`crate::world::extrinsics_from_person`] over the poses of the last [`WORLD_MEMORY_S`], ten a second; what it finds is approached
//! with the time constant [`WORLD_TIME_CONSTANT_S`], so that the floor drifts and does not jump. It outlives the person: the camera
//! stays where it is when somebody else comes.

use crate::{
    Error, ImageSize, Pose3,
    camera::{DEFAULT_HORIZONTAL_FOV_DEG, Extrinsics, Intrinsics},
    normalise::ImageTransform,
    skeleton, smooth,
    world::{self, CHAIN_TO_STATURE, N_BONES, Scale, ScaleSource},
};
use nalgebra::Vector3;
use std::collections::VecDeque;

/// Length of each bone as a share of [`world::body_chain`]: means over the 24 training subjects of the motion data, left and right
/// alike, in the order of [`skeleton::BONES`]. Their spread from person to person is 3 to 12 %.
pub const USUAL_BONES: [f64; N_BONES] =
    [0.056, 0.250, 0.270, 0.056, 0.250, 0.270, 0.137, 0.173, 0.079, 0.092, 0.114, 0.182, 0.118, 0.114, 0.182, 0.118];
/// So many seconds of a person weigh as much as the usual proportions do.
pub const PRIOR_S: f64 = 1.0;
/// Bones are a mean over so many seconds at most: should another person have come unnoticed, the old one fades.
pub const MEMORY_S: f64 = 20.0;
/// Time constant of the depth's filter. On 11 clips of real motion with the noise of `tests/placement.rs` (1.5 px, in depth 15 px, new in each
/// frame) 0.15 s leaves the root's depth off by 0.8 to 2.7 % in the median and 0.25 s by 0.8 to 3.4 % (a runner lags), and jitters
/// less.
pub const DEPTH_TIME_CONSTANT_S: f64 = 0.2;
/// The poses that the world is found from.
pub const WORLD_MEMORY_S: f64 = 10.0;
/// How fast the world's up and floor go where the poses say.
pub const WORLD_TIME_CONSTANT_S: f64 = 2.0;

/// Poses are taken for the world at this spacing.
const WORLD_STEP_S: f64 = 0.1;
/// Most poses that the world is found from.
const WORLD_POSES: usize = (WORLD_MEMORY_S / WORLD_STEP_S) as usize;
/// A frame counts for no longer than this, whatever the pause before it.
const LONGEST_STEP_S: f64 = 0.1;
/// A frame moves a bone by this share of its length at most, and the depth by this share.
const MOST_CHANGE: f64 = 0.1;
/// Where a person stands of whom nothing is known, not even a size in the picture.
const FIRST_DEPTH_MM: f64 = 4000.0;
/// Beyond this pause nothing is known of how the depth changes.
const DEPTH_RESET_S: f64 = 1.0;

/// One frame of a stream, placed.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedFrame {
    /// Joints in camera space, millimetres: x right, y down, z away.
    pub camera_mm: Pose3,
    /// Depth of the root.
    pub root_depth_mm: f32,
    /// Bone lengths as known by now, in the order of [`skeleton::BONES`]; left and right are one.
    pub bone_lengths_mm: [f32; N_BONES],
    /// Stature that goes with them, metres.
    pub height_m: f32,
}

/// Places the poses of one stream in camera space; [`WorldFollower`] takes them from there into the world.
#[derive(Clone, Debug)]
pub struct CausalPlacer {
    intrinsics: Intrinsics,
    scale: Scale,
    person: Option<Person>,
}

/// What is known of the person in front of the camera.
#[derive(Clone, Debug)]
struct Person {
    /// Lengths of the bones at the scale that was given, millimetres.
    bones_mm: [f64; N_BONES],
    /// How long each bone has been watched, seconds.
    watched_s: [f64; N_BONES],
    depth: Depth,
}

/// The filter of the logarithm of the root's depth.
#[derive(Clone, Copy, Debug)]
struct Depth {
    time_s: f64,
    log: f64,
    /// Change of the logarithm per second.
    rate: f64,
}

impl CausalPlacer {
    /// A placer for one camera and one scale. `intrinsics` `None` = 60 degrees horizontally.
    ///
    /// # Errors
    /// A camera or scale outside its range; [`Scale::RootDepth`] with another number of depths than one.
    pub fn new(image: ImageSize, intrinsics: Option<Intrinsics>, scale: Scale) -> Result<Self, Error> {
        let intrinsics = match intrinsics {
            Some(intrinsics) => intrinsics,
            None => Intrinsics::from_horizontal_fov_deg(image, DEFAULT_HORIZONTAL_FOV_DEG)?,
        };
        intrinsics.validate()?;
        match &scale {
            Scale::RootDepth { depth_mm } if !matches!(depth_mm[..], [depth] if depth.is_finite() && depth > 0.0) => {
                return Err(Error::out_of_range("root depth of a stream", "one depth in millimetres, above 0", format!("{depth_mm:?}")));
            }
            Scale::RootDepth { .. } => {}
            _ => drop(world::millimetres_per_unit(&scale, &USUAL_BONES)?),
        }
        Ok(Self { intrinsics, scale, person: None })
    }

    /// The camera that was given or assumed.
    pub fn intrinsics(&self) -> &Intrinsics {
        &self.intrinsics
    }

    /// What the millimetres rest on.
    pub fn scale_source(&self) -> ScaleSource {
        self.scale.source()
    }

    /// Places the next frame: 2.5D in the normalised units of `transform`, the root's pixel, and the time, which must rise.
    ///
    /// # Errors
    /// [`Error::BadPose`] for a pose that is not finite, [`Error::OutOfRange`] for a box or pixel that is not.
    pub fn push(&mut self, time_s: f64, pose25: &Pose3, transform: &ImageTransform, root_px: [f32; 2]) -> Result<PlacedFrame, Error> {
        world::check_poses(&[*pose25])?;
        world::check_transforms(&[*transform], &[root_px])?;
        let place = |depth_mm: f32| world::back_project_frame(pose25, transform, root_px, &self.intrinsics, depth_mm);
        let at_depth_1 = place(1.0);
        let measured = skeleton::bone_lengths(&at_depth_1).map(f64::from);
        let across = world::share_across(&at_depth_1);

        let mut person = match self.person.take() {
            Some(person) => person,
            None => Person::new(&self.scale)?,
        };
        let seen_mm = person.depth_of_frame_mm(&measured, &across);
        let step_s = person.depth.advance(time_s, seen_mm);
        let root_depth_mm = match &self.scale {
            Scale::RootDepth { depth_mm } => depth_mm.first().copied().unwrap_or_default(), // `new` saw to it that there is one
            _ => person.depth.log.exp() as f32,
        };
        person.watch(&measured, &across, f64::from(root_depth_mm), step_s, &self.scale);
        let bone_lengths_mm = person.bones_mm.map(|length| length as f32);
        let height_m = (world::body_chain(&person.bones_mm) / CHAIN_TO_STATURE / 1000.0) as f32;
        self.person = Some(person);
        Ok(PlacedFrame { camera_mm: place(root_depth_mm), root_depth_mm, bone_lengths_mm, height_m })
    }

    /// Forgets the person: somebody else may follow.
    pub fn reset(&mut self) {
        self.person = None;
    }
}

impl Person {
    /// Somebody of the usual proportions.
    fn new(scale: &Scale) -> Result<Self, Error> {
        let factor_mm = match scale {
            Scale::RootDepth { .. } => 1000.0 * CHAIN_TO_STATURE * f64::from(world::DEFAULT_HEIGHT_M), // a first guess only
            _ => world::millimetres_per_unit(scale, &USUAL_BONES)?,
        };
        let mut bones_mm = USUAL_BONES.map(|length| length * factor_mm);
        if let Scale::BoneLengths { lengths_mm } = scale {
            given_lengths(&mut bones_mm, lengths_mm);
        }
        Ok(Self {
            bones_mm,
            watched_s: [PRIOR_S; N_BONES],
            depth: Depth { time_s: f64::NEG_INFINITY, log: FIRST_DEPTH_MM.ln(), rate: 0.0 },
        })
    }

    /// Root depth that this frame alone speaks for; `None` where all joints lie on one point.
    fn depth_of_frame_mm(&self, measured: &[f64; N_BONES], across: &[f64; N_BONES]) -> Option<f64> {
        let vote = |b: usize| (measured[b] / self.bones_mm[b], self.bones_mm[b] * across[b]);
        let mut votes: Vec<(f64, f64)> = (0..N_BONES).filter(|&b| self.bones_mm[b] > 0.0).map(vote).collect();
        let inverse = smooth::weighted_median(&mut votes);
        (inverse > 0.0 && inverse.is_finite()).then(|| 1.0 / inverse)
    }

    /// Takes this frame's bones into the mean, at the depth that was decided.
    fn watch(&mut self, measured: &[f64; N_BONES], across: &[f64; N_BONES], depth_mm: f64, step_s: f64, scale: &Scale) {
        let mut bones_mm = self.bones_mm;
        for b in 0..N_BONES {
            // both sides of the body vote for their one length
            let (twin, mut change_mm, mut weight_s) = (world::twin_bone(b), 0.0, 0.0);
            for side in [b, twin] {
                let most_mm = MOST_CHANGE * self.bones_mm[b];
                let side_s = step_s * across[side].min(1.0) / 2.0;
                change_mm += side_s * (measured[side] * depth_mm - self.bones_mm[b]).clamp(-most_mm, most_mm);
                weight_s += side_s;
            }
            self.watched_s[b] = (self.watched_s[b] + weight_s).min(MEMORY_S);
            bones_mm[b] += change_mm / self.watched_s[b];
        }
        let factor = match scale {
            Scale::RootDepth { .. } => 1.0, // the depth makes the size
            _ => world::millimetres_per_unit(scale, &bones_mm).unwrap_or(1.0),
        };
        self.bones_mm = bones_mm.map(|length| length * factor);
        if let Scale::BoneLengths { lengths_mm } = scale {
            given_lengths(&mut self.bones_mm, lengths_mm);
        }
    }
}

/// Bones whose length was given have it.
fn given_lengths(bones_mm: &mut [f64; N_BONES], lengths_mm: &[f32; N_BONES]) {
    for (bone_mm, &given_mm) in bones_mm.iter_mut().zip(lengths_mm) {
        if given_mm > 0.0 {
            *bone_mm = f64::from(given_mm);
        }
    }
}

impl Depth {
    /// The depth at `time_s`, seen or (`None`) not; returns how long the frame counts.
    ///
    /// Critically damped alpha-beta filter: with the discount `d = exp(-step / time constant)`, `alpha = 1 - d^2` and
    /// `beta = (1 - d)^2` (Brookner, "Tracking and Kalman Filtering Made Easy", 1998, section 1.2.6).
    fn advance(&mut self, time_s: f64, seen_mm: Option<f64>) -> f64 {
        let step_s = time_s - self.time_s;
        self.time_s = time_s;
        let seen = seen_mm.map(f64::ln);
        if !(step_s > 0.0 && step_s <= DEPTH_RESET_S) {
            (self.log, self.rate) = (seen.unwrap_or(self.log), 0.0);
            return LONGEST_STEP_S;
        }
        let discount = (-step_s / DEPTH_TIME_CONSTANT_S).exp();
        let expected = self.log + self.rate * step_s;
        let surprise = seen.map_or(0.0, |seen| (seen - expected).clamp(-MOST_CHANGE, MOST_CHANGE));
        self.log = expected + (1.0 - discount * discount) * surprise;
        self.rate = match seen {
            Some(_) => self.rate + (1.0 - discount).powi(2) * surprise / step_s,
            None => self.rate * discount, // unseen, it comes to rest
        };
        step_s.min(LONGEST_STEP_S)
    }
}

/// Where the camera stands in the world, found from the person and followed without jumps; see the module's text.
#[derive(Clone, Debug, Default)]
pub struct WorldFollower {
    /// Poses in camera space, at least [`WORLD_STEP_S`] apart.
    recent: VecDeque<Pose3>,
    last_taken_s: Option<f64>,
    /// Up in camera space and the camera's height over the floor, and for how long it has been approached.
    world: Option<(Vector3<f64>, f64)>,
    followed_s: f64,
}

impl WorldFollower {
    /// `world_from_camera` once this pose has been seen.
    pub fn push(&mut self, time_s: f64, camera_mm: &Pose3, height_m: f32) -> Extrinsics {
        let elapsed_s = self.last_taken_s.map_or(f64::INFINITY, |last_s| time_s - last_s);
        if !(0.0..WORLD_STEP_S * 0.99).contains(&elapsed_s) {
            self.last_taken_s = Some(time_s);
            if self.recent.len() == WORLD_POSES {
                self.recent.pop_front();
            }
            self.recent.push_back(*camera_mm);
            let found = world::extrinsics_from_person(self.recent.make_contiguous(), height_m);
            self.approach(&found, elapsed_s);
        }
        self.extrinsics()
    }

    fn approach(&mut self, found: &Extrinsics, elapsed_s: f64) {
        let up = Vector3::from(found.rotation[2]).cast::<f64>();
        let camera_height_mm = f64::from(found.translation_mm[2]);
        let Some((current, current_height_mm)) = self.world else {
            self.world = Some((up, camera_height_mm));
            return;
        };
        // at first a mean of what was found, later a low-pass
        let step_s = if elapsed_s.is_finite() { elapsed_s.clamp(0.0, LONGEST_STEP_S) } else { LONGEST_STEP_S };
        self.followed_s = (self.followed_s + step_s).min(WORLD_TIME_CONSTANT_S);
        let share = step_s / (step_s + self.followed_s);
        let turned = (current + share * (up - current)).try_normalize(1e-6).unwrap_or(current);
        self.world = Some((turned, current_height_mm + share * (camera_height_mm - current_height_mm)));
    }

    fn extrinsics(&self) -> Extrinsics {
        match self.world {
            Some((up, camera_height_mm)) => Extrinsics::from_parts(crate::floor::axes_around(up), Vector3::new(0.0, 0.0, camera_height_mm)),
            None => Extrinsics::level(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_proportions_are_a_body() {
        assert!((world::body_chain(&USUAL_BONES) - 1.0).abs() < 0.005);
        assert!((0..N_BONES).all(|b| USUAL_BONES[b] == USUAL_BONES[world::twin_bone(b)]));
    }

    #[test]
    fn a_steady_approach_is_followed_without_lag() {
        let mut depth = Depth { time_s: f64::NEG_INFINITY, log: 0.0, rate: 0.0 };
        let path = |t: f64| 8.5 - 0.3 * t;
        let mut error = f64::NAN;
        for t in (0..90).map(|i| f64::from(i) / 30.0) {
            depth.advance(t, Some(path(t).exp()));
            error = (depth.log - path(t)).abs();
        }
        assert!(error < 1e-4, "{error}");
        // one wrong frame moves it by a tenth of a tenth, and a frame without bones not at all
        let before = depth.log;
        depth.advance(3.0, Some((path(3.0) + 2.0).exp()));
        assert!((depth.log - path(3.0)).abs() < 0.5 * MOST_CHANGE, "{} {before}", depth.log);
        depth.advance(3.01, None);
        assert!(depth.log.is_finite());
        // after a pause it starts anew
        depth.advance(9.0, Some(7f64.exp()));
        assert!((depth.log - 7.0).abs() < 1e-12);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let image = ImageSize { width_px: 1280, height_px: 720 };
        let new = |scale| CausalPlacer::new(image, None, scale);
        assert!(new(Scale::DefaultHeight).is_ok());
        assert!(new(Scale::RootDepth { depth_mm: vec![3000.0] }).is_ok());
        for bad in [
            Scale::Height { height_m: 170.0 },
            Scale::RootDepth { depth_mm: vec![] },
            Scale::RootDepth { depth_mm: vec![3000.0; 2] },
            Scale::RootDepth { depth_mm: vec![f32::NAN] },
            Scale::BoneLengths { lengths_mm: [0.0; N_BONES] },
        ] {
            assert!(new(bad.clone()).is_err(), "{bad:?}");
        }
        assert!(CausalPlacer::new(ImageSize { width_px: 0, height_px: 1 }, None, Scale::DefaultHeight).is_err());
        let mut placer = new(Scale::DefaultHeight).unwrap();
        let frame = ImageTransform::frame(image);
        assert!(placer.push(0.0, &[[f32::NAN; 3]; crate::JOINTS], &frame, [0.0; 2]).is_err());
        assert!(placer.push(0.0, &[[0.0; 3]; crate::JOINTS], &frame, [f32::INFINITY; 2]).is_err());
        // all joints on one point: no size, and still a pose in front of the camera
        let placed = placer.push(0.0, &[[0.0; 3]; crate::JOINTS], &frame, [640.0, 360.0]).unwrap();
        assert!(placed.camera_mm.iter().flatten().all(|v| v.is_finite()) && placed.root_depth_mm > 0.0, "{placed:?}");
    }
}
