//! Poses without jitter ([`PoseFilter`], [`one_euro`]) and with bones of constant length ([`BoneProjection`],
//! [`constant_bone_lengths`]). Both work in any unit and in any axes, frame by frame, so that streams can use them.
//!
//! # What they cost
//! The One-Euro filter lags behind a point that moves at the speed `v` by exactly `1 / (2 pi (min_cutoff + beta v))`, whatever the
//! frame rate ([`OneEuro::lag_s`]; the tests measure it on a ramp). With the default settings:
//!
//! | speed of the joint | lag |
//! |---|---|
//! | 0.1 m/s (a person who stands) | 80 ms |
//! | 1 m/s (a walk; a hand that points) | 14 ms |
//! | 3 m/s (a run; the foot of a walker) | 5 ms |
//!
//! The projection looks at no other frame: it adds no lag.

use crate::{
    Error, JOINTS, Pose3, ROOT,
    keypoints::check_times,
    skeleton::{self, BONES},
    smooth,
    world::check_poses,
};
use nalgebra::Vector3;
use std::f64::consts::TAU;

/// Number of bones.
const N_BONES: usize = BONES.len();

/// Settings of the One-Euro filter (Casiez, Roussel and Vogel, "1€ Filter", CHI 2012): a first-order low-pass whose cutoff
/// frequency rises with speed. At rest it is low, so that nothing jitters; in motion it is high, so that nothing lags.
///
/// To tune it, as the paper says: with `beta` 0, lower `min_cutoff_hz` until a still pose is calm; then raise `beta` until a fast
/// one does not lag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneEuro {
    /// Cutoff frequency at rest, Hz.
    pub min_cutoff_hz: f64,
    /// How fast the cutoff rises with speed: Hz for one unit of length a second.
    pub beta: f64,
    /// Cutoff frequency of the low-pass over the speed, Hz; 1 in the paper.
    pub derivative_cutoff_hz: f64,
    /// After a longer pause than this, in seconds, the filter starts anew instead of dragging the old position along.
    pub reset_gap_s: f64,
}

impl Default for OneEuro {
    /// For poses in **millimetres**: 1 Hz and 0.01 Hz s/mm.
    ///
    /// Chosen on 43 clips of motion capture at 25 frames a second, with an error of 8 mm in each coordinate that is new in each
    /// frame on one of 20 mm that drifts: the jitter (mean acceleration error) falls from 36 to 21 mm, and the mean error of a
    /// joint rises from 34.4 to 35.5 mm, which is the lag.
    fn default() -> Self {
        Self { min_cutoff_hz: 1.0, beta: 0.01, derivative_cutoff_hz: 1.0, reset_gap_s: 0.5 }
    }
}

impl OneEuro {
    /// Delay behind a point that moves at a constant speed, in seconds. `speed` is in units of length a second.
    ///
    /// A first-order low-pass of time constant `tau = 1 / (2 pi cutoff)` follows a ramp `tau` late, at any spacing of samples.
    pub fn lag_s(&self, speed: f64) -> f64 {
        time_constant_s(self.cutoff_hz(speed))
    }

    fn cutoff_hz(&self, speed: f64) -> f64 {
        self.min_cutoff_hz + self.beta * speed
    }

    fn validate(&self) -> Result<(), Error> {
        let check = |what, expected, value: f64, is_good: bool| match is_good && value.is_finite() {
            true => Ok(()),
            false => Err(Error::out_of_range(what, expected, value)),
        };
        check("cutoff frequency of the filter", "Hz above 0", self.min_cutoff_hz, self.min_cutoff_hz > 0.0)?;
        check("beta of the filter", "0 or more", self.beta, self.beta >= 0.0)?;
        let derivative_hz = self.derivative_cutoff_hz;
        check("cutoff frequency of the filter's speed", "Hz above 0", derivative_hz, derivative_hz > 0.0)?;
        check("longest gap of the filter", "seconds above 0", self.reset_gap_s, self.reset_gap_s > 0.0)
    }
}

fn time_constant_s(cutoff_hz: f64) -> f64 {
    1.0 / (TAU * cutoff_hz)
}

/// Weight of a new sample in a low-pass, `step_s` after the one before.
fn new_share(cutoff_hz: f64, step_s: f64) -> f64 {
    step_s / (step_s + time_constant_s(cutoff_hz))
}

