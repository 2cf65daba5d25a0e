//! Errors of 3D poses, as the field computes them, in f64.
//!
//! Nothing here subtracts the root: the standard protocol does, so call [`root_relative`] first where it is meant. All
//! functions that end in `_per_frame` return one value for each frame; the others their mean, NaN for no frames. Units are
//! those of the poses, millimetres by convention.
//!
//! Every function that takes two sequences panics when their lengths differ: that is a mistake of the caller, never of a file.

use crate::{JOINTS, ROOT};
use nalgebra::{Matrix3, Vector3};
use std::ops::Sub;

/// A coordinate: `f32` ([`crate::Pose3`]) or `f64`.
pub trait Coordinate: Copy + Into<f64> + Sub<Output = Self> {}
impl Coordinate for f32 {}
impl Coordinate for f64 {}

/// x, y, z of 17 joints.
pub type Pose<C> = [[C; 3]; JOINTS];

/// Thresholds of [`auc_3dhp`]: 0, 5, ..., 150 mm.
const AUC_THRESHOLDS_MM: std::ops::RangeInclusive<u32> = 0..=30;

/// Poses with the root joint (or another, such as 14 in MPI-INF-3DHP) moved to the origin, frame by frame.
pub fn rooted_at<C: Coordinate>(poses: &[Pose<C>], joint: usize) -> Vec<Pose<C>> {
    let rooted = |pose: &Pose<C>| pose.map(|p| std::array::from_fn(|k| p[k] - pose[joint][k]));
    poses.iter().map(rooted).collect()
}

/// Poses relative to joint 0.
pub fn root_relative<C: Coordinate>(poses: &[Pose<C>]) -> Vec<Pose<C>> {
    rooted_at(poses, ROOT)
}

/// Distance of each joint from its target.
pub fn joint_errors<C: Coordinate>(pred: &Pose<C>, target: &Pose<C>) -> [f64; JOINTS] {
    std::array::from_fn(|j| (point(pred[j]) - point(target[j])).norm())
}

/// Mean per-joint position error of each frame.
pub fn mpjpe_per_frame<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> Vec<f64> {
    pairs(pred, target).map(|(p, t)| mean(&joint_errors(p, t))).collect()
}

/// Mean per-joint position error (MPJPE), millimetres for poses in millimetres.
pub fn mpjpe_mm<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> f64 {
    mean(&mpjpe_per_frame(pred, target))
}

/// [`mpjpe_per_frame`] after the best similarity of each frame (Procrustes: rotation, translation, scale).
pub fn p_mpjpe_per_frame<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> Vec<f64> {
    pairs(pred, target).map(|(p, t)| p_mpjpe_of_frame(p, t)).collect()
}

/// MPJPE after the best similarity of each frame (P-MPJPE, "protocol 2"). A mirror image is no similarity.
pub fn p_mpjpe_mm<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> f64 {
    mean(&p_mpjpe_per_frame(pred, target))
}

/// Scale that brings each frame's prediction nearest to its target, in the least-squares sense: sum(t . p) / sum(p . p).
/// 1 for a prediction that is all zero.
pub fn n_mpjpe_scale_per_frame<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> Vec<f64> {
    pairs(pred, target).map(|(p, t)| best_scale(p, t)).collect()
}

/// [`mpjpe_per_frame`] after the best scale of each frame.
pub fn n_mpjpe_per_frame<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> Vec<f64> {
    let error = |(p, t): (&Pose<C>, &Pose<C>)| {
        let scale = best_scale(p, t);
        let distance = |j: usize| (scale * point(p[j]) - point(t[j])).norm();
        mean(&std::array::from_fn::<f64, JOINTS, _>(distance))
    };
    pairs(pred, target).map(error).collect()
}

/// MPJPE after the best scale of each frame (N-MPJPE).
pub fn n_mpjpe_mm<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> f64 {
    mean(&n_mpjpe_per_frame(pred, target))
}

/// Error of the first difference in time, for each of the T - 1 steps.
pub fn velocity_error_per_frame<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> Vec<f64> {
    difference_error(pred, target, &[-1.0, 1.0])
}

/// Mean per-joint velocity error (MPJVE), millimetres a frame. NaN for fewer than 2 frames.
pub fn velocity_error<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> f64 {
    mean(&velocity_error_per_frame(pred, target))
}

/// Error of the second difference in time, for each of the T - 2 inner frames.
pub fn acceleration_error_per_frame<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> Vec<f64> {
    difference_error(pred, target, &[1.0, -2.0, 1.0])
}

