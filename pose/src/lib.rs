//! Skeletons, keypoints, cameras, normalisation, windows, filters, joint angles, metrics and the metadata of a lifter.
//!
//! No files, no engine, no model: what every other part of poselift agrees on.
//!
//! * **Axes.** Camera space: x right, y down, z away from the camera. World space: right-handed, z up. Left is the
//!   person's left. The root is joint 0, the pelvis.
//! * **Units** stand in the names: `_px`, `_mm`, `_m`, `_s`. "Normalised" means normalised image units, see [`normalise`].
//! * **2.5D** is what a lifter predicts: root-relative x and y in normalised image units, and z in the same unit. Only
//!   [`world`] turns it into millimetres.

pub mod angle;
mod banded;
pub mod camera;
pub mod causal;
pub mod contact;
mod error;
pub mod fill;
pub mod filter;
pub mod floor;
pub mod joint_map;
mod keypoints;
pub mod live;
pub mod metadata;
pub mod metrics;
pub mod normalise;
pub mod resample;
pub mod skeleton;
pub mod smooth;
pub mod trajectory;
pub mod window;
pub mod world;

pub use error::Error;
pub use keypoints::{ImageSize, Keypoint, KeypointClip, Keypoints17, MAX_COORDINATE_PX};

/// Number of joints of the Human3.6M skeleton, see [`skeleton`].
pub const JOINTS: usize = 17;
/// The root joint: the pelvis ("Hip" of Human3.6M).
pub const ROOT: usize = 0;

/// x and y of 17 joints; the unit is said where it is used.
pub type Pose2 = [[f32; 2]; JOINTS];
/// x, y and z of 17 joints; the unit is said where it is used.
pub type Pose3 = [[f32; 3]; JOINTS];

/// Row-major values (T, 17, 3), as an engine returns them, as T poses.
///
/// # Errors
/// [`Error::WrongShape`] when the number of values is no multiple of 17 * 3.
pub fn poses_from_values(values: &[f32]) -> Result<Vec<Pose3>, Error> {
    let (poses, rest) = values.as_chunks::<{ JOINTS * 3 }>();
    if !rest.is_empty() {
        return Err(Error::WrongShape { what: "poses", expected: "a multiple of 17 * 3", found: values.len() });
    }
    let pose = |v: &[f32; JOINTS * 3]| std::array::from_fn(|j| [v[3 * j], v[3 * j + 1], v[3 * j + 2]]);
    Ok(poses.iter().map(pose).collect())
}

/// T poses as row-major values (T, 17, 3).
pub fn values_from_poses(poses: &[Pose3]) -> Vec<f32> {
    poses.as_flattened().as_flattened().to_vec()
}
