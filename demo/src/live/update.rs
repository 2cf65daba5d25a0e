//! What a live session says about each frame.

use pose::camera::{Extrinsics, Intrinsics};
use pose::world::ScaleSource;
use pose::{ImageSize, JOINTS, Pose3};
use serde::Serialize;

/// Everyone in one frame. Written as JSON: a line of `--ndjson`, a message of the page's WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LiveUpdate {
    /// When the frame was taken, seconds since the first one.
    pub time_s: f64,
    /// How long it took, from the moment the frame arrived.
    pub delay_ms: Delay,
    /// Frames so far that came while others were worked on, and were passed over.
    pub dropped: u64,
    /// Updates a second, of late.
    pub fps: f32,
    /// Size of the frame.
    pub image: Image,
    /// Those in sight, by their ids.
    pub people: Vec<LivePerson>,
    /// The camera's place in the world that everybody stands in, as known by now.
    pub world_from_camera: Extrinsics,
    /// The camera: given, or assumed.
    pub intrinsics: Intrinsics,
    /// How far the smoothing filter lags behind the motion at its present speed; 0 without a filter. It is no part of `delay_ms`.
    pub lag_ms: f32,
}

/// Parts of the delay, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Delay {
    /// The 2D detector and the tracker at work on the frame.
    pub detect: f32,
    /// The lifter at work on it.
    pub lift: f32,
    /// From the frame's arrival to this update: waiting for its turn and for look-ahead included.
    pub total: f32,
}

/// Size of a picture in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Image {
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

impl From<ImageSize> for Image {
    fn from(image: ImageSize) -> Self {
        Self { width: image.width_px, height: image.height_px }
    }
}

/// One person of a frame.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LivePerson {
    /// Counted from 1 in the order of first appearance, never used for anybody else.
    pub id: u64,
    /// 2D keypoints in the order of Human3.6M's joints; of a person who is `held`, the last ones.
    pub keypoints_px: [[f32; 2]; JOINTS],
    /// Their confidence, 0..=1; 0 = not seen.
    pub confidence: [f32; JOINTS],
    /// Joints in the world (z up, floor at 0), millimetres.
    pub world_mm: Pose3,
    /// Not seen in this frame: the pose is held.
    pub held: bool,
    /// Stature at the scale that was given or assumed, metres.
    pub height_m: f32,
    /// What the millimetres rest on.
    pub scale_source: ScaleSource,
}
