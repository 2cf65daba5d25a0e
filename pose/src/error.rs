//! The one error type of this crate.

/// What can be wrong with data handed to this crate. Each message is one sentence: what was expected, what was found,
/// what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A clip, window or path of length zero.
    #[error("the clip has no frames: give at least one")]
    NoFrames,
    /// A lifter put all joints on one point.
    #[error("the lifted body has no size: expected bones with a length, found all joints on one point; is the model trained?")]
    NoSize,
    /// No keypoint of a window can be used.
    #[error("no keypoint is confident in any of the {frames} frames: is there a person in the picture?")]
    NoConfidentKeypoint {
        /// Frames that were looked at.
        frames: usize,
    },
    /// An array of the wrong size.
    #[error("{what}: expected {expected} values, found {found}")]
    WrongShape {
        /// Which array.
        what: &'static str,
        /// Its size, in words.
        expected: &'static str,
        /// The size found.
        found: usize,
    },
    /// Two sequences that go together differ in length.
    #[error("{what}: expected one for each of the {expected} frames, found {found}")]
    WrongLength {
        /// Which sequence.
        what: &'static str,
        /// Number of frames.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// A person with another number of joints than the skeleton that was named.
    #[error("expected {expected} keypoints for {skeleton}, found {found}: name the skeleton that the file has")]
    WrongJointCount {
        /// The skeleton's name.
        skeleton: &'static str,
        /// Its number of joints.
        expected: usize,
        /// Number found.
        found: usize,
    },
    /// A coordinate or confidence that is NaN, infinite or absurd.
    #[error(
        "frame {frame}, keypoint {joint}: expected finite pixels within ±1000000 and a confidence from 0 to 1, found x {x_px}, y {y_px}, confidence {confidence}; \
         mark a missing keypoint by confidence 0"
    )]
    BadKeypoint {
        /// Index of the frame.
        frame: usize,
        /// Index of the joint.
        joint: usize,
        /// Its x.
        x_px: f32,
        /// Its y.
        y_px: f32,
        /// Its confidence.
        confidence: f32,
    },
    /// Times that are not finite or do not rise.
    #[error("frame {frame}: expected a finite time after {before_s} s, found {found_s} s; times must rise")]
    BadTime {
        /// Index of the frame.
        frame: usize,
        /// Time of the frame before; minus infinity for the first.
        before_s: f64,
        /// The time found.
        found_s: f64,
    },
    /// An image without pixels.
    #[error("expected an image of at least 1 x 1 pixel, found {width_px} x {height_px}")]
    BadImage {
        /// Its width.
        width_px: u32,
        /// Its height.
        height_px: u32,
    },
    /// A setting outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    OutOfRange {
        /// Which setting.
        what: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value found.
        found: String,
    },
    /// A name that is not one of a list.
    #[error("unknown {what} '{found}': expected one of {expected}")]
    UnknownName {
        /// What kind of name.
        what: &'static str,
        /// The names that exist.
        expected: &'static str,
        /// The name found.
        found: String,
    },
    /// Resampling would make more frames than any real clip has.
    #[error("{seconds} s at {fps} frames a second are more than {limit} frames: check the times of the clip")]
    TooLong {
        /// Duration of the clip.
        seconds: f64,
        /// Wanted rate.
        fps: f64,
        /// Largest number of frames.
        limit: usize,
    },
    /// A window's prediction is not a number.
    #[error("frame {frame}, joint {joint}: expected 3D values from the model that are finite and within ±1000000, found {values:?}")]
    BadPose {
        /// Index of the frame.
        frame: usize,
        /// Index of the joint.
        joint: usize,
        /// Its values.
        values: [f32; 3],
    },
}

impl Error {
    pub(crate) fn out_of_range(what: &'static str, expected: &'static str, found: impl ToString) -> Self {
        Self::OutOfRange { what, expected, found: found.to_string() }
    }

    /// `Ok` when `found == expected`.
    pub(crate) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::WrongLength { what, expected, found }) }
    }
}