/// Mean per-joint acceleration error, millimetres a frame squared. NaN for fewer than 3 frames.
pub fn acceleration_error<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>]) -> f64 {
    mean(&acceleration_error_per_frame(pred, target))
}

/// Share of joint errors strictly under a threshold (PCK), 0..=1. MPI-INF-3DHP takes 150 mm and joints 0..14 of its order.
pub fn pck(joint_errors_mm: &[f64], threshold_mm: f64) -> f64 {
    let within = joint_errors_mm.iter().filter(|&&e| e < threshold_mm).count();
    within as f64 / joint_errors_mm.len() as f64
}

/// Area under the PCK curve of MPI-INF-3DHP, 0..=1: the mean of [`pck`] over 0, 5, ..., 150 mm.
pub fn auc_3dhp(joint_errors_mm: &[f64]) -> f64 {
    let curve: Vec<f64> = AUC_THRESHOLDS_MM.map(|k| pck(joint_errors_mm, f64::from(5 * k))).collect();
    mean(&curve)
}

fn point<C: Coordinate>(p: [C; 3]) -> Vector3<f64> {
    Vector3::from(p.map(Into::into))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[track_caller]
fn pairs<'a, C: Coordinate>(pred: &'a [Pose<C>], target: &'a [Pose<C>]) -> impl Iterator<Item = (&'a Pose<C>, &'a Pose<C>)> {
    assert_eq!(pred.len(), target.len(), "predictions and targets must be of the same frames");
    pred.iter().zip(target)
}

fn best_scale<C: Coordinate>(pred: &Pose<C>, target: &Pose<C>) -> f64 {
    let sum = |a: &Pose<C>, b: &Pose<C>| -> f64 { (0..JOINTS).map(|j| point(a[j]).dot(&point(b[j]))).sum() };
    let norm = sum(pred, pred);
    if norm > 0.0 { sum(target, pred) / norm } else { 1.0 }
}

/// The orthogonal Procrustes problem with scale, as MotionBERT and VideoPose3D solve it; reflections are corrected by
/// turning over the direction of the least singular value (Kabsch).
fn p_mpjpe_of_frame<C: Coordinate>(pred: &Pose<C>, target: &Pose<C>) -> f64 {
    let (pred, target) = (pred.map(point), target.map(point));
    let centroid = |pose: &[Vector3<f64>; JOINTS]| pose.iter().sum::<Vector3<f64>>() / JOINTS as f64;
    let (pred_mean, target_mean) = (centroid(&pred), centroid(&target));
    let (pred, target) = (pred.map(|p| p - pred_mean), target.map(|t| t - target_mean));
    let pred_norm: f64 = pred.iter().map(Vector3::norm_squared).sum();

    // covariance = sum of t p^T = U S V^T; the best rotation of p onto t is U D V^T, D = diag(1, 1, ±1)
    let covariance: Matrix3<f64> = pred.iter().zip(&target).map(|(p, t)| t * p.transpose()).sum();
    if !covariance.iter().all(|v| v.is_finite()) {
        return f64::NAN; // a model that diverged; the decomposition would not end
    }
    let svd = covariance.svd(true, true); // singular values in descending order
    let (rotation, trace) = match (svd.u, svd.v_t) {
        (Some(u), Some(v_t)) => {
            let sign = if u.determinant() * v_t.determinant() < 0.0 { -1.0 } else { 1.0 };
            let d = Vector3::new(1.0, 1.0, sign);
            (u * Matrix3::from_diagonal(&d) * v_t, svd.singular_values.dot(&d))
        }
        _ => (Matrix3::identity(), covariance.trace()),
    };
    // a prediction of one point has no size to scale
    let scale = if pred_norm > 0.0 { trace / pred_norm } else { 0.0 };
    let distance = |j: usize| (scale * rotation * pred[j] - target[j]).norm();
    mean(&std::array::from_fn::<f64, JOINTS, _>(distance))
}

