//! Pixels to a network's input and back: one place for training, export checks, clips and streams.

use crate::{Error, ImageSize, JOINTS, Keypoints17, Pose3, skeleton};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Keypoints at least this confident make the person's box. Below it a detector guesses, often far off.
pub const BOX_CONFIDENCE: f32 = 0.1;
/// The box around the person is enlarged by this factor.
pub const BOX_MARGIN: f32 = 1.1;
/// Smallest half size of a box, so that a person of one visible keypoint still has one.
pub const MIN_HALF_SIZE_PX: f32 = 1.0;

/// How pixels become a network's input; part of a model's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// By the picture: x / W * 2 - 1, y / W * 2 - H / W. The reference checkpoints use it.
    Frame,
    /// By the square box around the person's confident keypoints over the window, times [`BOX_MARGIN`]: the result does
    /// not depend on where and how large the person stands.
    PersonBox,
}

impl Normalisation {
    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::PersonBox => "person_box",
        }
    }

    /// The transform of one window.
    ///
    /// # Errors
    /// For [`Self::PersonBox`] as [`ImageTransform::person_box`].
    pub fn transform(self, window: &[Keypoints17], image: ImageSize) -> Result<ImageTransform, Error> {
        match self {
            Self::Frame => Ok(ImageTransform::frame(image)),
            Self::PersonBox => ImageTransform::person_box(window),
        }
    }
}

impl fmt::Display for Normalisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Normalisation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "frame" => Ok(Self::Frame),
            "person_box" => Ok(Self::PersonBox),
            _ => Err(Error::UnknownName { what: "normalisation", expected: "frame, person_box", found: name.to_owned() }),
        }
    }
}

/// Pixels <-> normalised image units: `x_n = (x_px - centre_px[0]) / half_size_px`, the same for y.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageTransform {
    /// The pixel that becomes (0, 0).
    pub centre_px: [f32; 2],
    /// Pixels to a normalised unit, above 0.
    pub half_size_px: f32,
}

impl ImageTransform {
    /// By the picture: x / W * 2 - 1, y / W * 2 - H / W, in another form.
    pub fn frame(image: ImageSize) -> Self {
        let (half_width_px, half_height_px) = (image.width_px as f32 / 2.0, image.height_px as f32 / 2.0);
        Self { centre_px: [half_width_px, half_height_px], half_size_px: half_width_px.max(MIN_HALF_SIZE_PX / 2.0) }
    }

    /// By the box around the keypoints of a whole window that are at least [`BOX_CONFIDENCE`] confident; where no keypoint
    /// is, around those that are there at all. Half the longer side, times [`BOX_MARGIN`].
    ///
    /// # Errors
    /// [`Error::NoConfidentKeypoint`] when every keypoint is missing.
    pub fn person_box(window: &[Keypoints17]) -> Result<Self, Error> {
        let (lo, hi) = bounds_px(window, BOX_CONFIDENCE)
            .or_else(|| bounds_px(window, f32::MIN_POSITIVE))
            .ok_or(Error::NoConfidentKeypoint { frames: window.len() })?;
        let half_size_px = BOX_MARGIN * ((hi[0] - lo[0]).max(hi[1] - lo[1]) / 2.0);
        Ok(Self { centre_px: [(lo[0] + hi[0]) / 2.0, (lo[1] + hi[1]) / 2.0], half_size_px: half_size_px.max(MIN_HALF_SIZE_PX) })
    }

    /// Pixel to normalised units.
    pub fn to_normalised(&self, [x_px, y_px]: [f32; 2]) -> [f32; 2] {
        [(x_px - self.centre_px[0]) / self.half_size_px, (y_px - self.centre_px[1]) / self.half_size_px]
    }

    /// Normalised units to pixel.
    pub fn to_px(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [x * self.half_size_px + self.centre_px[0], y * self.half_size_px + self.centre_px[1]]
    }
}

/// A box's centre moves at most so many half sizes a second in a stream, see [`BoxFollower`]. A runner who crosses the picture
/// makes two to three.
pub const BOX_SHIFT_PER_S: f64 = 4.0;
/// The logarithm of a box's size changes at most so much a second in a stream.
pub const BOX_GROWTH_PER_S: f64 = 1.5;