/// One-Euro filter of one point of N coordinates.
///
/// Each coordinate has its own low-pass over value and derivative; the cutoff follows from the speed of the point, the norm of
/// the filtered derivatives, so that the result does not depend on how the axes lie. With N = 1 it is the paper's filter. The
/// derivative is that of the values that came in, as in the authors' code: only then is the lag what [`OneEuro::lag_s`] says.
#[derive(Clone, Debug)]
pub struct PointFilter<const N: usize> {
    settings: OneEuro,
    last: Option<Sample<N>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample<const N: usize> {
    time_s: f64,
    raw: [f64; N],
    smooth: [f64; N],
    /// Smoothed derivative, units a second.
    velocity: [f64; N],
}

impl<const N: usize> PointFilter<N> {
    /// A filter that has seen nothing.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for settings that are not finite or not above 0 (`beta` may be 0).
    pub fn new(settings: OneEuro) -> Result<Self, Error> {
        settings.validate()?;
        Ok(Self { settings, last: None })
    }

    /// The smoothed point at `time_s`.
    ///
    /// The first point is returned as it is, and so is the first one after a gap of more than `reset_gap_s`, or at a time that
    /// is not after the last one (the stream has started anew). A point that is not finite is missing: it is returned as it is
    /// and changes nothing, so that the next one is filtered over the real pause.
    pub fn push(&mut self, time_s: f64, point: [f32; N]) -> [f32; N] {
        let raw = point.map(f64::from);
        if !(raw.iter().all(|v| v.is_finite()) && time_s.is_finite()) {
            return point;
        }
        let sample = match self.last {
            Some(last) if time_s > last.time_s && time_s - last.time_s <= self.settings.reset_gap_s => self.next(&last, time_s, raw),
            _ => Sample { time_s, raw, smooth: raw, velocity: [0.0; N] },
        };
        self.last = Some(sample);
        sample.smooth.map(|v| v as f32)
    }

    fn next(&self, last: &Sample<N>, time_s: f64, raw: [f64; N]) -> Sample<N> {
        let step_s = time_s - last.time_s;
        let toward = |old: f64, new: f64, share: f64| old + share * (new - old);
        let share = new_share(self.settings.derivative_cutoff_hz, step_s);
        let velocity: [f64; N] = std::array::from_fn(|k| toward(last.velocity[k], (raw[k] - last.raw[k]) / step_s, share));
        let speed = velocity.iter().map(|v| v * v).sum::<f64>().sqrt();
        let share = new_share(self.settings.cutoff_hz(speed), step_s);
        Sample { time_s, raw, smooth: std::array::from_fn(|k| toward(last.smooth[k], raw[k], share)), velocity }
    }

    /// Forgets what it has seen: the next point is returned as it is.
    pub fn reset(&mut self) {
        self.last = None;
    }
}

/// One-Euro filter of a pose: one [`PointFilter`] for each joint, so that a hand may move while the rest stands still.
#[derive(Clone, Debug)]
pub struct PoseFilter {
    joints: [PointFilter<3>; JOINTS],
}

impl PoseFilter {
    /// A filter that has seen nothing.
    ///
    /// # Errors
    /// As [`PointFilter::new`].
    pub fn new(settings: OneEuro) -> Result<Self, Error> {
        let joint = PointFilter::new(settings)?;
        Ok(Self { joints: std::array::from_fn(|_| joint.clone()) })
    }

    /// The smoothed pose at `time_s`, each joint as [`PointFilter::push`] says.
    pub fn push(&mut self, time_s: f64, pose: &Pose3) -> Pose3 {
        std::array::from_fn(|j| self.joints[j].push(time_s, pose[j]))
    }

    /// Forgets what it has seen, for instance because another person follows.
    pub fn reset(&mut self) {
        self.joints.iter_mut().for_each(PointFilter::reset);
    }
}

/// [`PoseFilter`] over a whole clip: causal, so it lags as in a stream ([`smooth::lowess`] does not, and cannot run live).
///
/// # Errors
/// As [`PointFilter::new`], and for times that do not rise or do not go with the poses.
pub fn one_euro(poses: &[Pose3], times_s: &[f64], settings: OneEuro) -> Result<Vec<Pose3>, Error> {
    Error::check_length("times", poses.len(), times_s.len())?;
    check_times(times_s)?;
    let mut filter = PoseFilter::new(settings)?;
    Ok(poses.iter().zip(times_s).map(|(pose, &time_s)| filter.push(time_s, pose)).collect())
}

/// Gives each bone a constant length: from the root outwards, each joint is moved along its bone's direction. The root stays
/// where it is.
///
/// A bone without a direction (its joints coincide, or one of them is not finite) keeps its last one.
#[derive(Clone, Debug)]
pub struct BoneProjection {
    lengths: [f64; N_BONES],
    /// Unit vectors.
    directions: [Vector3<f64>; N_BONES],
}

impl BoneProjection {
    /// A projection to these lengths, in the order of [`BONES`] and the unit of the poses.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a length that is negative or not finite.
    pub fn new(lengths: &[f32; N_BONES]) -> Result<Self, Error> {
        if let Some(bad) = lengths.iter().find(|length| !(length.is_finite() && **length >= 0.0)) {
            return Err(Error::out_of_range("bone length", "a finite number, 0 or more", bad));
        }
        // before a bone has had any direction, all are as good
        Ok(Self { lengths: lengths.map(f64::from), directions: [Vector3::x(); N_BONES] })
    }

