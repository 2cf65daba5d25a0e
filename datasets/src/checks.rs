//! Whether the numbers of a data set are what their names say: units, sides, finite values. All work on a few thousand frames
//! spread over the set, since whoever converts a set wrongly converts all of it so.

use std::path::Path;

use formats::{Data, Tensor, Value};
use nalgebra::Vector3;
use pose::{JOINTS, Pose2, Pose3, skeleton};

use crate::Error;

/// Frames that are looked at where a check need not look at all.
const SAMPLED: usize = 4096;
/// A side score below it is taken for swapped sides: hours of motion capture score +0.73 (no take under +0.42), noise about 0, people
/// with their sides swapped the negative of theirs.
const SWAPPED_SCORE: f64 = -0.25;

/// An array field of a data set: who complains, and about what.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub path: &'a Path,
    /// Such as `train/joint_2d`.
    pub name: &'a str,
}

impl Field<'_> {
    pub fn refuse(&self, problem: impl std::fmt::Display) -> Error {
        Error::content(self.path, format!("'{}' {problem}", self.name))
    }

    /// The tensor in a value that must be there.
    pub fn tensor(&self, value: Option<Value>) -> Result<Tensor, Error> {
        match value {
            Some(Value::Tensor(tensor)) => Ok(tensor),
            // a list of numbers, such as one factor for each frame
            Some(Value::List(items)) if items.iter().all(|item| item.as_f64().is_some()) => {
                let numbers: Vec<f64> = items.iter().filter_map(Value::as_f64).collect();
                Ok(Tensor { shape: vec![numbers.len()], data: Data::F64(numbers) })
            }
            Some(other) => Err(self.refuse(format!("is {}: expected an array of numbers", other.describe()))),
            None => Err(self.refuse("is missing: is this another data set, or an older version of it?")),
        }
    }

    /// Number of frames of an array (frames, 17, channels).
    pub fn frames(&self, tensor: &Tensor, channels: usize) -> Result<usize, Error> {
        match tensor.shape[..] {
            [frames, JOINTS, c] if frames > 0 && c == channels => Ok(frames),
            [_, 16, c] if c == channels => Err(self.refuse(format!(
                "has 16 joints: expected the {JOINTS} of Human3.6M, shape (frames, {JOINTS}, {channels}); sets of 16 leave out the nose, \
                 which cannot be put back"
            ))),
            [_, joints, c] if c == channels && joints != JOINTS => {
                Err(self.refuse(format!("has {joints} joints: expected {JOINTS}, shape (frames, {JOINTS}, {channels})")))
            }
            _ => Err(self.refuse(format!("has shape {:?}: expected (frames, {JOINTS}, {channels})", tensor.shape))),
        }
    }

    /// Refuses a field of another length than the first one.
    pub fn same_frames(&self, expected: usize, found: usize) -> Result<(), Error> {
        if expected == found {
            return Ok(());
        }
        Err(self
            .refuse(format!("has {found} frames and the other fields {expected}: the file is damaged or its parts do not belong together")))
    }

    /// Refuses values that are not finite or beyond `largest`. `values` is (frames, 17, channels) or (frames).
    pub fn finite(&self, values: &[f32], per_frame: usize, largest: f32, unit: &str) -> Result<(), Error> {
        let Some(at) = values.iter().position(|v| v.is_nan() || v.abs() > largest) else { return Ok(()) };
        let (frame, within) = (at / per_frame, at % per_frame);
        let joint = if per_frame >= JOINTS { format!(", joint {}", within / (per_frame / JOINTS)) } else { String::new() };
        Err(self.refuse(format!("is {} at frame {frame}{joint}: expected finite {unit} within ±{largest}", values[at])))
    }
}

/// All elements as f32, without a copy where they are.
pub(crate) fn into_f32(tensor: Tensor) -> Vec<f32> {
    match tensor.data {
        Data::F32(values) => values,
        _ => tensor.to_f32(),
    }
}

