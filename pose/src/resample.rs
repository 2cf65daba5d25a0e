//! Clips and predictions at other times: to a model's rate and back to the input's own times. All linear.

use crate::{Error, Keypoint, KeypointClip, Keypoints17, Pose3, keypoints::check_times};

/// More frames than this are refused: 23 hours at 50 frames a second.
pub const MAX_FRAMES: usize = 1 << 22;

/// Times at a constant rate that cover `times_s`: from its first time on; the last is at or after its last.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::BadTime`], [`Error::OutOfRange`] for a rate that is not above 0, [`Error::TooLong`] for
/// more than [`MAX_FRAMES`].
pub fn uniform_times(times_s: &[f64], fps: f64) -> Result<Vec<f64>, Error> {
    check_times(times_s)?;
    let (Some(&first), Some(&last)) = (times_s.first(), times_s.last()) else { return Err(Error::NoFrames) };
    if !(fps.is_finite() && fps > 0.0) {
        return Err(Error::out_of_range("frames a second", "a number above 0", fps));
    }
    // a thousandth of a frame is rounding, not a frame
    let steps = ((last - first) * fps - 1e-3).ceil().max(0.0);
    if steps >= MAX_FRAMES as f64 {
        return Err(Error::TooLong { seconds: last - first, fps, limit: MAX_FRAMES });
    }
    Ok((0..=steps as usize).map(|i| first + i as f64 / fps).collect())
}

/// Keypoints at other times. Where one neighbour is missing, the other's position stands; the confidence is interpolated
/// in any case. Before the first and after the last frame the end is held.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::WrongLength`], [`Error::BadTime`].
pub fn keypoints(frames: &[Keypoints17], times_s: &[f64], at_s: &[f64]) -> Result<Vec<Keypoints17>, Error> {
    sample(frames, times_s, at_s, keypoints_between)
}

/// The frame between two, at `share` (0..=1) of the way from `before` to `after`; see [`keypoints`].
pub fn keypoints_between(before: &Keypoints17, after: &Keypoints17, share: f32) -> Keypoints17 {
    std::array::from_fn(|j| mix(before[j], after[j], share))
}

/// A whole clip at a constant rate.
///
/// # Errors
/// As [`uniform_times`] and [`keypoints`].
pub fn clip(clip: &KeypointClip, fps: f64) -> Result<KeypointClip, Error> {
    let times_s = uniform_times(&clip.times_s, fps)?;
    let frames = keypoints(&clip.frames, &clip.times_s, &times_s)?;
    Ok(KeypointClip { frames, times_s, image: clip.image })
}

/// Poses at other times, joint by joint; ends are held.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::WrongLength`], [`Error::BadTime`].
pub fn poses(poses: &[Pose3], times_s: &[f64], at_s: &[f64]) -> Result<Vec<Pose3>, Error> {
    let blend = |a: &Pose3, b: &Pose3, s: f32| std::array::from_fn(|j| std::array::from_fn(|k| a[j][k] + s * (b[j][k] - a[j][k])));
    sample(poses, times_s, at_s, blend)
}

/// A path of values, such as pixels of the root or boxes, at other times; ends are held.
///
/// # Errors
/// [`Error::NoFrames`], [`Error::WrongLength`], [`Error::BadTime`].
pub fn path<const N: usize>(values: &[[f32; N]], times_s: &[f64], at_s: &[f64]) -> Result<Vec<[f32; N]>, Error> {
    sample(values, times_s, at_s, |a, b, s| std::array::from_fn(|k| a[k] + s * (b[k] - a[k])))
}

/// Calls `blend(before, after, share of after)` for each wanted time; at a time that is given, the value itself.
fn sample<F: Copy>(values: &[F], times_s: &[f64], at_s: &[f64], blend: impl Fn(&F, &F, f32) -> F) -> Result<Vec<F>, Error> {
    let Some(&end) = values.last() else { return Err(Error::NoFrames) };
    Error::check_length("times", values.len(), times_s.len())?;
    check_times(times_s)?;
    check_times(at_s)?;
    let at = |&t: &f64| {
        let after = times_s.partition_point(|&time| time <= t);
        match after {
            0 => values[0],
            _ if after == values.len() => end,
            _ => {
                let (t0, t1) = (times_s[after - 1], times_s[after]);
                let s = ((t - t0) / (t1 - t0)) as f32;
                if s == 0.0 { values[after - 1] } else { blend(&values[after - 1], &values[after], s) }
            }
        }
    };
    Ok(at_s.iter().map(at).collect())
}