    /// Other lengths from now on, as a stream comes to know them better.
    ///
    /// # Errors
    /// As [`Self::new`]; the old ones then stay.
    pub fn set_lengths(&mut self, lengths: &[f32; N_BONES]) -> Result<(), Error> {
        self.lengths = Self::new(lengths)?.lengths;
        Ok(())
    }

    /// The pose with these lengths.
    pub fn push(&mut self, pose: &Pose3) -> Pose3 {
        let mut joints = [Vector3::zeros(); JOINTS];
        joints[ROOT] = Vector3::from(pose[ROOT]).cast::<f64>();
        for (b, &(parent, child)) in BONES.iter().enumerate() {
            self.directions[b] = bone_direction(pose, b).unwrap_or(self.directions[b]);
            joints[child] = joints[parent] + self.lengths[b] * self.directions[b];
        }
        joints.map(|joint| joint.cast::<f32>().into())
    }
}

/// Unit vector from a bone's parent to its child.
fn bone_direction(pose: &Pose3, bone: usize) -> Option<Vector3<f64>> {
    let (parent, child) = BONES[bone];
    let along = Vector3::from(pose[child]).cast::<f64>() - Vector3::from(pose[parent]).cast::<f64>();
    let length = along.norm();
    (length.is_finite() && length > 0.0).then(|| along / length)
}

/// Median length of each bone over a clip, in the order of [`BONES`]: a bone that is wrong in less than half of the frames does
/// not change its own. Left and right are not made equal.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::BadPose`].
pub fn median_bone_lengths(poses: &[Pose3]) -> Result<[f32; N_BONES], Error> {
    if poses.is_empty() {
        return Err(Error::NoFrames);
    }
    check_poses(poses)?;
    let lengths: Vec<[f32; N_BONES]> = poses.iter().map(skeleton::bone_lengths).collect();
    let of_bone = |b: usize| lengths.iter().map(|of_frame| f64::from(of_frame[b])).collect::<Vec<_>>();
    Ok(std::array::from_fn(|b| smooth::median(&mut of_bone(b)) as f32))
}

/// A clip in which each bone has its median length ([`median_bone_lengths`]) in every frame, see [`BoneProjection`]. Directions
/// and the root stay; poses whose bones are constant already stay as they are. Returns the poses and the lengths.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::BadPose`].
pub fn constant_bone_lengths(poses: &[Pose3]) -> Result<(Vec<Pose3>, [f32; N_BONES]), Error> {
    let lengths = median_bone_lengths(poses)?;
    let mut projection = BoneProjection::new(&lengths)?;
    // a bone that has no direction at the start takes its first one
    for b in 0..N_BONES {
        if let Some(first) = poses.iter().find_map(|pose| bone_direction(pose, b)) {
            projection.directions[b] = first;
        }
    }
    Ok((poses.iter().map(|pose| projection.push(pose)).collect(), lengths))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A pose of no particular shape.
    fn any_pose() -> impl Strategy<Value = Pose3> {
        prop::array::uniform17(prop::array::uniform3(-2000f32..2000.0))
    }

    fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
        (Vector3::from(a) - Vector3::from(b)).norm()
    }

    fn filter(settings: OneEuro) -> PointFilter<1> {
        PointFilter::new(settings).unwrap()
    }

    /// Delay of the filter on a ramp of this speed, measured after it has settled, in seconds.
    fn measured_lag_s(speed: f64, times_s: impl Iterator<Item = f64>) -> f64 {
        let mut filter = filter(OneEuro::default());
        let mut lag_s = f64::NAN;
        for time_s in times_s {
            let smooth = filter.push(time_s, [(speed * time_s) as f32]);
            lag_s = time_s - f64::from(smooth[0]) / speed;
        }
        lag_s
    }