/// Poses (frames, 17, 3), a few thousand spread over all.
pub(crate) fn sampled3(values: &[f32]) -> Vec<Pose3> {
    let (frames, _) = values.as_chunks::<{ JOINTS * 3 }>();
    let step = frames.len().div_ceil(SAMPLED).max(1);
    frames.iter().step_by(step).map(|v| std::array::from_fn(|j| [v[3 * j], v[3 * j + 1], v[3 * j + 2]])).collect()
}

/// The 2D frames (frames, 17, 2) that go with [`sampled3`].
pub(crate) fn sampled2(values: &[f32]) -> Vec<Pose2> {
    let (frames, _) = values.as_chunks::<{ JOINTS * 2 }>();
    let step = frames.len().div_ceil(SAMPLED).max(1);
    frames.iter().step_by(step).map(|v| std::array::from_fn(|j| [v[2 * j], v[2 * j + 1]])).collect()
}

/// Median length of a thigh, in the unit of the poses: 350 to 500 mm in adults, the longest bone and the surest sign of the unit.
pub(crate) fn median_thigh(poses: &[Pose3]) -> f64 {
    let mut lengths: Vec<f64> = poses.iter().map(|pose| (point(pose, 2) - point(pose, 1)).norm()).collect();
    if lengths.is_empty() {
        return f64::NAN;
    }
    let middle = lengths.len() / 2;
    *lengths.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Refuses poses in metres or centimetres where millimetres are expected.
pub(crate) fn expect_millimetres(field: Field<'_>, poses: &[Pose3]) -> Result<(), Error> {
    let thigh = median_thigh(poses);
    let (unit, factor) = match thigh {
        0.05..5.0 => ("metres", 1000),
        5.0..100.0 => ("centimetres", 10),
        _ if thigh > 0.0 => return Ok(()),
        _ => return Err(field.refuse(format!("has thighs {thigh:.4} long in the median: expected poses of people in millimetres"))),
    };
    Err(field.refuse(format!(
        "has thighs {thigh:.3} long in the median, so it seems to be in {unit}: expected millimetres, multiply by {factor}"
    )))
}

/// Refuses poses in millimetres or centimetres where metres are expected.
pub(crate) fn expect_metres(field: Field<'_>, poses: &[Pose3]) -> Result<(), Error> {
    let thigh = median_thigh(poses);
    let (unit, factor) = match thigh {
        100.0.. => ("millimetres", 1000),
        5.0..100.0 => ("centimetres", 100),
        _ => return Ok(()),
    };
    Err(field.refuse(format!("has thighs {thigh:.1} long in the median, so it seems to be in {unit}: expected metres, divide by {factor}")))
}

/// How well the bodies agree with their labels, -1..=1. The left hip and the spine tell where forward is; knees bend forwards,
/// elbows backwards, the nose is in front of neck and head. With left and right swapped forward turns round and all three contradict.
/// The axes must be right-handed, as those of camera and world are here; in left-handed ones the sign turns too.
pub(crate) fn side_score(poses: &[Pose3]) -> f64 {
    // (from, between, to, +1: `between` lies forward of the line, -1: behind it)
    const BENDS: [(usize, usize, usize, f64); 5] =
        [(1, 2, 3, 1.0), (4, 5, 6, 1.0), (11, 12, 13, -1.0), (14, 15, 16, -1.0), (8, 9, 10, 1.0)];
    let (mut forwards, mut total) = (0.0, 0.0);
    for pose in poses {
        let forward = (point(pose, 4) - point(pose, 1)).cross(&(point(pose, 8) - point(pose, 0)));
        let Some(forward) = forward.try_normalize(1e-9) else { continue };
        for (from, between, to, sign) in BENDS {
            let line = point(pose, to) - point(pose, from);
            let offset = point(pose, between) - point(pose, from);
            let along = if line.norm_squared() > 0.0 { offset.dot(&line) / line.norm_squared() } else { 0.0 };
            let bend = offset - along * line;
            forwards += sign * bend.dot(&forward);
            total += bend.norm();
        }
    }
    if total > 0.0 { forwards / total } else { 0.0 }
}

/// Refuses bodies that only make sense with left and right exchanged.
pub(crate) fn expect_sides(field: Field<'_>, poses: &[Pose3]) -> Result<(), Error> {
    let score = side_score(poses);
    if score >= SWAPPED_SCORE {
        return Ok(());
    }
    Err(field.refuse(format!(
        "has left and right swapped, or left-handed axes: knees bend backwards and noses point backwards (agreement {score:.2} of -1 to 1); \
         swap the joints or mirror one axis"
    )))
}

/// Refuses 2D joints whose left and right are those of the 3D joints exchanged. Both see x to the right: across each pair of joints
/// the x distances must agree in sign.
pub(crate) fn expect_same_sides(field: Field<'_>, pixels: &[Pose2], camera: &[Pose3], other: &str) -> Result<(), Error> {
    let (mut products, mut squares2, mut squares3) = (0.0, 0.0, 0.0);
    for (pixels, pose) in pixels.iter().zip(camera) {
        for (left, right) in skeleton::LEFT.into_iter().zip(skeleton::RIGHT) {
            let a = f64::from(pixels[left][0] - pixels[right][0]);
            let b = f64::from(pose[left][0] - pose[right][0]);
            products += a * b;
            squares2 += a * a;
            squares3 += b * b;
        }
    }
    let agreement = products / (squares2 * squares3).sqrt();
    if agreement < -0.3 {
        return Err(field.refuse(format!(
            "has left and right swapped against '{other}' (their widths agree by {agreement:.2} of -1 to 1): swap the joints of one of the two"
        )));
    }
    Ok(())
}

fn point(pose: &Pose3, joint: usize) -> Vector3<f64> {
    Vector3::from(pose[joint]).cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    fn field() -> Field<'static> {
        Field { path: Path::new("set.npz"), name: "poses" }
    }

    fn walkers() -> Vec<Pose3> {
        let set = synthetic::walks("walks", 6, 100, 3).unwrap();
        (0..6).flat_map(|clip| set.poses(clip).to_vec()).collect()
    }

    fn swapped(poses: &[Pose3]) -> Vec<Pose3> {
        poses.iter().map(|pose| skeleton::flip_index().map(|j| pose[j])).collect()
    }

    #[test]
    fn sides_are_told_apart() {
        let poses = walkers();
        let (right, wrong) = (side_score(&poses), side_score(&swapped(&poses)));
        assert!(right > 0.25 && wrong < SWAPPED_SCORE, "{right} {wrong}");
        assert!(expect_sides(field(), &poses).is_ok());
        let message = expect_sides(field(), &swapped(&poses)).unwrap_err().to_string();
        assert!(message.starts_with("set.npz: 'poses' has left and right swapped"), "{message}");
    }

    #[test]
    fn units_are_named() {
        let poses = walkers();
        let scaled = |factor: f32| -> Vec<Pose3> { poses.iter().map(|pose| pose.map(|p| p.map(|v| v * factor))).collect() };
        assert!(expect_millimetres(field(), &poses).is_ok() && expect_metres(field(), &scaled(1e-3)).is_ok());
        for (poses, unit) in [(scaled(1e-3), "metres"), (scaled(0.1), "centimetres")] {
            let message = expect_millimetres(field(), &poses).unwrap_err().to_string();
            assert!(message.contains(&format!("seems to be in {unit}: expected millimetres")), "{message}");
        }
        for (poses, unit) in [(scaled(1.0), "millimetres"), (scaled(0.1), "centimetres")] {
            assert!(expect_metres(field(), &poses).unwrap_err().to_string().contains(&format!("seems to be in {unit}: expected metres")));
        }
        assert!(expect_millimetres(field(), &scaled(0.0)).is_err());
    }
}
