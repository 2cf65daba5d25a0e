//! From the landmark network's numbers to points of the picture.

use super::roi::Roi;

/// Side of the landmark network's input image.
pub const CROP_SIZE_PX: usize = 256;
/// Landmarks of the body; six more follow, of which two say where the person is.
pub const BODY_LANDMARKS: usize = 33;
/// All landmarks of the network.
pub const ALL_LANDMARKS: usize = 39;
/// Numbers of each landmark: x, y, z in pixels of the crop, then the logits of visibility and presence.
pub const VALUES_PER_LANDMARK: usize = 5;
/// Side of the heatmaps.
pub const HEATMAP_SIZE: usize = 64;
/// The auxiliary landmarks that span the next region: middle of the hips, point of the whole body's circle.
const HIP_CENTRE: usize = 33;
const CIRCLE_POINT: usize = 34;
/// `RefineLandmarksFromHeatmapCalculator` looks this far around a landmark (kernel of 7) ...
const REFINE_RADIUS: usize = 3;
/// ... and leaves it alone where the heatmap is less certain than this.
const REFINE_MIN_CONFIDENCE: f32 = 0.5;

/// One landmark of the body.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Landmark {
    /// Pixels to the right.
    pub x_px: f32,
    /// Pixels down.
    pub y_px: f32,
    /// Probability that it is in the picture and not hidden, 0..1.
    pub visibility: f32,
    /// Probability that it is in the picture, 0..1.
    pub presence: f32,
}

/// A person in one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// The 33 landmarks of BlazePose.
    pub landmarks: [Landmark; BODY_LANDMARKS],
    /// The network's own 3D guess: metres around the middle of the hips, x right, y down, z away, not turned with the crop.
    pub world_m: [[f32; 3]; BODY_LANDMARKS],
    /// Confidence that the crop holds a person, 0..1.
    pub score: f32,
    /// Where to look for the same person in the next frame.
    pub next_roi: Roi,
}

/// The network's outputs, each in its own layout.
pub struct Outputs<'a> {
    /// (39, 5)
    pub landmarks: &'a [f32],
    /// (39, 3), metres
    pub world: &'a [f32],
    /// (64, 64, 39), logits
    pub heatmap: &'a [f32],
    /// Probability of a person.
    pub score: f32,
}

/// `None` when the numbers are not finite, so no person.
pub fn decode(outputs: &Outputs<'_>, roi: &Roi) -> Option<Person> {
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if !finite(outputs.landmarks) || !finite(outputs.world) || !finite(&[outputs.score]) {
        return None;
    }
    let crop_point = |i: usize| {
        let values = &outputs.landmarks[i * VALUES_PER_LANDMARK..][..2];
        let point = [values[0] / CROP_SIZE_PX as f32, values[1] / CROP_SIZE_PX as f32];
        refine(outputs.heatmap, i, point)
    };
    let landmarks = std::array::from_fn(|i| {
        let values = &outputs.landmarks[i * VALUES_PER_LANDMARK..][..VALUES_PER_LANDMARK];
        let [x_px, y_px] = roi.to_px(crop_point(i));
        Landmark { x_px, y_px, visibility: sigmoid(values[3]), presence: sigmoid(values[4]) }
    });
    let (sin, cos) = roi.angle_rad.sin_cos();
    let world_m = std::array::from_fn(|i| {
        let [x, y, z] = [outputs.world[3 * i], outputs.world[3 * i + 1], outputs.world[3 * i + 2]];
        [x * cos - y * sin, x * sin + y * cos, z]
    });
    let next_roi = Roi::from_alignment_points(roi.to_px(crop_point(HIP_CENTRE)), roi.to_px(crop_point(CIRCLE_POINT)));
    Some(Person { landmarks, world_m, score: outputs.score, next_roi })
}