/// The box of a stream. It is the box that the stream's window asks for ([`ImageTransform::person_box`]), but drifts at most by
/// [`BOX_SHIFT_PER_S`] and [`BOX_GROWTH_PER_S`]: one keypoint far off does not throw the whole input about.
#[derive(Clone, Debug, Default)]
pub struct BoxFollower {
    current: Option<ImageTransform>,
}

impl BoxFollower {
    /// The box now: `target` itself where that is within reach after `elapsed_s` seconds, and always the first time.
    pub fn push(&mut self, target: ImageTransform, elapsed_s: f64) -> ImageTransform {
        let next = self.current.map_or(target, |current| toward(&current, target, elapsed_s.max(0.0)));
        self.current = Some(next);
        next
    }

    /// Forgets the box: the next one is taken as it is.
    pub fn reset(&mut self) {
        self.current = None;
    }
}

/// As far from `current` to `target` as the rates allow.
fn toward(current: &ImageTransform, target: ImageTransform, elapsed_s: f64) -> ImageTransform {
    let factor = (BOX_GROWTH_PER_S * elapsed_s).exp() as f32;
    let (smallest, largest) = (current.half_size_px / factor, current.half_size_px * factor);
    // a factor that overflows bounds nothing
    let half_size_px = if largest.is_finite() { target.half_size_px.clamp(smallest, largest) } else { target.half_size_px };
    let reach_px = BOX_SHIFT_PER_S * elapsed_s * f64::from(current.half_size_px);
    let shift_px = [0, 1].map(|k| f64::from(target.centre_px[k]) - f64::from(current.centre_px[k]));
    let distance_px = shift_px[0].hypot(shift_px[1]);
    let centre_px = match distance_px <= reach_px {
        true => target.centre_px,
        false => [0, 1].map(|k| (f64::from(current.centre_px[k]) + shift_px[k] * reach_px / distance_px) as f32),
    };
    ImageTransform { centre_px, half_size_px }
}

/// Corners (least, greatest) of the box around keypoints of at least this confidence.
fn bounds_px(window: &[Keypoints17], confidence: f32) -> Option<([f32; 2], [f32; 2])> {
    let confident = window.iter().flatten().filter(|k| k.confidence >= confidence);
    confident.map(|k| [k.x_px, k.y_px]).fold(None, |bounds, [x, y]| {
        let (lo, hi) = bounds.unwrap_or(([x, y], [x, y]));
        Some(([lo[0].min(x), lo[1].min(y)], [hi[0].max(x), hi[1].max(y)]))
    })
}

/// The input of a network for one window: (T, 17, `dim_in`) row-major; x and y normalised, then the confidence, which
/// `dim_in` 2 drops.
///
/// Positions are taken as they are, those of missing keypoints too: fill gaps first, see [`crate::fill`].
///
/// # Errors
/// [`Error::OutOfRange`] when `dim_in` is neither 2 nor 3.
pub fn network_input(frames: &[Keypoints17], transform: &ImageTransform, dim_in: usize) -> Result<Vec<f32>, Error> {
    if !matches!(dim_in, 2 | 3) {
        return Err(Error::out_of_range("input channels of the model", "2 (x, y) or 3 (x, y, confidence)", dim_in));
    }
    let mut input = Vec::with_capacity(frames.len() * JOINTS * dim_in);
    for keypoint in frames.as_flattened() {
        let [x, y] = transform.to_normalised([keypoint.x_px, keypoint.y_px]);
        input.extend_from_slice(&[x, y, keypoint.confidence][..dim_in]);
    }
    Ok(input)
}

/// The input of the mirrored picture: (T, 17, `dim_in`), x negated, left and right joints swapped. Its own inverse.
///
/// # Panics
/// When the length is no multiple of 17 * `dim_in`, or `dim_in` is 0.
pub fn flip_input(input: &[f32], dim_in: usize) -> Vec<f32> {
    assert_eq!(input.len() % (JOINTS * dim_in), 0, "input must be (T, 17, {dim_in})");
    let flip = skeleton::flip_index();
    let mut flipped = Vec::with_capacity(input.len());
    for frame in input.chunks_exact(JOINTS * dim_in) {
        for j in flip {
            let joint = &frame[j * dim_in..(j + 1) * dim_in];
            flipped.push(-joint[0]);
            flipped.extend_from_slice(&joint[1..]);
        }
    }
    flipped
}

