//! From 2.5D to millimetres in camera space, and from there to a world that stands on its floor.
//!
//! # What 2.5D says
//! Let `t` be the [`ImageTransform`] of a frame, `f` the mean focal length, and `Z` the root's depth. A joint of 2.5D
//! `(x, y, z)`, root-relative in normalised image units, is seen at the pixel
//!
//! `(u, v) = root_px + half_size_px (x, y)`
//!
//! and, as z is the depth relative to the root times px-per-mm at the root's depth (`f / Z`), lies at the depth
//!
//! `Z_j = Z + z half_size_px Z / f = Z (1 + z half_size_px / f)`.
//!
//! Back-projection along the pixel's ray gives `(X, Y) = ray(u, v) Z_j`. Every coordinate is proportional to Z: **2.5D and
//! a camera fix the pose in space up to one number a frame, the root's depth**. No weak perspective is assumed anywhere.
//!
//! # Where the root's depth comes from
//! Bones do not change their length. Place every frame at root depth 1 and measure its bones, `l_b(t)`. With true lengths
//! `L_b`, `l_b(t) = L_b / Z(t)`, so bones and depths follow from each other, up to one factor for the clip:
//! 1. alternate weighted medians: `1 / Z(t)` = median over the bones of `l_b(t) / L_b`, and `L_b` = median over the frames of
//!    `l_b(t) Z(t)`. Bones across the line of sight weigh most: their length is seen, not guessed. Left and right bones
//!    share one length;
//! 2. smooth `ln Z` over time ([`crate::smooth::lowess`], bandwidth [`DEPTH_BANDWIDTH_S`]), so that the person does not jump;
//! 3. the factor of the clip from the [`Scale`]: a stature (the body's chain of bones is [`CHAIN_TO_STATURE`] of it) or
//!    given bone lengths. A root depth that is given is taken as it is, and steps 1 to 3 are left out.
//!
//! [`crate::trajectory`] goes on from here: it solves all frames together and lets standing feet stand.
//!
//! On real motion with a lifter's noise (1.5 px, in depth 15 px) and the true size, the root's depth is off by 1 to 2 % in
//! the median and at most 5 % in the 95th percentile of a clip (`tests/placement.rs`). A wrong stature scales everything alike.
//!
//! ```
//! use pose::{ImageSize, camera::Intrinsics, normalise::ImageTransform, world};
//!
//! let image = ImageSize { width_px: 1000, height_px: 1000 };
//! let (camera, frame) = (Intrinsics::from_horizontal_fov_deg(image, 60.0)?, ImageTransform::frame(image));
//! let mut person_mm = [[0.0, 0.0, 4000.0]; pose::JOINTS];
//! person_mm[10] = [100.0, -700.0, 3900.0]; // the head: up, and towards the camera
//! let (pose25, root_px) = world::project_frame(&person_mm, &frame, &camera).unwrap();
//! let back_mm = world::back_project_frame(&pose25, &frame, root_px, &camera, 4000.0);
//! assert!((back_mm[10][1] + 700.0).abs() < 0.01);
//! # Ok::<(), pose::Error>(())
//! ```

use crate::{
    Error, JOINTS, Keypoints17, Pose3, ROOT,
    camera::Intrinsics,
    keypoints::{MAX_COORDINATE_PX, check_times},
    normalise::ImageTransform,
    skeleton::{self, BONES},
    smooth,
};
use nalgebra::Vector3;
use serde::{Deserialize, Serialize};
use std::fmt;

pub use crate::floor::extrinsics_from_person;

/// Stature that is assumed when none is known.
pub const DEFAULT_HEIGHT_M: f32 = 1.70;
/// Statures that are believed.
const HEIGHT_RANGE_M: std::ops::RangeInclusive<f32> = 0.3..=3.0;

/// Length of [`body_chain`] (shank, thigh, pelvis to thorax, thorax to head) as a share of the stature, within 3 %.
///
/// Two ways lead there. Thigh and shank are 0.491 of the stature (Drillis and Contini 1966): by it, the chains of the 24
/// training subjects of the motion data average 0.935. Those chains are also 0.99 of the height of the Head joint of the
/// standing subject, which lies 4 % of the stature under the crown: 0.95.
pub const CHAIN_TO_STATURE: f64 = 0.94;

/// Bandwidth of the smoothing of depth over time.
pub const DEPTH_BANDWIDTH_S: f64 = 0.25;

/// No joint is placed nearer than this share of the root's depth, whatever a network says.
const MIN_RELATIVE_DEPTH: f32 = 0.05;

