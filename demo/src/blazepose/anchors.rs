//! The detector's anchors: the points that its boxes are measured from.

/// Side of the detector's input image.
pub const DETECTOR_SIZE_PX: usize = 224;
/// Stride in pixels of each of the five feature maps; consecutive maps of one stride share their grid.
const STRIDES_PX: [usize; 5] = [8, 16, 32, 32, 32];
/// Anchors of each map and grid cell.
const ANCHORS_PER_MAP: usize = 2;

/// Anchor centres in units of the input image (0..1), in the order of the detector's outputs: 2254 of them.
///
/// MediaPipe's `SsdAnchorsCalculator` with the options of its pose detector: fixed anchor size, offsets of half a cell.
pub fn centres() -> Vec<[f32; 2]> {
    let mut centres = Vec::new();
    for maps in STRIDES_PX.chunk_by(|a, b| a == b) {
        let grid = DETECTOR_SIZE_PX / maps[0];
        for row in 0..grid {
            for column in 0..grid {
                let centre = [(column as f32 + 0.5) / grid as f32, (row as f32 + 0.5) / grid as f32];
                centres.extend(std::iter::repeat_n(centre, ANCHORS_PER_MAP * maps.len()));
            }
        }
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_cover_the_image_in_the_detectors_order() {
        let centres = centres();
        // 28 x 28 cells of two, 14 x 14 of two, 7 x 7 of three maps with two each
        assert_eq!(centres.len(), 28 * 28 * 2 + 14 * 14 * 2 + 7 * 7 * 6);
        assert_eq!(centres[0], [0.5 / 28.0, 0.5 / 28.0]);
        assert_eq!(centres[1], centres[0]);
        assert_eq!(centres[2], [1.5 / 28.0, 0.5 / 28.0]);
        assert_eq!(centres[28 * 28 * 2], [0.5 / 14.0, 0.5 / 14.0]);
        assert_eq!(centres[2253], [6.5 / 7.0, 6.5 / 7.0]);
    }
}
