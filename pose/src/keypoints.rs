//! 2D keypoints of one person over time.

use crate::{Error, JOINTS};
use serde::{Deserialize, Serialize};

/// A keypoint farther out than this is refused: no detector means it, and its squares would overflow.
pub const MAX_COORDINATE_PX: f32 = 1e6;

/// One keypoint of one frame: pixels (x right, y down, origin at the top left corner) and confidence in 0..=1; 0 = missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Keypoint {
    /// Pixels to the right.
    pub x_px: f32,
    /// Pixels down.
    pub y_px: f32,
    /// 0 = missing, then the position means nothing; 1 = certain.
    pub confidence: f32,
}

impl Keypoint {
    /// A missing keypoint.
    pub const MISSING: Self = Self { x_px: 0.0, y_px: 0.0, confidence: 0.0 };

    /// Keypoint at a pixel.
    pub const fn new(x_px: f32, y_px: f32, confidence: f32) -> Self {
        Self { x_px, y_px, confidence }
    }

    /// Whether the detector gave no position.
    pub fn is_missing(&self) -> bool {
        self.confidence <= 0.0
    }

    /// Finite, within [`MAX_COORDINATE_PX`], and with a confidence in 0..=1.
    pub fn is_valid(&self) -> bool {
        // NaN fails each comparison
        self.x_px.abs() <= MAX_COORDINATE_PX && self.y_px.abs() <= MAX_COORDINATE_PX && (0.0..=1.0).contains(&self.confidence)
    }

    pub(crate) fn check(&self, frame: usize, joint: usize) -> Result<(), Error> {
        if self.is_valid() {
            return Ok(());
        }
        Err(Error::BadKeypoint { frame, joint, x_px: self.x_px, y_px: self.y_px, confidence: self.confidence })
    }
}

/// The 17 keypoints of one person in one frame, in the order of [`crate::skeleton::NAMES`].
pub type Keypoints17 = [Keypoint; JOINTS];

/// Size of the picture that keypoints are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSize {
    /// Width in pixels.
    pub width_px: u32,
    /// Height in pixels.
    pub height_px: u32,
}

/// One person over the frames of a clip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeypointClip {
    /// One set of keypoints for each frame.
    pub frames: Vec<Keypoints17>,
    /// Time of each frame in seconds, rising.
    pub times_s: Vec<f64>,
    /// Size of the picture.
    pub image: ImageSize,
}

impl KeypointClip {
    /// A clip at a constant rate, the first frame at 0 s.
    ///
    /// # Errors
    /// As [`Self::validate`], and [`Error::OutOfRange`] for a rate that is not above 0.
    pub fn from_fps(frames: Vec<Keypoints17>, fps: f64, image: ImageSize) -> Result<Self, Error> {
        if !(fps.is_finite() && fps > 0.0) {
            return Err(Error::out_of_range("frames a second", "a number above 0", fps));
        }
        let times_s = (0..frames.len()).map(|i| i as f64 / fps).collect();
        let clip = Self { frames, times_s, image };
        clip.validate()?;
        Ok(clip)
    }

    /// Refuses what nothing sensible can be computed from.
    ///
    /// # Errors
    /// No frames, another number of times than of frames, times that are not finite or do not rise, an image without
    /// pixels, a coordinate that is not finite or beyond [`MAX_COORDINATE_PX`], a confidence outside 0..=1.
    pub fn validate(&self) -> Result<(), Error> {
        if self.frames.is_empty() {
            return Err(Error::NoFrames);
        }
        Error::check_length("times", self.frames.len(), self.times_s.len())?;
        let ImageSize { width_px, height_px } = self.image;
        if width_px == 0 || height_px == 0 {
            return Err(Error::BadImage { width_px, height_px });
        }
        check_times(&self.times_s)?;
        for (frame, keypoints) in self.frames.iter().enumerate() {
            for (joint, keypoint) in keypoints.iter().enumerate() {
                keypoint.check(frame, joint)?;
            }
        }
        Ok(())
    }

    /// Mean frames a second; `None` for a clip of one frame.
    pub fn fps(&self) -> Option<f64> {
        let (first, last) = (self.times_s.first()?, self.times_s.last()?);
        (last > first).then(|| (self.times_s.len() - 1) as f64 / (last - first))
    }
}

/// Times must be finite and rise.
pub(crate) fn check_times(times_s: &[f64]) -> Result<(), Error> {
    let mut before_s = f64::NEG_INFINITY;
    for (frame, &found_s) in times_s.iter().enumerate() {
        if !(found_s.is_finite() && found_s > before_s) {
            return Err(Error::BadTime { frame, before_s, found_s });
        }
        before_s = found_s;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip() -> KeypointClip {
        let frames = vec![[Keypoint::new(1.0, 2.0, 1.0); JOINTS]; 3];
        KeypointClip::from_fps(frames, 50.0, ImageSize { width_px: 640, height_px: 480 }).unwrap()
    }

    #[test]
    fn a_good_clip_passes_and_knows_its_rate() {
        assert_eq!(clip().validate(), Ok(()));
        assert!((clip().fps().unwrap() - 50.0).abs() < 1e-9);
    }

    #[test]
    fn bad_clips_are_refused() {
        type Spoil = fn(&mut KeypointClip);
        let cases: [(Spoil, &str); 9] = [
            (|c| c.frames.clear(), "no frames"),
            (|c| c.times_s.truncate(2), "times: expected one for each of the 3 frames, found 2"),
            (|c| c.times_s[2] = c.times_s[1], "frame 2: expected a finite time after 0.02 s, found 0.02 s"),
            (|c| c.times_s[0] = f64::NAN, "frame 0"),
            (|c| c.image.width_px = 0, "found 0 x 480"),
            (|c| c.frames[1][4].x_px = f32::NAN, "frame 1, keypoint 4"),
            (|c| c.frames[1][4].y_px = f32::INFINITY, "frame 1, keypoint 4"),
            (|c| c.frames[2][0].confidence = 1.5, "confidence 1.5"),
            (|c| c.frames[2][0].x_px = 1e30, "frame 2, keypoint 0"),
        ];
        for (spoil, expected) in cases {
            let mut c = clip();
            spoil(&mut c);
            let message = c.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message} lacks {expected}");
            assert!(!message.contains('\n'));
        }
        assert!(KeypointClip::from_fps(clip().frames, 0.0, clip().image).is_err());
    }
}