/// Number of bones.
pub(crate) const N_BONES: usize = BONES.len();

/// What the size of a person is known from.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Scale {
    /// [`DEFAULT_HEIGHT_M`]: nothing is known.
    #[default]
    DefaultHeight,
    /// The person's stature.
    Height {
        /// Metres, barefoot.
        height_m: f32,
    },
    /// Lengths of some or all bones, in the order of [`skeleton::BONES`].
    BoneLengths {
        /// Millimetres; 0 = unknown.
        lengths_mm: [f32; N_BONES],
    },
    /// The root's depth (z, not distance) in each frame, or one for all frames.
    RootDepth {
        /// Millimetres.
        depth_mm: Vec<f32>,
    },
}

impl Scale {
    /// Refuses a stature that nobody has: to be asked before slow work is done for it.
    ///
    /// # Errors
    /// [`Error`] outside 0.3 to 3 m.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Height { height_m } if !HEIGHT_RANGE_M.contains(height_m) => {
                Err(Error::out_of_range("height of the person", "0.3 to 3 metres", *height_m))
            }
            _ => Ok(()),
        }
    }

    /// The word for results.
    pub const fn source(&self) -> ScaleSource {
        match self {
            Self::DefaultHeight => ScaleSource::DefaultHeight,
            Self::Height { .. } => ScaleSource::Height,
            Self::BoneLengths { .. } => ScaleSource::BoneLengths,
            Self::RootDepth { .. } => ScaleSource::RootDepth,
        }
    }
}

/// What a result's millimetres rest on: written beside it as `scale_source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleSource {
    /// Nothing was known: a person of [`DEFAULT_HEIGHT_M`].
    DefaultHeight,
    /// A stature that was given.
    Height,
    /// Bone lengths that were given.
    BoneLengths,
    /// Root depths that were given.
    RootDepth,
}

impl ScaleSource {
    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DefaultHeight => "default_height",
            Self::Height => "height",
            Self::BoneLengths => "bone_lengths",
            Self::RootDepth => "root_depth",
        }
    }
}

impl fmt::Display for ScaleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A clip in camera space.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedClip {
    /// Joints of each frame, millimetres: x right, y down, z away.
    pub camera_mm: Vec<Pose3>,
    /// Depth of the root in each frame.
    pub root_depth_mm: Vec<f32>,
    /// What the scale rests on.
    pub scale_source: ScaleSource,
    /// Bone lengths over the clip at that scale, in the order of [`skeleton::BONES`]; left and right are one.
    pub bone_lengths_mm: [f32; N_BONES],
    /// Stature that goes with the bone lengths, metres.
    pub height_m: f32,
}

/// 2.5D of a clip to camera space.
///
/// All slices have one entry for each frame: `pose25` in the normalised units of `transforms`, `root_px` the root's pixel
/// ([`root_path_px`] finds it), `times_s` rising.
///
/// # Errors
/// Slices of different lengths, no frames, times that do not rise, a camera or scale outside its range, a pose that is not
/// finite, a scale from the body's size where it has none ([`Error::NoSize`]).
pub fn place_clip(
    pose25: &[Pose3],
    transforms: &[ImageTransform],
    root_px: &[[f32; 2]],
    times_s: &[f64],
    intrinsics: &Intrinsics,
    scale: &Scale,
) -> Result<PlacedClip, Error> {
    if pose25.is_empty() {
        return Err(Error::NoFrames);
    }
    Error::check_length("image transforms", pose25.len(), transforms.len())?;
    Error::check_length("root pixels", pose25.len(), root_px.len())?;
    Error::check_length("times", pose25.len(), times_s.len())?;
    check_times(times_s)?;
    intrinsics.validate()?;
    check_poses(pose25)?;
    check_transforms(transforms, root_px)?;

    let place = |t: usize, depth_mm: f32| back_project_frame(&pose25[t], &transforms[t], root_px[t], intrinsics, depth_mm);
    let at_depth_1: Vec<Pose3> = (0..pose25.len()).map(|t| place(t, 1.0)).collect();
    let (bones, depths) = bones_and_depths(&at_depth_1);
    let (root_depth_mm, factor_mm) = match scale {
        Scale::RootDepth { depth_mm } => {
            let given = given_depths(depth_mm, pose25.len())?;
            // the bones' size follows from the depths
            let ratio = |(&mm, depth): (&f32, &Option<f64>)| depth.map(|depth| f64::from(mm) / depth);
            let mut ratios: Vec<f64> = given.iter().zip(&depths).filter_map(ratio).collect();
            (given, if ratios.is_empty() { 0.0 } else { smooth::median(&mut ratios) })
        }
        _ => {
            let factor_mm = millimetres_per_unit(scale, &bones)?;
            (smooth_depths(&depths, times_s).iter().map(|depth| (depth * factor_mm) as f32).collect(), factor_mm)
        }
    };
    let camera_mm = (0..pose25.len()).map(|t| place(t, root_depth_mm[t])).collect();
    Ok(PlacedClip {
        camera_mm,
        root_depth_mm,
        scale_source: scale.source(),
        bone_lengths_mm: bones.map(|length| (length * factor_mm) as f32),
        height_m: (body_chain(&bones) * factor_mm / CHAIN_TO_STATURE / 1000.0) as f32,
    })
}

