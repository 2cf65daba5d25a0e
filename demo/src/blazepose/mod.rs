//! BlazePose: where people are (the detector), and where their 33 landmarks are (the landmark network).
//!
//! The pipeline of MediaPipe's pose solution, on the same networks converted to ONNX: the detector finds the middle of
//! the hips and a circle around the body; a square turned with the person is cut out and handed to the landmark network,
//! whose heatmaps refine its landmarks; two auxiliary landmarks say where to look in the next frame.

mod anchors;
mod detection;
mod detector;
mod landmarks;
mod networks;
mod roi;

pub use detection::Detection;
pub use detector::BlazePose;
pub use landmarks::{BODY_LANDMARKS, Landmark, Person};
pub use networks::{Error, Networks, NetworksOptions, Quality, image_size};
pub use roi::{Letterbox, Roi};