/// Moves a landmark (in units of the crop) to the centre of mass of its heatmap around it.
fn refine(heatmap: &[f32], landmark: usize, [u, v]: [f32; 2]) -> [f32; 2] {
    let inside = |value: f32| (0.0..1.0).contains(&value).then_some((value * HEATMAP_SIZE as f32) as usize);
    let (Some(column), Some(row)) = (inside(u), inside(v)) else { return [u, v] };
    let around = |cell: usize| cell.saturating_sub(REFINE_RADIUS)..(cell + REFINE_RADIUS + 1).min(HEATMAP_SIZE);
    let (mut sum, mut sum_x, mut sum_y, mut highest) = (0.0, 0.0, 0.0, 0.0f32);
    for y in around(row) {
        for x in around(column) {
            let confidence = sigmoid(heatmap[(y * HEATMAP_SIZE + x) * ALL_LANDMARKS + landmark]);
            highest = highest.max(confidence);
            sum += confidence;
            sum_x += confidence * x as f32;
            sum_y += confidence * y as f32;
        }
    }
    if highest < REFINE_MIN_CONFIDENCE {
        return [u, v];
    }
    [sum_x / sum / HEATMAP_SIZE as f32, sum_y / sum / HEATMAP_SIZE as f32]
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROI: Roi = Roi { centre_px: [300.0, 200.0], size_px: 256.0, angle_rad: 0.0 };

    fn outputs<'a>(landmarks: &'a [f32], world: &'a [f32], heatmap: &'a [f32]) -> Outputs<'a> {
        Outputs { landmarks, world, heatmap, score: 0.9 }
    }

    fn upright() -> Vec<f32> {
        let mut values = vec![128.0; ALL_LANDMARKS * VALUES_PER_LANDMARK];
        // The circle's point straight above the hips.
        values[CIRCLE_POINT * VALUES_PER_LANDMARK + 1] = 28.0;
        values
    }

    #[test]
    fn landmarks_come_back_in_pixels_of_the_picture() {
        let mut landmarks = upright();
        landmarks[..5].copy_from_slice(&[28.0, 228.0, 0.0, 0.0, 20.0]);
        let (world, heatmap) = (vec![0.0; ALL_LANDMARKS * 3], vec![-20.0; HEATMAP_SIZE * HEATMAP_SIZE * ALL_LANDMARKS]);
        let person = decode(&outputs(&landmarks, &world, &heatmap), &ROI).expect("a person");
        let nose = person.landmarks[0];
        assert!((nose.x_px - 200.0).abs() < 1e-3 && (nose.y_px - 300.0).abs() < 1e-3);
        assert_eq!(nose.visibility, 0.5);
        assert!((person.next_roi.size_px - 250.0).abs() < 1e-3);
        assert!(person.next_roi.angle_rad.abs() < 1e-6);
    }

    #[test]
    fn a_certain_heatmap_moves_a_landmark() {
        let mut heatmap = vec![-20.0; HEATMAP_SIZE * HEATMAP_SIZE * ALL_LANDMARKS];
        // Landmark 7 says cell (32, 32); its heatmap says (34, 31).
        heatmap[(31 * HEATMAP_SIZE + 34) * ALL_LANDMARKS + 7] = 20.0;
        let [u, v] = refine(&heatmap, 7, [0.505, 0.505]);
        assert!((u - 34.0 / 64.0).abs() < 1e-4 && (v - 31.0 / 64.0).abs() < 1e-4);
        // The neighbour's heatmap is uncertain: it stays. Outside the crop there is no heatmap.
        assert_eq!(refine(&heatmap, 8, [0.505, 0.505]), [0.505, 0.505]);
        assert_eq!(refine(&heatmap, 7, [1.2, -0.1]), [1.2, -0.1]);
    }

    #[test]
    fn a_turned_crop_turns_the_world_landmarks() {
        let roi = Roi { angle_rad: std::f32::consts::FRAC_PI_2, ..ROI };
        let mut world = vec![0.0; ALL_LANDMARKS * 3];
        world[..3].copy_from_slice(&[0.0, -1.0, 0.5]); // above in the crop
        let heatmap = vec![-20.0; HEATMAP_SIZE * HEATMAP_SIZE * ALL_LANDMARKS];
        let person = decode(&outputs(&upright(), &world, &heatmap), &roi).expect("a person");
        let [x, y, z] = person.world_m[0];
        assert!((x - 1.0).abs() < 1e-6 && y.abs() < 1e-6 && z == 0.5, "to the right in the picture: {x} {y}");
    }

    #[test]
    fn nonsense_numbers_are_nobody() {
        let mut landmarks = upright();
        landmarks[17] = f32::NAN;
        let (world, heatmap) = (vec![0.0; ALL_LANDMARKS * 3], vec![0.0; HEATMAP_SIZE * HEATMAP_SIZE * ALL_LANDMARKS]);
        assert_eq!(decode(&outputs(&landmarks, &world, &heatmap), &ROI), None);
    }
}