/// 2.5D of one frame to camera space, with the root at `root_depth_mm`: each joint back-projected along its own ray.
pub fn back_project_frame(
    pose25: &Pose3,
    transform: &ImageTransform,
    root_px: [f32; 2],
    intrinsics: &Intrinsics,
    root_depth_mm: f32,
) -> Pose3 {
    let half_size_px = transform.half_size_px;
    pose25.map(|[x, y, z]| {
        let pixel = [root_px[0] + x * half_size_px, root_px[1] + y * half_size_px];
        let relative_depth = (1.0 + z * half_size_px / intrinsics.mean_focal_px()).max(MIN_RELATIVE_DEPTH);
        intrinsics.back_project(pixel, root_depth_mm * relative_depth)
    })
}

/// Camera space to 2.5D and the root's pixel: the inverse of [`back_project_frame`], and the definition of a training label.
/// `None` when a joint is not in front of the camera.
pub fn project_frame(camera_mm: &Pose3, transform: &ImageTransform, intrinsics: &Intrinsics) -> Option<(Pose3, [f32; 2])> {
    let root_px = intrinsics.project(camera_mm[ROOT])?;
    let root_depth_mm = camera_mm[ROOT][2];
    let unit_per_mm = intrinsics.mean_focal_px() / root_depth_mm / transform.half_size_px;
    let mut pose25 = [[0.0; 3]; JOINTS];
    for (joint, out) in camera_mm.iter().zip(&mut pose25) {
        let pixel = intrinsics.project(*joint)?;
        *out = [
            (pixel[0] - root_px[0]) / transform.half_size_px,
            (pixel[1] - root_px[1]) / transform.half_size_px,
            (joint[2] - root_depth_mm) * unit_per_mm,
        ];
    }
    Some((pose25, root_px))
}

/// The root's pixel in each frame: where the lifted pose, laid over the detected keypoints, fits best.
///
/// All joints vote, by their confidence, so it is steadier than the detected pelvis and stands where that is missing: it is
/// the Huber mean of `keypoint - half_size_px (x, y)`. Frames without keypoints are interpolated in time.
///
/// # Errors
/// Slices of different lengths, no frames, times that do not rise, [`Error::NoConfidentKeypoint`].
pub fn root_path_px(
    pose25: &[Pose3],
    transforms: &[ImageTransform],
    keypoints: &[Keypoints17],
    times_s: &[f64],
) -> Result<Vec<[f32; 2]>, Error> {
    if pose25.is_empty() {
        return Err(Error::NoFrames);
    }
    Error::check_length("image transforms", pose25.len(), transforms.len())?;
    Error::check_length("keypoints", pose25.len(), keypoints.len())?;
    Error::check_length("times", pose25.len(), times_s.len())?;
    check_poses(pose25)?;
    check_transforms(transforms, &[])?;
    let (mut known_px, mut known_s) = (Vec::new(), Vec::new());
    for t in 0..pose25.len() {
        if let Some(root_px) = root_of_frame_px(&pose25[t], &transforms[t], &keypoints[t]) {
            known_px.push(root_px);
            known_s.push(times_s[t]);
        }
    }
    if known_px.is_empty() {
        return Err(Error::NoConfidentKeypoint { frames: pose25.len() });
    }
    crate::resample::path(&known_px, &known_s, times_s)
}

/// Length of the body along its chain of bones, from bone lengths in any unit: shank + thigh (mean of both legs) + pelvis to
/// spine to thorax + thorax to nose to the top of the head.
pub fn body_chain(bone_lengths: &[f64; N_BONES]) -> f64 {
    let [_, r_thigh, r_shank, _, l_thigh, l_shank, lower_back, upper_back, neck, head, ..] = *bone_lengths;
    (r_thigh + r_shank + l_thigh + l_shank) / 2.0 + lower_back + upper_back + neck + head
}