    #[test]
    fn the_lag_on_a_ramp_is_what_it_says() {
        for (speed, expected_ms) in [(100.0, 79.6), (1000.0, 14.5), (3000.0, 5.1)] {
            let told_ms = 1000.0 * OneEuro::default().lag_s(speed);
            assert!((told_ms - expected_ms).abs() < 0.1, "{told_ms}");
            for fps in [25.0, 30.0, 60.0, 240.0] {
                let measured_ms = 1000.0 * measured_lag_s(speed, (0..6 * fps as u32).map(|i| f64::from(i) / fps));
                assert!((measured_ms - told_ms).abs() < 0.02 * told_ms, "{speed} mm/s at {fps}: {measured_ms} and not {told_ms} ms");
            }
            // real time stamps: dropped frames and jitter do not change the lag
            let uneven = (0..300).map(|i| f64::from(i) / 30.0 + 0.01 * (f64::from(i) * 1.7).sin()).enumerate();
            let dropped = uneven.filter(|(i, _)| i % 7 != 3 && i % 11 < 9).map(|(_, time_s)| time_s);
            let measured_ms = 1000.0 * measured_lag_s(speed, dropped);
            assert!((measured_ms - told_ms).abs() < 0.02 * told_ms, "{speed} mm/s, uneven: {measured_ms} and not {told_ms} ms");
        }
    }

    #[test]
    fn jitter_falls_and_a_still_point_stays() {
        let mut one = filter(OneEuro::default());
        assert_eq!(one.push(0.0, [5.0]), [5.0]);
        assert_eq!(one.push(0.1, [5.0]), [5.0]);
        let mut one = filter(OneEuro { beta: 0.0, ..OneEuro::default() });
        let noise = |i: u32| if i.is_multiple_of(2) { 10.0 } else { -10.0 };
        let last: Vec<f32> = (0..300).map(|i| one.push(f64::from(i) / 30.0, [noise(i)])[0]).skip(290).collect();
        assert!(last.iter().all(|v| v.abs() < 1.2), "a low-pass of 1 Hz leaves a tenth of 15 Hz: {last:?}");
    }

    #[test]
    fn gaps_start_anew_and_missing_joints_pass() {
        let mut one = filter(OneEuro::default());
        one.push(0.0, [0.0]);
        assert!(one.push(0.1, [100.0])[0] < 99.0);
        assert!(one.push(0.2, [f32::NAN])[0].is_nan());
        assert!(one.push(0.3, [100.0])[0] < 99.9, "a pause of 0.2 s is filtered over");
        assert_eq!(one.push(0.9, [500.0]), [500.0], "a gap of 0.6 s");
        assert_eq!(one.push(0.9, [700.0]), [700.0], "time stands still");
        assert_eq!(one.push(0.1, [800.0]), [800.0], "time runs back");
        one.reset();
        assert_eq!(one.push(0.2, [-3.0]), [-3.0]);

        // a joint that is missing does not hold the others up
        let mut poses = PoseFilter::new(OneEuro::default()).unwrap();
        let mut pose = [[0.0; 3]; JOINTS];
        poses.push(0.0, &pose);
        pose = [[50.0; 3]; JOINTS];
        pose[3][1] = f32::INFINITY;
        let smooth = poses.push(0.1, &pose);
        assert_eq!(smooth[3], pose[3]);
        assert!(smooth[4][0] > 0.0 && smooth[4][0] < 50.0);
        poses.reset();
        assert_eq!(poses.push(0.2, &[[7.0; 3]; JOINTS]), [[7.0; 3]; JOINTS]);
    }

    #[test]
    fn bad_settings_and_clips_are_refused() {
        let good = OneEuro::default();
        let bad = [
            OneEuro { min_cutoff_hz: 0.0, ..good },
            OneEuro { min_cutoff_hz: f64::NAN, ..good },
            OneEuro { beta: -1.0, ..good },
            OneEuro { beta: f64::INFINITY, ..good },
            OneEuro { derivative_cutoff_hz: 0.0, ..good },
            OneEuro { reset_gap_s: -1.0, ..good },
        ];
        for settings in bad {
            assert!(PoseFilter::new(settings).is_err(), "{settings:?}");
        }
        let poses = [[[0.0; 3]; JOINTS]; 2];
        assert!(one_euro(&poses, &[0.0], good).is_err());
        assert!(one_euro(&poses, &[1.0, 1.0], good).is_err());
        assert_eq!(one_euro(&poses, &[0.0, 1.0], good).unwrap(), poses);
        assert!(median_bone_lengths(&[]).is_err());
        assert!(constant_bone_lengths(&[[[f32::NAN; 3]; JOINTS]]).is_err());
        assert!(BoneProjection::new(&[-1.0; N_BONES]).is_err());
    }

