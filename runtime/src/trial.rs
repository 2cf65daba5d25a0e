//! Somebody to try a model on where nobody is filmed: benchmarks, soaks, a server that asks whether its engine still works.

use pose::{ImageSize, JOINTS, Keypoint, Keypoints17};

/// Size of the picture that [`walker`] is in.
pub const IMAGE: ImageSize = ImageSize { width_px: 1280, height_px: 720 };

/// Someone who walks on the spot in the middle of [`IMAGE`], `phase` radians into the step at time 0.
pub fn walker(time_s: f64, phase: f64) -> Keypoints17 {
    // offsets from the pelvis as shares of the height, and how far each joint swings; Human3.6M order
    const AT: [[f32; 3]; JOINTS] = [
        [0.0, 0.0, 0.0],
        [-0.06, 0.0, 0.0],
        [-0.06, 0.24, 0.04],
        [-0.07, 0.48, 0.09],
        [0.06, 0.0, 0.0],
        [0.06, 0.24, -0.04],
        [0.07, 0.48, -0.09],
        [0.0, -0.13, 0.0],
        [0.0, -0.28, 0.0],
        [0.0, -0.34, 0.0],
        [0.0, -0.42, 0.0],
        [0.1, -0.27, 0.0],
        [0.14, -0.12, 0.03],
        [0.15, 0.02, 0.08],
        [-0.1, -0.27, 0.0],
        [-0.14, -0.12, -0.03],
        [-0.15, 0.02, -0.08],
    ];
    let phase = (5.6 * time_s + phase) as f32;
    AT.map(|[x, y, swing]| Keypoint::new(640.0 + 500.0 * (x + swing * phase.sin()), 360.0 + 500.0 * y + 8.0 * (2.0 * phase).sin(), 0.9))
}