pub(crate) fn check_poses(poses: &[Pose3]) -> Result<(), Error> {
    let sensible = |v: &f32| v.abs() <= MAX_COORDINATE_PX; // NaN is not
    for (frame, pose) in poses.iter().enumerate() {
        if let Some(joint) = pose.iter().position(|p| !p.iter().all(sensible)) {
            return Err(Error::BadPose { frame, joint, values: pose[joint] });
        }
    }
    Ok(())
}

pub(crate) fn check_transforms(transforms: &[ImageTransform], root_px: &[[f32; 2]]) -> Result<(), Error> {
    let sensible = |v: &f32| v.abs() <= 10.0 * MAX_COORDINATE_PX;
    if let Some(bad) = transforms.iter().find(|t| !(t.half_size_px > 0.0 && sensible(&t.half_size_px))) {
        return Err(Error::out_of_range("half size of an image transform", "pixels above 0", bad.half_size_px));
    }
    if let Some(bad) = root_px.iter().find(|p| !p.iter().all(sensible)) {
        return Err(Error::out_of_range("pixel of the root", "finite pixels in or near the picture", format!("{bad:?}")));
    }
    Ok(())
}

fn given_depths(depth_mm: &[f32], frames: usize) -> Result<Vec<f32>, Error> {
    if let Some(bad) = depth_mm.iter().find(|d| !(d.is_finite() && **d > 0.0)) {
        return Err(Error::out_of_range("root depth", "millimetres above 0", bad));
    }
    match depth_mm {
        [one] => Ok(vec![*one; frames]),
        _ => Error::check_length("root depths", frames, depth_mm.len()).map(|()| depth_mm.to_vec()),
    }
}

/// Millimetres that one unit of the clip's bone lengths stands for.
pub(crate) fn millimetres_per_unit(scale: &Scale, bones: &[f64; N_BONES]) -> Result<f64, Error> {
    let (known_mm, known_units) = match scale {
        Scale::BoneLengths { lengths_mm } => {
            if lengths_mm.iter().any(|l| !l.is_finite() || *l < 0.0) || lengths_mm.iter().all(|l| *l == 0.0) {
                let expected = "lengths in millimetres, 0 for an unknown one, and one at least above 0";
                return Err(Error::out_of_range("bone lengths", expected, format!("{lengths_mm:?}")));
            }
            let known = |b: &usize| lengths_mm[*b] > 0.0;
            let mm: f64 = lengths_mm.iter().map(|l| f64::from(*l)).sum();
            (mm, (0..N_BONES).filter(known).map(|b| bones[b]).sum::<f64>())
        }
        _ => {
            scale.validate()?;
            let height_m = if let Scale::Height { height_m } = scale { *height_m } else { DEFAULT_HEIGHT_M };
            (1000.0 * CHAIN_TO_STATURE * f64::from(height_m), body_chain(bones))
        }
    };
    if known_units > 0.0 && known_units.is_finite() { Ok(known_mm / known_units) } else { Err(Error::NoSize) }
}

/// Clip-wide bone lengths and root depths in one common unit, from poses at root depth 1; see the module's text. A frame
/// whose joints all lie on one point has no depth.
fn bones_and_depths(at_depth_1: &[Pose3]) -> ([f64; N_BONES], Vec<Option<f64>>) {
    const ROUNDS: usize = 5;
    let seen = SeenBones::new(at_depth_1);
    // the unit: the sum of all bones is 1
    let total = |lengths: &[f64; N_BONES]| lengths.iter().sum::<f64>();
    let inverse = |v: f64| (v > 0.0 && v.is_finite()).then(|| 1.0 / v);
    let mut depths: Vec<Option<f64>> = seen.measured.iter().map(|lengths| inverse(total(lengths))).collect();
    let mut bones = [0.0; N_BONES];
    for _ in 0..ROUNDS {
        bones = seen.lengths(&depths);
        let unit = inverse(total(&bones)).unwrap_or(0.0);
        bones = bones.map(|length| length * unit);
        for (t, depth) in depths.iter_mut().enumerate() {
            let vote = |b: usize| (seen.measured[t][b] / bones[b], bones[b] * seen.across[t][b]);
            let mut votes: Vec<(f64, f64)> = (0..N_BONES).filter(|&b| bones[b] > 0.0).map(vote).collect();
            *depth = inverse(smooth::weighted_median(&mut votes));
        }
    }
    (bones, depths)
}