/// What a network's output (T, 17, 3) on the mirrored picture says of the real one: x negated, left and right joints
/// swapped. Its own inverse.
///
/// # Panics
/// When the length is no multiple of 17 * 3.
pub fn flip_output(output: &[f32]) -> Vec<f32> {
    flip_input(output, 3)
}

/// [`flip_output`] of one pose.
pub fn flip_pose(pose: &Pose3) -> Pose3 {
    skeleton::flip_index().map(|j| [-pose[j][0], pose[j][1], pose[j][2]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Keypoint;
    use proptest::prelude::*;

    const IMAGE: ImageSize = ImageSize { width_px: 1000, height_px: 1002 };

    #[test]
    fn frame_is_the_formula_of_the_references() {
        let t = ImageTransform::frame(IMAGE);
        for [x, y] in [[0.0, 0.0], [1000.0, 1002.0], [123.4, 777.7]] {
            let expected = [x / 1000.0 * 2.0 - 1.0, y / 1000.0 * 2.0 - 1002.0 / 1000.0];
            let found = t.to_normalised([x, y]);
            assert!((found[0] - expected[0]).abs() < 1e-6 && (found[1] - expected[1]).abs() < 1e-6);
        }
    }

    #[test]
    fn person_box_looks_at_confident_keypoints_only() {
        let mut frame = [Keypoint::MISSING; JOINTS];
        frame[3] = Keypoint::new(100.0, 50.0, 0.9);
        frame[4] = Keypoint::new(140.0, 250.0, 0.5);
        frame[5] = Keypoint::new(9000.0, 9000.0, 0.05); // a guess
        frame[6] = Keypoint::new(-5000.0, 0.0, 0.0); // missing
        let t = ImageTransform::person_box(&[frame]).unwrap();
        assert_eq!(t, ImageTransform { centre_px: [120.0, 150.0], half_size_px: 110.0 });

        let mut guess = [Keypoint::MISSING; JOINTS];
        guess[5] = Keypoint::new(7.0, 8.0, 0.01);
        let t = ImageTransform::person_box(&[guess]).unwrap();
        assert_eq!(t, ImageTransform { centre_px: [7.0, 8.0], half_size_px: MIN_HALF_SIZE_PX });

        let missing = [[Keypoint::MISSING; JOINTS]; 2];
        assert_eq!(ImageTransform::person_box(&missing), Err(Error::NoConfidentKeypoint { frames: 2 }));
        assert_eq!(ImageTransform::person_box(&[]), Err(Error::NoConfidentKeypoint { frames: 0 }));
    }

    #[test]
    fn a_box_follows_at_a_bounded_rate() {
        let at = |x_px: f32, half_size_px: f32| ImageTransform { centre_px: [x_px, 0.0], half_size_px };
        let mut follower = BoxFollower::default();
        assert_eq!(follower.push(at(100.0, 50.0), 0.0), at(100.0, 50.0));
        assert_eq!(follower.push(at(105.0, 51.0), 1.0 / 30.0), at(105.0, 51.0), "within reach: as it is, bit for bit");
        // an outlier for one frame of 30
        let thrown = follower.push(at(5000.0, 2500.0), 1.0 / 30.0);
        assert!((thrown.centre_px[0] - 105.0 - 51.0 * 4.0 / 30.0).abs() < 0.01, "{thrown:?}");
        assert!((thrown.half_size_px - 51.0 * (1.5f32 / 30.0).exp()).abs() < 0.01, "{thrown:?}");
        // and given time, it arrives
        for _ in 0..1000 {
            follower.push(at(-700.0, 10.0), 1.0 / 30.0);
        }
        assert_eq!(follower.push(at(-700.0, 10.0), 1.0 / 30.0), at(-700.0, 10.0));
        assert_eq!(follower.push(at(9.0, 9.0), f64::INFINITY), at(9.0, 9.0));
        follower.reset();
        assert_eq!(follower.push(at(1.0, 1.0), 0.0), at(1.0, 1.0));
    }

    #[test]
    fn names_are_read_back() {
        for n in [Normalisation::Frame, Normalisation::PersonBox] {
            assert_eq!(n.to_string().parse(), Ok(n));
            assert_eq!(serde_json::to_string(&n).unwrap(), format!("\"{n}\""));
        }
        assert!("unit".parse::<Normalisation>().is_err());
    }

    #[test]
    fn network_input_has_the_channels_asked_for() {
        let frame: Keypoints17 = std::array::from_fn(|j| Keypoint::new(j as f32, 2.0 * j as f32, 0.25));
        let t = ImageTransform { centre_px: [1.0, 1.0], half_size_px: 2.0 };
        let three = network_input(&[frame, frame], &t, 3).unwrap();
        let two = network_input(&[frame, frame], &t, 2).unwrap();
        assert_eq!((three.len(), two.len()), (2 * 17 * 3, 2 * 17 * 2));
        assert_eq!(three[17 * 3 + 3 * 5..][..3], [2.0, 4.5, 0.25]);
        assert_eq!(two[17 * 2 + 2 * 5..][..2], [2.0, 4.5]);
        assert!(network_input(&[frame], &t, 4).is_err());
    }

    fn keypoints() -> impl Strategy<Value = Keypoints17> {
        prop::collection::vec((-500f32..1500.0, -500f32..1500.0, 0f32..=1.0), JOINTS)
            .prop_map(|v| std::array::from_fn(|j| Keypoint::new(v[j].0, v[j].1, v[j].2)))
    }

    proptest! {
        #[test]
        fn to_px_inverts_to_normalised(frame in keypoints(), x in -2000f32..2000.0, y in -2000f32..2000.0) {
            for t in [ImageTransform::frame(IMAGE), ImageTransform::person_box(&[frame]).unwrap()] {
                let [u, v] = t.to_px(t.to_normalised([x, y]));
                prop_assert!((u - x).abs() < 1e-2 && (v - y).abs() < 1e-2);
            }
        }

        #[test]
        fn confident_keypoints_lie_within_the_box(frames in prop::collection::vec(keypoints(), 1..5)) {
            let t = ImageTransform::person_box(&frames).unwrap();
            for k in frames.iter().flatten().filter(|k| k.confidence >= BOX_CONFIDENCE) {
                let [x, y] = t.to_normalised([k.x_px, k.y_px]);
                prop_assert!(x.abs() <= 1.0 / BOX_MARGIN + 1e-4 && y.abs() <= 1.0 / BOX_MARGIN + 1e-4);
            }
        }

        #[test]
        fn the_box_follows_the_person(frame in keypoints(), dx in -300f32..300.0, scale in 0.5f32..2.0) {
            let moved = frame.map(|k| Keypoint::new(k.x_px * scale + dx, k.y_px * scale, k.confidence));
            let input = |frame| network_input(&[frame], &ImageTransform::person_box(&[frame]).unwrap(), 3).unwrap();
            for (a, b) in input(frame).iter().zip(&input(moved)) {
                prop_assert!((a - b).abs() < 1e-2, "{a} {b}");
            }
        }

        #[test]
        fn flips_undo_themselves(frames in prop::collection::vec(keypoints(), 1..4), dim_in in 2usize..=3) {
            let input = network_input(&frames, &ImageTransform::frame(IMAGE), dim_in).unwrap();
            let flipped = flip_input(&input, dim_in);
            prop_assert_eq!(&flip_input(&flipped, dim_in), &input);
            prop_assert_eq!(flipped[4 * dim_in], -input[dim_in]); // the left hip is the right hip's mirror image
        }
    }

    #[test]
    fn flip_of_a_pose_is_flip_of_its_values() {
        let pose: Pose3 = std::array::from_fn(|j| [j as f32, 100.0 + j as f32, 200.0 + j as f32]);
        assert_eq!(flip_output(&crate::values_from_poses(&[pose])), crate::values_from_poses(&[flip_pose(&pose)]));
        assert_eq!(flip_pose(&flip_pose(&pose)), pose);
    }
}