    #[test]
    fn a_bone_without_direction_keeps_its_last_or_takes_its_first() {
        let mut pose: Pose3 = std::array::from_fn(|j| [0.0, 10.0 * j as f32, 5.0]);
        let straight = pose;
        pose[16] = pose[15];
        let (poses, lengths) = constant_bone_lengths(&[pose, straight, straight, pose]).unwrap();
        assert_eq!(lengths[15], 5.0, "the median of 0, 10, 10, 0");
        for projected in &poses {
            assert!((projected[16][1] - projected[15][1] - 5.0).abs() < 1e-4, "{projected:?}");
        }
        // a missing joint is put where its bone last pointed
        let mut stream = BoneProjection::new(&skeleton::bone_lengths(&straight)).unwrap();
        stream.push(&straight);
        pose[16] = [f32::NAN; 3];
        assert!(distance(stream.push(&pose)[16], straight[16]) < 1e-3);
        assert!(stream.set_lengths(&[f32::NAN; N_BONES]).is_err());
        stream.set_lengths(&[7.0; N_BONES]).unwrap();
        assert!(skeleton::bone_lengths(&stream.push(&straight)).iter().all(|length| (length - 7.0).abs() < 1e-3));
    }

    proptest! {
        #[test]
        fn lengths_are_exact_directions_and_root_stay(clip in prop::collection::vec(any_pose(), 1..6)) {
            let (projected, lengths) = constant_bone_lengths(&clip).unwrap();
            for (pose, raw) in projected.iter().zip(&clip) {
                prop_assert_eq!(pose[ROOT], raw[ROOT]);
                for (b, length) in skeleton::bone_lengths(pose).iter().enumerate() {
                    prop_assert!((length - lengths[b]).abs() < 2e-3, "bone {}: {} and not {}", b, length, lengths[b]);
                    if lengths[b] > 1.0 {
                        let turned = bone_direction(pose, b).unwrap() - bone_direction(raw, b).unwrap_or_default();
                        prop_assert!(turned.norm() < 5e-3);
                    }
                }
            }
        }

        #[test]
        fn constant_lengths_stay_as_they_are(start in any_pose(), turns in prop::collection::vec(-3.0f64..3.0, 1..6)) {
            // the same bones in other directions
            let lengths = skeleton::bone_lengths(&start);
            let turned = |angle: f64| {
                let mut projection = BoneProjection::new(&lengths).unwrap();
                let (sin, cos) = angle.sin_cos();
                let bent = |j: usize, [x, y, z]: [f32; 3]| {
                    let (x, y, z) = (f64::from(x), f64::from(y), f64::from(z));
                    [(cos * x - sin * y) as f32, (sin * x + cos * y + j as f64 * angle * 30.0) as f32, z as f32]
                };
                projection.push(&std::array::from_fn(|j| bent(j, start[j])))
            };
            let clip: Vec<Pose3> = turns.into_iter().map(turned).collect();
            let (projected, _) = constant_bone_lengths(&clip).unwrap();
            for (pose, raw) in projected.iter().flatten().zip(clip.iter().flatten()) {
                prop_assert!(distance(*pose, *raw) < 0.02, "{:?} {:?}", pose, raw);
            }
        }

        #[test]
        fn turning_the_axes_turns_the_result(clip in prop::collection::vec(any_pose(), 2..8)) {
            let times_s: Vec<f64> = (0..clip.len()).map(|i| i as f64 / 30.0).collect();
            let turn = |pose: &Pose3| pose.map(|[x, y, z]| [0.6 * x - 0.8 * y, 0.8 * x + 0.6 * y, z]);
            let turned: Vec<Pose3> = clip.iter().map(turn).collect();
            let (a, b) = (one_euro(&clip, &times_s, OneEuro::default()).unwrap(), one_euro(&turned, &times_s, OneEuro::default()).unwrap());
            for (a, b) in a.iter().map(turn).collect::<Vec<_>>().iter().flatten().zip(b.iter().flatten()) {
                prop_assert!(distance(*a, *b) < 0.01);
            }
        }
    }
}
