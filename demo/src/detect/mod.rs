//! What every 2D detector gives, whatever network is behind it; and [`open`], which makes one of the user's own ONNX file.

mod args;
mod decode;
mod error;
mod finder;
mod graph;
pub mod kind;
mod own;
mod view;

use opencv::core::Mat;
use pose::Keypoint;
use pose::joint_map::Source;

pub use args::{Choice, DetectorArgs};
pub use error::Error;
pub use own::{Options, open};

/// An upright box, pixels of the upright frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxPx {
    /// Left edge.
    pub left: f32,
    /// Upper edge.
    pub top: f32,
    /// Width, positive.
    pub width: f32,
    /// Height, positive.
    pub height: f32,
}

/// Where the tracker expects someone it knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// The track, never used again for somebody else.
    pub id: u64,
    /// Around the body, as far as it can be told before the frame is looked at.
    pub box_px: BoxPx,
}

/// Someone in a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Detected {
    /// In the order of [`Detector::joints`], pixels.
    pub keypoints: Vec<Keypoint>,
    /// Around the body.
    pub box_px: BoxPx,
    /// How sure the detector is that this is a person, 0..1.
    pub score: f32,
    /// The expected person on whose place this one was found, if the detector looked there; the tracker decides who it is.
    pub found_for: Option<u64>,
}

/// Finds the people of a frame.
pub trait Detector: Send {
    /// For results, such as `blazepose-heavy`.
    fn name(&self) -> String;

    /// The skeleton of its keypoints.
    fn joints(&self) -> Source;

    /// Everyone in an upright BGR frame; frames come in the order of their times. Networks that look at one person at a time
    /// look where `expected` says, and search the rest of the frame in their own rhythm. At most `most` people, the most prominent ones.
    ///
    /// # Errors
    /// A failure of the engine or of OpenCV, in one sentence.
    fn detect(&mut self, frame: &Mat, time_s: f64, expected: &[Expected], most: usize) -> anyhow::Result<Vec<Detected>>;
}