/// The bones of each frame, placed at root depth 1.
pub(crate) struct SeenBones {
    /// Lengths.
    measured: Vec<[f64; N_BONES]>,
    /// See [`share_across`].
    across: Vec<[f64; N_BONES]>,
}

impl SeenBones {
    pub(crate) fn new(at_depth_1: &[Pose3]) -> Self {
        Self {
            measured: at_depth_1.iter().map(|p| skeleton::bone_lengths(p).map(f64::from)).collect(),
            across: at_depth_1.iter().map(share_across).collect(),
        }
    }

    /// Lengths over the clip, given the root's depths: medians, in which both sides of the body vote for their one length.
    pub(crate) fn lengths(&self, depths: &[Option<f64>]) -> [f64; N_BONES] {
        let of_frame = |b: usize, t: usize| depths[t].map(|depth| (self.measured[t][b] * depth, self.across[t][b]));
        std::array::from_fn(|b| {
            let sides = if twin_bone(b) == b { vec![b] } else { vec![b, twin_bone(b)] };
            let both = sides.into_iter().flat_map(|b| (0..depths.len()).filter_map(move |t| of_frame(b, t)));
            let length = smooth::weighted_median(&mut both.collect::<Vec<_>>());
            if length.is_finite() { length } else { 0.0 }
        })
    }
}

/// How much of each bone lies across the line of sight, squared (0..=1), and never nothing.
pub(crate) fn share_across(pose: &Pose3) -> [f64; N_BONES] {
    BONES.map(|(parent, child)| {
        let point = |j: usize| Vector3::from(pose[j]).cast::<f64>();
        let (bone, sight) = (point(child) - point(parent), point(parent).normalize());
        let (length, along) = (bone.norm_squared(), bone.dot(&sight));
        let share = if length > 0.0 { 1.0 - along * along / length } else { 0.0 };
        share.max(0.0) + 0.02
    })
}

/// The same bone of the other side.
pub(crate) fn twin_bone(b: usize) -> usize {
    skeleton::flip_index()[b + 1] - 1
}

/// Depths without jitter, jumps or gaps: [`smooth::lowess`] of their logarithm.
fn smooth_depths(depths: &[Option<f64>], times_s: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = depths.iter().map(|depth| depth.map_or(0.0, f64::ln)).collect();
    let weights: Vec<f64> = depths.iter().map(|depth| if depth.is_some() { 1.0 } else { 0.0 }).collect();
    smooth::lowess(times_s, &logs, &weights, DEPTH_BANDWIDTH_S).iter().map(|log| log.exp()).collect()
}

/// The root's pixel in one frame: the Huber mean of its joints' votes, see [`root_path_px`]; `None` without a keypoint.
pub fn root_of_frame_px(pose25: &Pose3, transform: &ImageTransform, keypoints: &Keypoints17) -> Option<[f32; 2]> {
    const ROUNDS: usize = 5;
    let votes: Vec<([f64; 2], f64)> = pose25
        .iter()
        .zip(keypoints)
        .filter(|(_, k)| !k.is_missing())
        .map(|(p, k)| {
            let vote = [k.x_px - p[0] * transform.half_size_px, k.y_px - p[1] * transform.half_size_px];
            (vote.map(f64::from), f64::from(k.confidence))
        })
        .collect();
    let median = |d: usize| smooth::weighted_median(&mut votes.iter().map(|(v, w)| (v[d], *w)).collect::<Vec<_>>());
    let mut root = [median(0), median(1)];
    let distance = |vote: &[f64; 2], root: &[f64; 2]| (vote[0] - root[0]).hypot(vote[1] - root[1]);
    let mut spread: Vec<(f64, f64)> = votes.iter().map(|(v, w)| (distance(v, &root), *w)).collect();
    // votes beyond the usual distance count by their distance's inverse
    let usual = smooth::weighted_median(&mut spread).max(1e-3);
    for _ in 0..ROUNDS {
        let (mut sum, mut total) = ([0.0; 2], 0.0);
        for (vote, confidence) in &votes {
            let weight = confidence * (usual / distance(vote, &root).max(usual));
            sum = [sum[0] + weight * vote[0], sum[1] + weight * vote[1]];
            total += weight;
        }
        root = [sum[0] / total, sum[1] / total];
    }
    (root[0].is_finite() && root[1].is_finite()).then_some([root[0] as f32, root[1] as f32])
}