/// Mean over the joints of |sum_k weights_k (pred - target)_{t+k}|.
#[track_caller]
fn difference_error<C: Coordinate>(pred: &[Pose<C>], target: &[Pose<C>], weights: &[f64]) -> Vec<f64> {
    let errors: Vec<[Vector3<f64>; JOINTS]> =
        pairs(pred, target).map(|(p, t)| std::array::from_fn(|j| point(p[j]) - point(t[j]))).collect();
    let of_window = |window: &[[Vector3<f64>; JOINTS]]| {
        let joint = |j: usize| window.iter().zip(weights).map(|(e, &w)| w * e[j]).sum::<Vector3<f64>>().norm();
        mean(&std::array::from_fn::<f64, JOINTS, _>(joint))
    };
    errors.windows(weights.len()).map(of_window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pose3;
    use nalgebra::Rotation3;
    use proptest::prelude::*;

    fn pose() -> impl Strategy<Value = Pose3> {
        prop::collection::vec(prop::array::uniform3(-900f32..900.0), JOINTS).prop_map(|v| std::array::from_fn(|j| v[j]))
    }

    fn similar(pose: &Pose3, turn: [f64; 3], scale: f64, shift: [f64; 3]) -> Pose3 {
        let rotation = Rotation3::new(Vector3::from(turn));
        pose.map(|p| (scale * (rotation * point(p)) + Vector3::from(shift)).cast::<f32>().into())
    }

    proptest! {
        #[test]
        fn p_mpjpe_ignores_similarities(
            pred in pose(), target in pose(), turn in prop::array::uniform3(-3f64..3.0),
            scale in 0.2f64..4.0, shift in prop::array::uniform3(-2000f64..2000.0)
        ) {
            let before = p_mpjpe_mm(&[pred], &[target]);
            let after = p_mpjpe_mm(&[similar(&pred, turn, scale, shift)], &[target]);
            prop_assert!((before - after).abs() < 1e-2, "{before} {after}");
            prop_assert!(p_mpjpe_mm(&[similar(&target, turn, scale, shift)], &[target]) < 1e-2);
        }

        #[test]
        fn p_mpjpe_does_not_ignore_mirrors(target in pose()) {
            let mirrored = target.map(|[x, y, z]| [-x, y, z]);
            prop_assert!(p_mpjpe_mm(&[mirrored], &[target]) > 1.0);
        }

        #[test]
        fn n_mpjpe_ignores_scale(pred in pose(), target in pose(), scale in 0.1f32..5.0) {
            let scaled = pred.map(|p| p.map(|v| v * scale));
            let (a, b) = (n_mpjpe_mm(&[pred], &[target]), n_mpjpe_mm(&[scaled], &[target]));
            prop_assert!((a - b).abs() < 1e-2, "{a} {b}");
        }
    }

    #[test]
    fn degenerate_poses_have_finite_errors() {
        let (zero, one): (Pose3, Pose3) = ([[0.0; 3]; JOINTS], std::array::from_fn(|j| [j as f32, 0.0, 0.0]));
        assert!(p_mpjpe_mm(&[zero], &[one]).is_finite());
        assert_eq!(p_mpjpe_mm(&[zero], &[zero]), 0.0);
        assert!(p_mpjpe_mm(&[one], &[one]) < 1e-9); // all joints on a line
        assert!(n_mpjpe_mm(&[zero], &[one]).is_finite());
        assert!(p_mpjpe_mm(&[[[f32::NAN; 3]; JOINTS]], &[one]).is_nan());
        assert!(p_mpjpe_mm(&[[[f32::INFINITY; 3]; JOINTS]], &[one]).is_nan());
        assert!(mpjpe_mm::<f32>(&[], &[]).is_nan());
        assert!(velocity_error(&[one], &[one]).is_nan());
        assert!(acceleration_error_per_frame(&[one; 2], &[one; 2]).is_empty());
    }

    #[test]
    fn a_constant_offset_has_no_velocity() {
        let pred: Vec<Pose3> = (0..5).map(|t| [[t as f32, 1.0, 2.0]; JOINTS]).collect();
        let target: Vec<Pose3> = (0..5).map(|t| [[t as f32, 0.0, 0.0]; JOINTS]).collect();
        assert_eq!(velocity_error(&pred, &target), 0.0);
        assert_eq!(acceleration_error(&pred, &target), 0.0);
        assert!((mpjpe_mm(&pred, &target) - 5f64.sqrt()).abs() < 1e-12);
        assert_eq!(mpjpe_mm(&root_relative(&pred), &root_relative(&target)), 0.0);
    }

    #[test]
    fn pck_is_strict() {
        assert_eq!(pck(&[150.0, 149.9, 10.0, 151.0], 150.0), 0.5);
        assert_eq!(auc_3dhp(&[0.0]), 30.0 / 31.0); // nothing is under 0 mm
    }
}