/// `a` at s = 0, `b` at s = 1.
fn mix(a: Keypoint, b: Keypoint, s: f32) -> Keypoint {
    let confidence = a.confidence + s * (b.confidence - a.confidence);
    match (a.is_missing(), b.is_missing()) {
        (true, false) => Keypoint { confidence, ..b },
        (false, true) => Keypoint { confidence, ..a },
        _ => Keypoint::new(a.x_px + s * (b.x_px - a.x_px), a.y_px + s * (b.y_px - a.y_px), confidence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageSize, JOINTS};
    use proptest::prelude::*;

    const IMAGE: ImageSize = ImageSize { width_px: 10, height_px: 10 };

    fn ramp(times_s: &[f64]) -> KeypointClip {
        let frame = |&t: &f64| [Keypoint::new(100.0 * t as f32, -50.0 * t as f32, 0.5); JOINTS];
        KeypointClip { frames: times_s.iter().map(frame).collect(), times_s: times_s.to_vec(), image: IMAGE }
    }

    #[test]
    fn a_straight_line_stays_one() {
        let given = ramp(&[1.0, 1.1, 1.35, 1.4, 1.9]);
        let even = clip(&given, 50.0).unwrap();
        assert_eq!(even.times_s.len(), 46);
        for (frame, t) in even.frames.iter().zip(&even.times_s) {
            assert!((frame[3].x_px - 100.0 * *t as f32).abs() < 1e-3);
            assert_eq!(frame[3].confidence, 0.5);
        }
        assert!(even.validate().is_ok());
    }

    #[test]
    fn the_same_rate_keeps_the_frames() {
        let given = ramp(&(0..300).map(|i| i as f64 / 50.0).collect::<Vec<_>>());
        let same = clip(&given, 50.0).unwrap();
        assert_eq!(same.frames.len(), 300);
        for (a, b) in same.frames.iter().zip(&given.frames) {
            assert!((a[0].x_px - b[0].x_px).abs() < 1e-3);
        }
    }

    #[test]
    fn a_missing_neighbour_leaves_the_other() {
        let (a, b) = (Keypoint::new(10.0, 20.0, 1.0), Keypoint::new(777.0, 777.0, 0.0));
        assert_eq!(mix(a, b, 0.25), Keypoint::new(10.0, 20.0, 0.75));
        assert_eq!(mix(b, a, 0.25), Keypoint::new(10.0, 20.0, 0.25));
    }

    #[test]
    fn one_frame_and_wrong_input() {
        let one = ramp(&[3.0]);
        assert_eq!(clip(&one, 50.0).unwrap(), one);
        assert!(matches!(uniform_times(&[0.0, 1e12], 50.0), Err(Error::TooLong { .. })));
        assert!(uniform_times(&[0.0, 1.0], 0.0).is_err());
        assert!(uniform_times(&[0.0, 1.0], f64::NAN).is_err());
        assert_eq!(uniform_times(&[], 50.0), Err(Error::NoFrames));
        assert!(uniform_times(&[1.0, 0.0], 50.0).is_err());
        assert!(poses(&[], &[], &[0.0]).is_err());
        assert!(path(&[[1.0], [2.0]], &[0.0], &[0.0]).is_err());
    }

    proptest! {
        #[test]
        fn to_a_model_and_back_is_close(fps in 10f64..120.0, n in 2usize..80) {
            let times_s: Vec<f64> = (0..n).map(|i| i as f64 / 30.0).collect();
            let values: Vec<[f32; 1]> = times_s.iter().map(|t| [(2.0 * *t) as f32]).collect();
            let even = uniform_times(&times_s, fps).unwrap();
            prop_assert!(*even.last().unwrap() >= times_s[n - 1] - 1e-3 / fps);
            let there = path(&values, &times_s, &even).unwrap();
            let back = path(&there, &even, &times_s).unwrap();
            // the last interval of the even times may hold the end
            for (a, b) in back.iter().zip(&values) {
                prop_assert!((a[0] - b[0]).abs() <= (2.0 / fps) as f32 + 1e-3);
            }
            for (i, &t) in times_s.iter().enumerate() {
                if t + 1.0 / fps < times_s[n - 1] {
                    prop_assert!((back[i][0] - values[i][0]).abs() < 1e-3);
                }
            }
        }
    }
}
