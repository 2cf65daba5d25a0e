//! From the detector's numbers to people.

use super::anchors::DETECTOR_SIZE_PX;
use super::roi::{Letterbox, Roi};

/// Numbers of one anchor: centre, size, and four keypoints, x and y each.
pub const VALUES_PER_ANCHOR: usize = 12;
/// A detection below this confidence is noise.
const MIN_SCORE: f32 = 0.5;
/// Boxes that overlap more (intersection over union) are of one person.
const MAX_OVERLAP: f32 = 0.3;

/// A person that the detector sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Confidence, 0..1.
    pub score: f32,
    /// Middle of the hips.
    pub hip_centre_px: [f32; 2],
    /// A point of the circle around the whole body, above the head.
    pub circle_point_px: [f32; 2],
}

impl Detection {
    /// The square to look for landmarks in.
    pub fn roi(&self) -> Roi {
        Roi::from_alignment_points(self.hip_centre_px, self.circle_point_px)
    }

    /// How prominent the person is: large and certain.
    pub fn prominence(&self) -> f32 {
        self.score * self.roi().size_px
    }
}

/// A box with its keypoints, in units of the detector's image.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    /// Left, top, right, bottom.
    corners: [f32; 4],
    hip_centre: [f32; 2],
    circle_point: [f32; 2],
}

/// People in the picture, the most certain first.
///
/// `boxes` is (anchors, 12) in pixels of the detector's image relative to the anchors, `scores` (anchors) are logits;
/// `view` is the part of the picture that the detector saw. Overlapping boxes are averaged by their scores (MediaPipe's
/// weighted non-maximum suppression).
pub fn decode(boxes: &[f32], scores: &[f32], anchors: &[[f32; 2]], view: &Letterbox) -> Vec<Detection> {
    let mut candidates: Vec<Candidate> = boxes
        .chunks_exact(VALUES_PER_ANCHOR)
        .zip(scores)
        .zip(anchors)
        .filter_map(|((values, &logit), &anchor)| candidate(values, logit, anchor))
        .collect();
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));

    let mut detections = Vec::new();
    while let Some(best) = candidates.first().copied() {
        // Every box overlaps itself, so each round removes at least the best one.
        let (same_person, others): (Vec<Candidate>, Vec<Candidate>) =
            candidates.iter().partition(|candidate| overlap(&best.corners, &candidate.corners) > MAX_OVERLAP);
        let weight: f32 = same_person.iter().map(|candidate| candidate.score).sum();
        let mean = |point: fn(&Candidate) -> [f32; 2]| {
            let sum = same_person.iter().fold([0.0; 2], |sum: [f32; 2], candidate| {
                let [x, y] = point(candidate);
                [sum[0] + candidate.score * x, sum[1] + candidate.score * y]
            });
            view.to_px(sum.map(|sum| sum / weight))
        };
        detections.push(Detection {
            score: best.score,
            hip_centre_px: mean(|candidate| candidate.hip_centre),
            circle_point_px: mean(|candidate| candidate.circle_point),
        });
        candidates = others;
    }
    detections
}

/// `None` for an anchor that sees nobody.
fn candidate(values: &[f32], logit: f32, anchor: [f32; 2]) -> Option<Candidate> {
    let score = 1.0 / (1.0 + (-logit).exp());
    if score.is_nan() || score <= MIN_SCORE || !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    let point = |i: usize| [0, 1].map(|axis| values[2 * i + axis] / DETECTOR_SIZE_PX as f32 + anchor[axis]);
    let centre = point(0);
    let half = [2, 3].map(|i| values[i] / 2.0 / DETECTOR_SIZE_PX as f32);
    let corners = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]];
    // Keypoints: hips' centre, point of the whole body's circle, and two of the upper body's that are not needed.
    (half[0] > 0.0 && half[1] > 0.0).then_some(Candidate { score, corners, hip_centre: point(2), circle_point: point(3) })
}

/// Intersection over union of two boxes that are not empty.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |c: &[f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let intersection = width * height;
    intersection / (area(a) + area(b) - intersection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::ImageSize;

    /// A box of 56 x 56 pixels around an anchor in the middle, moved by `shift_px`; the hips 20 px below it, the circle 40 px
    /// above it.
    fn values(shift_px: f32) -> [f32; VALUES_PER_ANCHOR] {
        [shift_px, 0.0, 56.0, 56.0, shift_px, 20.0, shift_px, -40.0, 0.0, 0.0, 0.0, 0.0]
    }

    fn run(candidates: &[(f32, f32)], view: &Letterbox) -> Vec<Detection> {
        let boxes: Vec<f32> = candidates.iter().flat_map(|&(shift, _)| values(shift)).collect();
        let scores: Vec<f32> = candidates.iter().map(|&(_, logit)| logit).collect();
        decode(&boxes, &scores, &vec![[0.5, 0.5]; candidates.len()], view)
    }

    #[test]
    fn keypoints_come_back_in_pixels_of_the_picture() {
        let view = Letterbox::whole(ImageSize { width_px: 448, height_px: 224 });
        let [person] = run(&[(10.0, 3.0), (0.0, -1.0)], &view)[..] else { panic!("one person") };
        // Two pixels of the picture for each of the detector's; 112 rows of bars above.
        assert!((person.hip_centre_px[0] - 244.0).abs() < 1e-3 && (person.hip_centre_px[1] - 152.0).abs() < 1e-3);
        assert!((person.circle_point_px[1] - 32.0).abs() < 1e-3);
        assert!((person.score - 0.95257).abs() < 1e-4);
        assert!((person.roi().size_px - 300.0).abs() < 1e-2);
    }

    #[test]
    fn boxes_of_one_person_are_averaged_and_others_stay() {
        let view = Letterbox { corner_px: [0.0, 0.0], size_px: 224.0 };
        let people = run(&[(0.0, 2.0), (80.0, 1.0), (6.0, 2.0)], &view);
        assert_eq!(people.len(), 2);
        // Equal scores: the mean of 0 and 6.
        assert!((people[0].hip_centre_px[0] - 115.0).abs() < 1e-3);
        assert!((people[1].hip_centre_px[0] - 192.0).abs() < 1e-3);
    }

    #[test]
    fn nonsense_numbers_are_nobody() {
        let view = Letterbox { corner_px: [0.0, 0.0], size_px: 224.0 };
        assert!(run(&[(f32::NAN, 5.0), (0.0, f32::NAN), (f32::INFINITY, 5.0)], &view).is_empty());
        assert!(run(&[], &view).is_empty());
    }
}
